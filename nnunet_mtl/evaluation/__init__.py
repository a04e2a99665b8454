"""Scores of predictions against fully annotated references."""
