"""One published variant per file; composition only."""
