"""Networks: a stock nnU-Net U-Net whose skips are gated by the task."""
