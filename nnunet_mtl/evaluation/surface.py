"""How far the surfaces of two masks lie apart: HD95, ASSD and MSSD in mm, and NSD.

Two surfaces, as the literature has them. HD95, ASSD and MSSD are about the centres of the surface's voxels: voxels
inside of which a face neighbour is outside. NSD is about pieces of surface between voxel centres, each with its area
and at the centre of its cell (Nikolov et al., arXiv:1809.04430). For both, what lies beyond the image is outside: a
mask that is cut by the image's border has a surface there.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.evaluation.nearest import near, nearest_distances
from nnunet_mtl.evaluation.surface_elements import cell_codes, element_sizes

HdRule = Literal["maximum", "pooled"]
HD_RULES: tuple[HdRule, ...] = get_args(HdRule)

# Headers store the spacing as 32-bit floats: a distance that is the tolerance may come out a ten-millionth above it.
_ROUNDING = 1e-6

Mask = NDArray[np.bool_]


class SurfacePair:
    """The surfaces of a prediction and its reference; what is computed for one metric serves the others.

    Swapping the two changes no metric, nor does anything around the box that holds both.

    Args:
        prediction: Mask, (Y, X) or (Z, Y, X), not empty.
        reference: Mask of the same shape, not empty; what an empty mask means is `EmptyPolicy`'s.
        spacing_mm: Distance of voxels along each axis, in the order of the masks' axes.

    Raises:
        ValueError: If shapes, types or the number of axes do not fit, a spacing is not positive, or a mask is empty.
    """

    def __init__(self, prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> None:
        check_masks(prediction, reference, spacing_mm)
        box = union_box(prediction, reference)
        self._masks = (prediction[box], reference[box])
        if not all(mask.any() for mask in self._masks):
            raise ValueError("an empty mask has no surface; ask EmptyPolicy for its metrics")
        self._spacing_mm = tuple(float(step) for step in spacing_mm)

    @cached_property
    def distances_mm(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """From each surface voxel of the prediction, (N,), and of the reference, (M,), to the other's surface in mm."""
        first, second = (voxel_surface(mask) for mask in self._masks)
        return (
            nearest_distances(first, second, self._spacing_mm),
            nearest_distances(second, first, self._spacing_mm),
        )

    def hd95_mm(self, rule: HdRule = "maximum") -> float:
        """Return the 95th percentile of the surface distances in mm, interpolated between neighbours.

        Args:
            rule: "maximum", the larger of the percentiles of the two directions; "pooled", of both lists together.

        Raises:
            ValueError: If there is no such rule.
        """
        if rule not in HD_RULES:
            raise ValueError(f"rule {rule!r} must be one of {', '.join(HD_RULES)}")
        if rule == "pooled":
            return float(np.percentile(np.concatenate(self.distances_mm), 95))
        return float(max(np.percentile(distances, 95) for distances in self.distances_mm))

    def assd_mm(self) -> float:
        """Return the mean over the surface distances of both directions together in mm, as LiTS has it."""
        first, second = self.distances_mm
        return float((first.sum() + second.sum()) / (len(first) + len(second)))

    def mssd_mm(self) -> float:
        """Return the largest of all surface distances in mm, the Hausdorff distance."""
        return float(max(distances.max() for distances in self.distances_mm))

    def nsd(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces that lies within a tolerance of the other, 0 to 1.

        Args:
            tolerance_mm: Distance that still counts as agreement; one that exceeds it by a millionth does too.

        Raises:
            ValueError: If the tolerance is negative or not finite.
        """
        if not 0 <= tolerance_mm < math.inf:
            raise ValueError(f"tolerance of {tolerance_mm} mm must be 0 or more, and finite")
        reach_mm = tolerance_mm * (1 + _ROUNDING)
        sizes = element_sizes(self._spacing_mm)
        codes = [cell_codes(mask) for mask in self._masks]
        surfaces = [(of_mask > 0) & (of_mask < len(sizes) - 1) for of_mask in codes]
        within = total = 0.0
        for this, other in ((0, 1), (1, 0)):
            agreeing = near(surfaces[this], surfaces[other], self._spacing_mm, reach_mm)
            # The cells of each code are counted: no rounding depends on their order.
            within += float(np.bincount(codes[this][agreeing], minlength=len(sizes)) @ sizes)
            total += float(np.bincount(codes[this].ravel(), minlength=len(sizes)) @ sizes)
        return within / total


def voxel_surface(mask: Mask) -> Mask:
    """Return the voxels inside that have a face neighbour outside, or beyond the border of the array."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(start, start + mask.shape[axis])
            inner &= padded[tuple(window)]
    return mask & ~inner


def union_box(first: Mask, second: Mask) -> tuple[slice, ...]:
    """Return the smallest box that holds both masks; an empty one where both are empty."""
    box: list[slice] = []
    for axis in range(first.ndim):
        # What the axes before have already cut off is not looked at again.
        others = tuple(other for other in range(first.ndim) if other != axis)
        held = first[tuple(box)].any(axis=others) | second[tuple(box)].any(axis=others)
        places = np.flatnonzero(held)
        box.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0))
    return tuple(box)


def check_masks(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> None:
    """Refuse what is no pair of masks on one grid.

    Raises:
        ValueError: If shapes, types or the number of axes do not fit, or a spacing is not positive.
    """
    if prediction.shape != reference.shape or prediction.ndim != len(spacing_mm) or prediction.ndim not in (2, 3):
        raise ValueError(
            f"prediction {prediction.shape}, reference {reference.shape} and spacing {tuple(spacing_mm)} must have the "
            "same two or three axes"
        )
    if prediction.dtype != np.bool_ or reference.dtype != np.bool_:
        raise ValueError(f"masks of type {prediction.dtype} and {reference.dtype} must be boolean")
    if not all(0 < step < math.inf for step in spacing_mm):
        raise ValueError(f"spacing {tuple(spacing_mm)} must be positive and finite")
