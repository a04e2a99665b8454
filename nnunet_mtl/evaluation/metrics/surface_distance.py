"""How far the surfaces of two masks lie apart: HD95, ASSD and MSSD in mm, and NSD.

The literature has two surfaces. HD95, ASSD and MSSD are computed between the centres of surface voxels: voxels inside
the mask with a face neighbour outside. NSD is computed between pieces of surface that lie between voxel centres; every
piece has an area, and its place is the centre of its cell (Nikolov et al., arXiv:1809.04430). For both surfaces,
everything beyond the image is outside the mask: a mask that the image's border cuts has a surface at the border.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from nnunet_mtl.evaluation.metrics.surface_area import cell_codes, element_sizes

HdRule = Literal["maximum", "pooled"]
HD_RULES: tuple[HdRule, ...] = get_args(HdRule)

# Headers store the spacing as 32-bit floats: a distance equal to the tolerance may come out a ten-millionth above it.
_ROUNDING = 1e-6

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]


class SurfacePair:
    """The surfaces of a prediction and its reference; distances are computed once for all metrics.

    Exchanging prediction and reference changes no metric. Nothing outside the box around both masks changes a metric.

    Args:
        prediction: Mask, (Y, X) or (Z, Y, X), not empty.
        reference: Mask of the same shape, not empty; `EmptyPolicy` decides the metrics of empty masks.
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
    def distances_mm(self) -> tuple[Distances, Distances]:
        """From each surface voxel of the prediction, (N,), and of the reference, (M,), to the other's surface in mm."""
        first, second = (voxel_surface(mask) for mask in self._masks)
        return (
            nearest_distances(first, second, self._spacing_mm),
            nearest_distances(second, first, self._spacing_mm),
        )

    def hd95_mm(self, rule: HdRule = "maximum") -> float:
        """Return the 95th percentile of the surface distances in mm, interpolated between neighbours.

        Args:
            rule: "maximum" is the larger of the percentiles of the two directions; "pooled" is the percentile of the
                distances of both directions together.

        Raises:
            ValueError: If the rule is neither.
        """
        if rule not in HD_RULES:
            raise ValueError(f"rule {rule!r} must be one of {', '.join(HD_RULES)}")
        if rule == "pooled":
            return float(np.percentile(np.concatenate(self.distances_mm), 95))
        return float(max(np.percentile(distances, 95) for distances in self.distances_mm))

    def assd_mm(self) -> float:
        """Return the mean of the surface distances of both directions together in mm, as LiTS defines ASSD."""
        first, second = self.distances_mm
        return float((first.sum() + second.sum()) / (len(first) + len(second)))

    def mssd_mm(self) -> float:
        """Return the largest of all surface distances in mm, the Hausdorff distance."""
        return float(max(distances.max() for distances in self.distances_mm))

    def nsd(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces, by area, that lies within a tolerance of the other surface, 0 to 1.

        Args:
            tolerance_mm: Distance that still counts as agreement; so does a distance that is a millionth larger.

        Raises:
            ValueError: If the tolerance is negative or not finite.
        """
        if not 0 <= tolerance_mm < math.inf:
            raise ValueError(f"tolerance of {tolerance_mm} mm must be 0 or more, and finite")
        reach_mm = tolerance_mm * (1 + _ROUNDING)
        sizes = element_sizes(self._spacing_mm)
        codes = [cell_codes(mask) for mask in self._masks]
        surfaces = [(mask_codes > 0) & (mask_codes < len(sizes) - 1) for mask_codes in codes]
        within = total = 0.0
        for this, other in ((0, 1), (1, 0)):
            agrees = nearest_distances(surfaces[this], surfaces[other], self._spacing_mm) <= reach_mm
            surface_codes = codes[this][surfaces[this]]
            # Cells are counted by code before areas are added, so that rounding does not depend on the cells' order.
            within += float(np.bincount(surface_codes[agrees], minlength=len(sizes)) @ sizes)
            total += float(np.bincount(surface_codes, minlength=len(sizes)) @ sizes)
        return within / total


def nearest_distances(of: Mask, to: Mask, spacing_mm: Sequence[float]) -> Distances:
    """Return how far every voxel of one set lies from the nearest voxel of another set, between voxel centres.

    Args:
        of: The N voxels whose distances are returned, (Y, X) or (Z, Y, X).
        to: The voxels that distances are measured to, same shape.
        spacing_mm: Distance of voxels along each axis.

    Returns:
        Exact distances in mm, (N,), in the order of `np.nonzero(of)`; infinite where `to` is empty.
    """
    voxels = np.nonzero(of)
    if not to.any():
        return np.full(len(voxels[0]), math.inf)
    # The transform's own distances would fill the whole box with three more arrays of 64-bit floats.
    nearest = distance_transform_edt(~to, sampling=spacing_mm, return_distances=False, return_indices=True)
    steps_mm = [
        (axis_nearest[voxels] - place) * step
        for axis_nearest, place, step in zip(nearest, voxels, spacing_mm, strict=True)
    ]
    distances: Distances = np.sqrt(np.square(steps_mm).sum(axis=0))
    return distances


def voxel_surface(mask: Mask) -> Mask:
    """Return the voxels inside the mask that have a face neighbour outside it, or beyond the border of the array."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(start, start + mask.shape[axis])
            inner &= padded[tuple(window)]
    return mask & ~inner


def union_box(first: Mask, second: Mask) -> tuple[slice, ...]:
    """Return the smallest box that holds both masks; an empty box where both masks are empty."""
    box: list[slice] = []
    for axis in range(first.ndim):
        # Only the part inside the slices of the earlier axes is searched.
        others = tuple(other for other in range(first.ndim) if other != axis)
        occupied = first[tuple(box)].any(axis=others) | second[tuple(box)].any(axis=others)
        places = np.flatnonzero(occupied)
        box.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0))
    return tuple(box)


def check_masks(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> None:
    """Refuse two arrays that are not boolean masks on one grid.

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
