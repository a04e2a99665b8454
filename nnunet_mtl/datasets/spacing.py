"""The spacing of slices, to which nnU-Net's readers add a third axis."""

from collections.abc import Sequence

import numpy as np

# nnU-Net's readers set the thickness of a 2D image to this multiple of the larger pixel edge.
_NO_THICKNESS = 999


def with_thickness(spacing_mm: Sequence[float]) -> tuple[float, ...]:
    """Return the spacing of an image in mm, (Z, Y, X); a slice without thickness becomes 1 mm thick.

    Args:
        spacing_mm: Spacing from nnU-Net's reader, (Z, Y, X).
    """
    thickness, *edges = (float(edge) for edge in spacing_mm)
    if np.isclose(thickness, _NO_THICKNESS * max(edges)):
        thickness = 1.0
    return (thickness, *edges)
