"""Every metric of one region of one case, by name."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed, spelt
from nnunet_mtl.evaluation.empty import EmptyPolicy
from nnunet_mtl.evaluation.lesions import LesionCounts, LesionRule, count_lesions
from nnunet_mtl.evaluation.overlap import Overlap, volume_ml
from nnunet_mtl.evaluation.surface import HD_RULES, HdRule, SurfacePair, check_masks
from nnunet_mtl.evaluation.units import LengthUnit

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Metric:
    """What a number is.

    Attributes:
        title: Its name in tables.
        unit: "mm", "ml", or empty for numbers without unit.
        better: Which of two values is the better one: the "higher", the "lower", the one nearer to "zero"; "neither"
            for what describes a case rather than a prediction of it.
    """

    title: str
    unit: str
    better: Literal["higher", "lower", "zero", "neither"]


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "dice": Metric("Dice", "", "higher"),
        "hd95_mm": Metric("HD95", "mm", "lower"),
        "nsd": Metric("NSD", "", "higher"),
        "assd_mm": Metric("ASSD", "mm", "lower"),
        "mssd_mm": Metric("MSSD", "mm", "lower"),
        "voe": Metric("VOE", "", "lower"),
        "rvd": Metric("RVD", "", "zero"),
        "relative_volume_difference": Metric("|RVD|", "", "lower"),
        "volume_ml": Metric("volume", "ml", "neither"),
        "reference_volume_ml": Metric("reference volume", "ml", "neither"),
        "lesions": Metric("lesions", "", "neither"),
        "lesions_found": Metric("lesions found", "", "higher"),
        "lesion_sensitivity": Metric("lesion sensitivity", "", "higher"),
        "false_positives": Metric("false positives", "", "lower"),
    }
)
LOWER_IS_BETTER = frozenset(name for name, metric in METRICS.items() if metric.better == "lower")


class OptionsError(UserError):
    """The metrics cannot be computed as asked for."""


@dataclass(frozen=True)
class Options:
    """How the metrics are computed.

    Attributes:
        tolerance_mm: Of NSD, for regions that have none of their own: what two annotators would differ by.
        tolerances_mm: Of NSD, by region.
        hd_rule: "maximum" of the two directed 95th percentiles, or the percentile of both lists "pooled".
        empty: What counts where a mask is empty.
        lesion_regions: Regions whose connected components are lesions, to be counted.
        lesion_rule: How they are counted.
        unit: Of lengths; with "pixels", tolerances are pixels too, and volumes are numbers of pixels.

    Raises:
        OptionsError: If a tolerance or the rule is none.
    """

    tolerance_mm: float = 2.0
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    hd_rule: HdRule = "maximum"
    empty: EmptyPolicy = field(default_factory=EmptyPolicy)
    lesion_regions: frozenset[str] = frozenset()
    lesion_rule: LesionRule = field(default_factory=LesionRule)
    unit: LengthUnit = "mm"

    def __post_init__(self) -> None:
        own = {f"tolerance of {spelt(region)}": tolerance for region, tolerance in self.tolerances_mm.items()}
        for name, tolerance in {"tolerance": self.tolerance_mm, **own}.items():
            if not 0 <= tolerance < math.inf:
                raise OptionsError(f"NSD: {name} {tolerance} {self.unit}; use a finite number of 0 or more")
        if self.hd_rule not in HD_RULES:
            raise OptionsError(f"HD95: rule {self.hd_rule!r}; use {' or '.join(HD_RULES)}")

    def tolerance_of(self, region: str) -> float:
        """Return the tolerance of a region's NSD in mm."""
        return self.tolerances_mm.get(region, self.tolerance_mm)

    def describe(self) -> tuple[str, ...]:
        """Return what was decided, a line each, to be printed and stored with the results."""
        hd = {
            "maximum": "maximum of the two directed 95th percentiles",
            "pooled": "95th percentile of the distances of both directions together",
        }[self.hd_rule]
        own = [f"{spelt(region)} {tolerance:g} {self.unit}" for region, tolerance in self.tolerances_mm.items()]
        everywhere = f"{'elsewhere ' if own else ''}{self.tolerance_mm:g} {self.unit}"
        lines = [
            f"HD95: {hd}, between the centres of surface voxels, in {self.unit}",
            f"NSD: share of the surface, weighted by area, within {', '.join([*own, everywhere])}",
            self.empty.describe(self.unit),
        ]
        if self.unit == "pixels":
            lines.insert(0, "units: these images have no spacing, so lengths and areas are in pixels")
        if self.lesion_regions:
            lines.append(f"{self.lesion_rule.describe()}; in {listed(sorted(self.lesion_regions))}")
        return tuple(lines)


@dataclass(frozen=True)
class SegmentationMetrics:
    """The metrics of one region of one case, and the counts that add up over cases.

    Attributes:
        values: Every metric of `METRICS`; NaN is not available.
        overlap: Voxels.
        lesions: Lesions; None where they are not counted.
    """

    values: Mapping[str, float]
    overlap: Overlap
    lesions: LesionCounts | None


def measure(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float], options: Options, region: str
) -> SegmentationMetrics:
    """Compare a prediction with its reference.

    Args:
        prediction: Mask of the whole image, (Y, X) or (Z, Y, X); voxels that are to be ignored have been removed from
            both masks, which then have a common surface there.
        reference: Mask of the same shape.
        spacing_mm: Distance of voxels along each axis, in the order of the masks' axes. A slice that has no thickness
            needs one for volumes, which is used for nothing else: a single slice is compared as 2D.
        options: How the metrics are computed.
        region: The region's name, by which the options tell tolerances and lesions.

    Raises:
        ValueError: If shapes, types or the number of axes do not fit, or a spacing is not positive.
    """
    check_masks(prediction, reference, spacing_mm)
    overlap = Overlap.of(prediction, reference)
    if prediction.ndim == 3 and prediction.shape[0] == 1:
        values = _of_overlap_and_surface(prediction[0], reference[0], spacing_mm[1:], overlap, options, region)
    else:
        values = _of_overlap_and_surface(prediction, reference, spacing_mm, overlap, options, region)
    lesions = count_lesions(prediction, reference, options.lesion_rule) if region in options.lesion_regions else None
    pixels = options.unit == "pixels"
    values |= {
        "volume_ml": overlap.prediction if pixels else volume_ml(overlap.prediction, spacing_mm),
        "reference_volume_ml": overlap.reference if pixels else volume_ml(overlap.reference, spacing_mm),
        "lesions": lesions.reference if lesions else math.nan,
        "lesions_found": lesions.found if lesions else math.nan,
        "lesion_sensitivity": lesions.sensitivity if lesions else math.nan,
        "false_positives": lesions.false_positives if lesions else math.nan,
    }
    return SegmentationMetrics({name: values[name] for name in METRICS}, overlap, lesions)


def _of_overlap_and_surface(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float], overlap: Overlap, options: Options, region: str
) -> dict[str, float]:
    by_rule = options.empty.metrics(
        prediction_empty=not overlap.prediction,
        reference_empty=not overlap.reference,
        image_size_mm=np.multiply(prediction.shape, spacing_mm).tolist(),
    )
    if by_rule is not None:
        return by_rule
    surfaces = SurfacePair(prediction, reference, spacing_mm)
    return {
        "dice": overlap.dice,
        "hd95_mm": surfaces.hd95_mm(options.hd_rule),
        "nsd": surfaces.nsd(options.tolerance_of(region)),
        "assd_mm": surfaces.assd_mm(),
        "mssd_mm": surfaces.mssd_mm(),
        "voe": overlap.voe,
        "rvd": overlap.rvd,
        "relative_volume_difference": overlap.relative_volume_difference,
    }
