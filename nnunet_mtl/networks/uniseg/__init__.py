"""UniSeg: a prompt for every task at the bottleneck (Ye et al., MICCAI 2023)."""
