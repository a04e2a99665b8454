"""What is wrong with an installation or a data set, and what to do about it: `nnunet_mtl doctor`."""
