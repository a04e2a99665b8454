"""How OM-Net is trained (Zhou et al., IEEE TIP 2020): nested tasks, their patch pools, the transfer between them."""
