"""Prediction with an image-level answer: from the answers of single patches to one probability per case and class."""
