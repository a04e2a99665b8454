"""Losses that read only what was annotated."""
