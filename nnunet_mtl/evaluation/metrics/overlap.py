"""Dice, VOE and relative volumes from voxel counts, of one case or summed over cases.

LiTS (Bilic et al., arXiv:1901.04056) reports two kinds of Dice: the mean of the Dice of every case, and a global Dice
from the counts of all cases together. In the global Dice a large lesion weighs more than a small one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Overlap:
    """Voxels of a prediction and its reference; counts of several cases add up.

    A metric is NaN where the formula would divide by zero.

    Attributes:
        common: Voxels that lie in both masks.
        prediction: Voxels in the prediction.
        reference: Voxels in the reference.
    """

    common: int
    prediction: int
    reference: int

    @classmethod
    def of(cls, prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> "Overlap":
        """Count the voxels of two masks of the same shape, from which ignored voxels have been removed.

        Raises:
            ValueError: If the shapes differ.
        """
        if prediction.shape != reference.shape:
            raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} must have the same shape")
        counts = (np.count_nonzero(mask) for mask in (prediction & reference, prediction, reference))
        return cls(*(int(count) for count in counts))

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(self.common + other.common, self.prediction + other.prediction, self.reference + other.reference)

    @property
    def dice(self) -> float:
        """Twice the common voxels over the sum of the voxels of both masks, 0 to 1."""
        return _ratio(2 * self.common, self.prediction + self.reference)

    @property
    def voe(self) -> float:
        """Volumetric overlap error: 1 minus the common voxels over the voxels of the union, 0 to 1."""
        return 1 - _ratio(self.common, self.prediction + self.reference - self.common)

    @property
    def rvd(self) -> float:
        """Signed relative volume difference, as in LiTS: 0.5 if the prediction is half too large, -1 if it is empty."""
        return _ratio(self.prediction - self.reference, self.reference)

    @property
    def relative_volume_difference(self) -> float:
        """Absolute value of the relative volume difference."""
        return abs(self.rvd)


def summed(overlaps: Iterable[Overlap]) -> Overlap:
    """Add up the counts of cases; the Dice of the sum is the global Dice of LiTS."""
    return sum(overlaps, Overlap(0, 0, 0))


def volume_ml(voxels: int, spacing_mm: Sequence[float]) -> float:
    """Return the volume of a number of voxels in ml; the spacing of a slice needs its thickness as a third axis."""
    return voxels * math.prod(spacing_mm) / 1000


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
