"""The metrics of a case where a mask is empty: one explicit rule for all metrics.

Libraries differ in this rule more than in any other, and the rule decides the averages of runs that miss organs. The
papers behind this package use a constant distance: the diagonal of a BraTS image of 240 x 240 x 155 voxels of 1 mm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nnunet_mtl.common.errors import UserError

Both = Literal["unavailable", "perfect"]
One = Literal["diagonal", "constant"]

PAPERS_DISTANCE_MM = math.hypot(240, 240, 155)

# Best value of each metric, and the value without any overlap; None stands for the distance that the policy gives.
_BEST_AND_WORST: dict[str, tuple[float, float | None]] = {
    "dice": (1.0, 0.0),
    "hd95_mm": (0.0, None),
    "nsd": (1.0, 0.0),
    "assd_mm": (0.0, None),
    "mssd_mm": (0.0, None),
    "voe": (0.0, 1.0),
}
_RELATIVE_VOLUMES = ("rvd", "relative_volume_difference")
METRICS = (*_BEST_AND_WORST, *_RELATIVE_VOLUMES)


class EmptyPolicyError(UserError):
    """The rule for empty masks is unknown."""


@dataclass(frozen=True)
class EmptyPolicy:
    """The rule for empty masks.

    Attributes:
        both: Both masks are empty. With "unavailable" no metric is available, so that the case does not count; with
            "perfect" every metric has its best value.
        one: Only one mask is empty: Dice and NSD are 0 and VOE is 1. Distances are the diagonal of the image in mm
            ("diagonal") or always `PAPERS_DISTANCE_MM` ("constant"). RVD is -1 and |RVD| is 1 if the prediction is
            empty; both are not available if the reference is empty.

    Raises:
        EmptyPolicyError: If `both` or `one` has another value.
    """

    both: Both = "unavailable"
    one: One = "diagonal"

    def __post_init__(self) -> None:
        for name, value, known in (("both", self.both, get_args(Both)), ("one", self.one, get_args(One))):
            if value not in known:
                raise EmptyPolicyError(f"empty masks: {name}={value!r}; use {' or '.join(known)}")

    def describe(self, unit: str = "mm") -> str:
        """Return the rule in one line; `unit` is the unit of distances."""
        both = {"unavailable": "not available", "perfect": "perfect"}[self.both]
        distance = {
            "diagonal": f"the image diagonal in {unit}",
            "constant": f"{PAPERS_DISTANCE_MM:.2f} {unit}",
        }[self.one]
        return (
            f"empty masks: both empty, {both}; one empty, overlaps 0 and distances {distance}; "
            "no reference, relative volumes not available"
        )

    def metrics(
        self, *, prediction_empty: bool, reference_empty: bool, image_size_mm: Sequence[float]
    ) -> dict[str, float] | None:
        """Return the metrics of a pair of masks; None if neither mask is empty.

        Args:
            prediction_empty: Whether the prediction holds no voxel.
            reference_empty: Whether the reference holds no voxel.
            image_size_mm: Extent of the whole image along each axis in mm.

        Returns:
            Every metric of `METRICS`; NaN where the metric is not available.
        """
        if not (prediction_empty or reference_empty):
            return None
        if prediction_empty and reference_empty:
            if self.both == "unavailable":
                return dict.fromkeys(METRICS, math.nan)
            best = {name: value for name, (value, _) in _BEST_AND_WORST.items()}
            return best | dict.fromkeys(_RELATIVE_VOLUMES, 0.0)
        distance = math.hypot(*image_size_mm) if self.one == "diagonal" else PAPERS_DISTANCE_MM
        worst = {name: distance if value is None else value for name, (_, value) in _BEST_AND_WORST.items()}
        rvd = math.nan if reference_empty else -1.0
        return worst | {"rvd": rvd, "relative_volume_difference": abs(rvd)}
