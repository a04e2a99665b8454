"""Data sets that are written, not found: images of a known anatomy, with labels and answers."""
