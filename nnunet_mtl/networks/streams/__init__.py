"""A stream of features for each task: HPS, MTAN (Liu, Johns, Davison, CVPR 2019) and CTAN-style."""
