"""DoDNet: a dynamic head on the published U-Net (Zhang, Xie, Xia, Shen, CVPR 2021)."""
