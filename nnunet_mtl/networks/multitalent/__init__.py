"""MultiTalent: losses summed over annotated regions (Ulrich et al., MICCAI 2023)."""
