"""Lesion detection: which lesions (connected components) of a reference are found, and which predictions are false."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure, label

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.evaluation.metrics.surface_distance import union_box

Connectivity = Literal["full", "faces"]
Mask = NDArray[np.bool_]


class LesionRuleError(UserError):
    """A value of the rule for counting lesions is out of range."""


@dataclass(frozen=True)
class LesionRule:
    """Which voxels form one lesion, and when a lesion counts as found.

    The evaluation of LiTS merges lesions that touch the same prediction and requires an intersection over union of one
    half, which judges outlines as much as detection. Here any overlap finds a lesion; `min_share` requires more.

    Attributes:
        min_share: A reference lesion is found if one predicted lesion covers at least this share of it, 0 to 1, and at
            least one voxel.
        min_voxels: Smaller lesions do not count. In the reference they are neither found nor missed; in the prediction
            they neither find a lesion nor are false positives.
        connectivity: "full": voxels that share a corner belong to one lesion (26 neighbours, 8 in a slice); "faces":
            voxels that share a face (6 neighbours, 4 in a slice).

    Raises:
        LesionRuleError: If a value is out of range.
    """

    min_share: float = 0.0
    min_voxels: int = 1
    connectivity: Connectivity = "full"

    def __post_init__(self) -> None:
        if not 0 <= self.min_share <= 1:
            raise LesionRuleError(f"lesions: min_share={self.min_share!r}; use a number from 0 to 1")
        if self.min_voxels < 1:
            raise LesionRuleError(f"lesions: min_voxels={self.min_voxels!r}; use 1 or more")
        if self.connectivity not in get_args(Connectivity):
            raise LesionRuleError(f"lesions: connectivity={self.connectivity!r}; use full or faces")

    def describe(self) -> str:
        """Return the rule in one line."""
        share = f"{self.min_share:.0%} of it" if self.min_share else "a voxel of it"
        touch = {"full": "corners", "faces": "faces"}[self.connectivity]
        least = f"of {self.min_voxels} voxels or more, smaller ones of reference and prediction do not count"
        if self.min_voxels == 1:
            least = "of any size"
        return (
            f"lesions: connected by {touch}, {least}; found if one predicted lesion covers "
            f"{share}; false positive if it touches no reference"
        )


@dataclass(frozen=True)
class LesionCounts:
    """Numbers of lesions of one case; the counts of several cases add up.

    Attributes:
        reference: Lesions of the reference.
        found: Lesions of the reference that are found.
        false_positives: Predicted lesions that share no voxel with the reference.
    """

    reference: int
    found: int
    false_positives: int

    def __add__(self, other: "LesionCounts") -> "LesionCounts":
        return LesionCounts(
            self.reference + other.reference, self.found + other.found, self.false_positives + other.false_positives
        )

    @property
    def sensitivity(self) -> float:
        """Share of the reference's lesions that are found, 0 to 1; NaN if the reference has no lesion."""
        return self.found / self.reference if self.reference else math.nan


def summed(counts: Iterable[LesionCounts]) -> LesionCounts:
    """Add up the counts of cases; in the sensitivity of the sum every lesion weighs the same."""
    return sum(counts, LesionCounts(0, 0, 0))


def count_lesions(prediction: Mask, reference: Mask, rule: LesionRule) -> LesionCounts:
    """Count the lesions of a case, 2D or 3D.

    A predicted lesion whose overlap with the reference is below `min_share` finds nothing and is no false positive.

    Args:
        prediction: Predicted mask, (Y, X) or (Z, Y, X).
        reference: Mask of the same shape.
        rule: Which voxels form a lesion, and when a lesion is found.
    """
    box = union_box(prediction, reference)
    prediction, reference = prediction[box], reference[box]
    lesions, sizes = _components(reference, rule)
    predicted, predicted_sizes = _components(prediction, rule)
    common = prediction & reference
    # One number for every pair of overlapping lesions, and the voxels in both lesions of the pair.
    pairs, voxels = np.unique(lesions[common] * len(predicted_sizes) + predicted[common], return_counts=True)
    of_reference, of_prediction = np.divmod(pairs, len(predicted_sizes))
    counts, predicted_counts = sizes >= rule.min_voxels, predicted_sizes >= rule.min_voxels
    # In floating point 0.07 * 100 is a little more than 7: a lesion covered by exactly 7 of 100 voxels has to count.
    covers = voxels >= rule.min_share * sizes[of_reference] - 1e-9
    finds = predicted_counts[of_prediction] & covers
    predicted_counts[of_prediction] = False
    return LesionCounts(
        reference=int(counts.sum()),
        found=int(counts[np.unique(of_reference[finds])].sum()),
        false_positives=int(predicted_counts.sum()),
    )


def _components(mask: Mask, rule: LesionRule) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the component number of every voxel, 0 outside the mask, and the size of every component in voxels."""
    rank = mask.ndim if rule.connectivity == "full" else 1
    numbers, count = label(mask, generate_binary_structure(mask.ndim, rank), output=np.int64)
    return numbers, np.bincount(numbers[mask], minlength=count + 1)
