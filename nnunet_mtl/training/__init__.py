"""The trainer: what is overridden in nnU-Net's training, and the parts it is composed of."""
