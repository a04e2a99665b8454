"""What an evaluation writes for a reader: result tables, plots and overlays."""
