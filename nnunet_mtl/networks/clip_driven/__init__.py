"""CLIP-driven heads: weights computed from an embedding of each region (Liu et al., ICCV 2023)."""
