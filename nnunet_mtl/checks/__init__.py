"""Checks of an installation and of data sets, with a remedy for every fault: `nnunet_mtl doctor`."""
