"""OM-Net: nested tasks that guide one another (Zhou et al., IEEE TIP 2020)."""
