"""All metrics of one region of one case by name, and the options they are computed with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed, spelt
from nnunet_mtl.evaluation.metrics.empty_masks import EmptyPolicy
from nnunet_mtl.evaluation.metrics.length_unit import LengthUnit
from nnunet_mtl.evaluation.metrics.lesion_detection import LesionCounts, LesionRule, count_lesions
from nnunet_mtl.evaluation.metrics.overlap import Overlap, volume_ml
from nnunet_mtl.evaluation.metrics.surface_distance import HD_RULES, HdRule, SurfacePair, check_masks

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Metric:
    """Title, unit and direction of a metric.

    Attributes:
        title: Name in tables.
        unit: "mm", "ml", or empty for a metric without unit.
        better: Which of two values is better: the "higher", the "lower" or the value nearer to "zero"; "neither" for
            a metric that describes the case and not the prediction.
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


class MetricOptionsError(UserError):
    """A tolerance or a rule of the metrics is out of range."""


@dataclass(frozen=True)
class MetricOptions:
    """How the metrics are computed.

    Attributes:
        tolerance_mm: Tolerance of NSD for every region that is not in `tolerances_mm`: by how much two annotators
            would differ.
        tolerances_mm: Tolerance of NSD by region.
        hd_rule: HD95 is the "maximum" of the two directed 95th percentiles, or the percentile of the "pooled"
            distances of both directions.
        empty: Metrics of a case where a mask is empty.
        lesion_regions: Regions whose connected components are counted as lesions.
        lesion_rule: How lesions are counted.
        unit: Unit of lengths; with "pixels", tolerances are in pixels and volumes are numbers of pixels.

    Raises:
        MetricOptionsError: If a tolerance is negative or not finite, or `hd_rule` is unknown.
    """

    tolerance_mm: float = 2.0
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    hd_rule: HdRule = "maximum"
    empty: EmptyPolicy = field(default_factory=EmptyPolicy)
    lesion_regions: frozenset[str] = frozenset()
    lesion_rule: LesionRule = field(default_factory=LesionRule)
    unit: LengthUnit = "mm"

    def __post_init__(self) -> None:
        by_region = {f"tolerance of {spelt(region)}": tolerance for region, tolerance in self.tolerances_mm.items()}
        for name, tolerance in {"tolerance": self.tolerance_mm, **by_region}.items():
            if not 0 <= tolerance < math.inf:
                raise MetricOptionsError(f"NSD: {name} {tolerance} {self.unit}; use a finite number of 0 or more")
        if self.hd_rule not in HD_RULES:
            raise MetricOptionsError(f"HD95: rule {self.hd_rule!r}; use {' or '.join(HD_RULES)}")

    def tolerance_of(self, region: str) -> float:
        """Return the tolerance of a region's NSD in mm."""
        return self.tolerances_mm.get(region, self.tolerance_mm)

    def describe(self) -> tuple[str, ...]:
        """Return the options in words, one line for each, to be printed and stored with the results."""
        hd = {
            "maximum": "maximum of the two directed 95th percentiles",
            "pooled": "95th percentile of the distances of both directions together",
        }[self.hd_rule]
        by_region = [f"{spelt(region)} {tolerance:g} {self.unit}" for region, tolerance in self.tolerances_mm.items()]
        everywhere = f"{'elsewhere ' if by_region else ''}{self.tolerance_mm:g} {self.unit}"
        lines = [
            f"HD95: {hd}, between the centres of surface voxels, in {self.unit}",
            f"NSD: share of the surface, weighted by area, within {', '.join([*by_region, everywhere])}",
            self.empty.describe(self.unit),
        ]
        if self.unit == "pixels":
            lines.insert(0, "units: these images have no spacing, so lengths and areas are in pixels")
        if self.lesion_regions:
            lines.append(f"{self.lesion_rule.describe()}; in {listed(sorted(self.lesion_regions))}")
        return tuple(lines)


@dataclass(frozen=True)
class RegionMetrics:
    """The metrics of one region of one case, and counts that add up over cases.

    Attributes:
        values: Every metric of `METRICS`; NaN where the metric is not available.
        overlap: Voxel counts.
        lesions: Numbers of lesions; None if lesions of the region are not counted.
    """

    values: Mapping[str, float]
    overlap: Overlap
    lesions: LesionCounts | None


def measure(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float], options: MetricOptions, region: str
) -> RegionMetrics:
    """Measure the prediction of one region in one case.

    Args:
        prediction: Mask of the whole image, (Y, X) or (Z, Y, X). Ignored voxels have been removed from both masks, so
            that both have the same surface there.
        reference: Mask of the same shape.
        spacing_mm: Distance of voxels along each axis, in the order of the masks' axes. A single slice is compared in
            2D; the thickness of the slice is used for volumes only.
        options: How the metrics are computed.
        region: Name of the region, which has its own tolerance and lesion counting in the options.

    Raises:
        ValueError: If shapes, types or the number of axes do not fit, or a spacing is not positive.
    """
    check_masks(prediction, reference, spacing_mm)
    overlap = Overlap.of(prediction, reference)
    if prediction.ndim == 3 and prediction.shape[0] == 1:
        values = _overlap_and_surface_metrics(prediction[0], reference[0], spacing_mm[1:], overlap, options, region)
    else:
        values = _overlap_and_surface_metrics(prediction, reference, spacing_mm, overlap, options, region)
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
    return RegionMetrics({name: values[name] for name in METRICS}, overlap, lesions)


def _overlap_and_surface_metrics(
    prediction: Mask,
    reference: Mask,
    spacing_mm: Sequence[float],
    overlap: Overlap,
    options: MetricOptions,
    region: str,
) -> dict[str, float]:
    empty_metrics = options.empty.metrics(
        prediction_empty=not overlap.prediction,
        reference_empty=not overlap.reference,
        image_size_mm=np.multiply(prediction.shape, spacing_mm).tolist(),
    )
    if empty_metrics is not None:
        return empty_metrics
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
