"""Runs: their metrics over all cases, paired tests between runs, rankings, and the multi-task gain."""
