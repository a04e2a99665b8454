"""How much a linear probe on the frozen features of a trained network, stock or ours, tells of the whole image."""
