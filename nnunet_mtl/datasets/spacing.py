"""The spacing of slices: nnU-Net's readers give them a third axis."""

from collections.abc import Sequence

import numpy as np

# nnU-Net's readers give a slice without a thickness this multiple of its larger pixel edge.
_NO_THICKNESS = 999


def with_thickness(spacing_mm: Sequence[float]) -> tuple[float, ...]:
    """Return the spacing of an image's axes as nnU-Net reads it; a slice without a thickness counts as 1 mm thick.

    Args:
        spacing_mm: Of (Z, Y, X).
    """
    thickness, *edges = (float(edge) for edge in spacing_mm)
    if np.isclose(thickness, _NO_THICKNESS * max(edges)):
        thickness = 1.0
    return (thickness, *edges)
