"""The box around a parent structure, with a margin, to which the images of a cascade's network are cut.

From coarse to fine, every network reads the box around the structure that the network before it segmented: the model
cascade that OM-Net replaces (Zhou, Ding, Wang, Lu, Tao, IEEE TIP 2020).
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

Box = tuple[slice, ...]

# Key of `dataset.json` in a data set of crops; nnU-Net saves a copy of the file with the trained network.
CASCADE_KEY = "nnunet_mtl_cascade"
DEFAULT_MARGIN_MM = 10.0


def parent_box(mask: npt.NDArray[np.bool_], spacing_mm: Sequence[float], margin_mm: float) -> Box | None:
    """Return the smallest box that holds a structure and a margin, cut at the border of the image.

    Args:
        mask: Mask of the structure, (Z, Y, X); one slice in Z for a 2D image.
        spacing_mm: Spacing of the axes of the mask.
        margin_mm: Margin on every side, rounded up to whole voxels.

    Returns:
        One slice per axis; None if the structure is empty.
    """
    box = []
    for axis, (size, spacing) in enumerate(zip(mask.shape, spacing_mm, strict=True)):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        if not len(occupied):
            return None
        # minus a rounding error of the quotient: 10 mm are 100 voxels of 0.1 mm, not 101
        margin = ceil(margin_mm / spacing - 1e-6)
        box.append(slice(max(0, int(occupied[0]) - margin), min(size, int(occupied[-1]) + 1 + margin)))
    return tuple(box)


def description_of(task: str, parent: str, margin_mm: float) -> dict[str, Any]:
    """Return the key of `dataset.json` that describes a data set of crops."""
    return {CASCADE_KEY: {"task": task, "parent": parent, "margin_mm": margin_mm}}
