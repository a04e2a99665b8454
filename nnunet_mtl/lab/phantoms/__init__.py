"""Synthetic data sets: images of a known anatomy, with labels and answers."""
