"""The part of an image in which a network of a cascade looks: the box around the parent structure, and a margin.

Coarse to fine, each network inside what the one before it found: the model cascade that OM-Net replaces (Zhou, Ding,
Wang, Lu, Tao, IEEE TIP 2020).
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

Box = tuple[slice, ...]

# In `dataset.json` of what a network of a cascade is trained on, and so beside its weights.
CASCADE_KEY = "nnunet_mtl_cascade"
DEFAULT_MARGIN_MM = 10.0


def parent_box(mask: npt.NDArray[np.bool_], spacing_mm: Sequence[float], margin_mm: float) -> Box | None:
    """Return the smallest box that holds a structure and a margin, as far as the image reaches.

    Args:
        mask: Where the structure is, (Z, Y, X); one slice for a 2D image.
        spacing_mm: Of its axes.
        margin_mm: On every side; part of a voxel counts as one.

    Returns:
        One slice per axis; None where the structure is empty.
    """
    box = []
    for axis, (size, spacing) in enumerate(zip(mask.shape, spacing_mm, strict=True)):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        there = np.flatnonzero(mask.any(axis=others))
        if not len(there):
            return None
        # 10 mm of voxels of 0.1 mm are 100 of them, whatever the quotient of two floats is
        margin = ceil(margin_mm / spacing - 1e-6)
        box.append(slice(max(0, int(there[0]) - margin), min(size, int(there[-1]) + 1 + margin)))
    return tuple(box)


def description_of(task: str, parent: str, margin_mm: float) -> dict[str, Any]:
    """Return what `dataset.json` says of a data set of crops."""
    return {CASCADE_KEY: {"task": task, "parent": parent, "margin_mm": margin_mm}}
