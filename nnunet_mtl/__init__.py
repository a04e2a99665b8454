"""Multi-task learning inside nnU-Net v2: partially labelled segmentation with task-guided attention.

Letters used in every docstring of the package: `B` batch, `C` channels, `R` regions (output channels), `K` tasks,
`S` slots (channels of a shared head), `*spatial` = `(Y, X)` or `(Z, Y, X)`.
"""

__version__ = "0.1.0"
