import json
import math
import pickle

import numpy as np
import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.evaluation.metrics import empty_masks
from nnunet_mtl.evaluation.metrics.empty_masks import EmptyPolicy
from nnunet_mtl.evaluation.metrics.lesion_detection import LesionCounts, LesionRule
from nnunet_mtl.evaluation.metrics.overlap import Overlap
from nnunet_mtl.evaluation.metrics.region_metrics import (
    LOWER_IS_BETTER,
    METRICS,
    MetricOptions,
    MetricOptionsError,
    measure,
)
from nnunet_mtl.evaluation.metrics.surface_distance import SurfacePair

SPACING = (5.0, 2.0, 1.0)
TUMOUR = MetricOptions(lesion_regions=frozenset({"tumour"}))


def compare(*given):
    return measure(*given).values


def voxels(*places, shape=(4, 5, 6)):
    mask = np.zeros(shape, dtype=bool)
    for place in places:
        mask[place] = True
    return mask


def test_two_voxels_of_which_one_is_right():
    prediction, reference = voxels((1, 2, 2), (1, 3, 2)), voxels((1, 2, 2))
    values = compare(prediction, reference, SPACING, MetricOptions(tolerance_mm=1.9), "liver")
    assert values == pytest.approx(
        {
            "dice": 2 / 3,
            "hd95_mm": 0.95 * 2,
            "nsd": SurfacePair(prediction, reference, SPACING).nsd(1.9),
            "assd_mm": 2 / 3,
            "mssd_mm": 2,
            "voe": 1 / 2,
            "rvd": 1,
            "relative_volume_difference": 1,
            "volume_ml": 0.02,
            "reference_volume_ml": 0.01,
            "lesions": math.nan,
            "lesions_found": math.nan,
            "lesion_sensitivity": math.nan,
            "false_positives": math.nan,
        },
        nan_ok=True,
    )
    assert list(values) == list(METRICS)


def test_options_reach_the_metrics_they_are_about():
    prediction, reference = voxels((1, 2, 2), (1, 3, 2)), voxels((1, 2, 2))
    options = MetricOptions(hd_rule="pooled", tolerance_mm=0.5, tolerances_mm={"liver": 2.0})
    liver, spleen = (compare(prediction, reference, SPACING, options, region) for region in ("liver", "spleen"))
    assert liver["hd95_mm"] == pytest.approx(0.9 * 2)
    assert liver["nsd"] == 1
    assert spleen["nsd"] < 1


def test_lesions_are_counted_in_their_regions_only():
    prediction, reference = voxels((0, 0, 0), (3, 4, 5)), voxels((0, 0, 1), (0, 0, 0), (2, 2, 2))
    names = ("lesions", "lesions_found", "lesion_sensitivity", "false_positives")
    found = measure(prediction, reference, SPACING, TUMOUR, "tumour")
    assert [found.values[name] for name in names] == [2, 1, 0.5, 1]
    assert found.lesions == LesionCounts(2, 1, 1)
    assert found.overlap == Overlap(1, 2, 3)
    organ = measure(prediction, reference, SPACING, TUMOUR, "liver")
    assert organ.lesions is None
    assert all(math.isnan(organ.values[name]) for name in names)
    strict = MetricOptions(lesion_regions=frozenset({"tumour"}), lesion_rule=LesionRule(min_share=0.6))
    assert compare(prediction, reference, SPACING, strict, "tumour")["lesions_found"] == 0


@pytest.mark.parametrize("both", ["unavailable", "perfect"])
@pytest.mark.parametrize("one", ["diagonal", "constant"])
def test_empty_masks_are_judged_by_the_policy_for_the_whole_image(both, one):
    policy = EmptyPolicy(both, one)
    some, none = voxels((1, 2, 2)), voxels()
    options = MetricOptions(empty=policy, lesion_regions=frozenset({"tumour"}))
    for prediction, reference in ((none, none), (some, none), (none, some)):
        values = compare(prediction, reference, SPACING, options, "tumour")
        expected = policy.metrics(
            prediction_empty=not prediction.any(), reference_empty=not reference.any(), image_size_mm=(20, 10, 6)
        )
        assert {name: values[name] for name in empty_masks.METRICS} == pytest.approx(expected, nan_ok=True)
        assert values["volume_ml"] == pytest.approx(0.01 * prediction.sum())
        assert values["reference_volume_ml"] == pytest.approx(0.01 * reference.sum())
        assert values["lesions"] == reference.sum()
        assert values["false_positives"] == prediction.sum()


def test_a_single_slice_is_compared_as_a_slice():
    rng = np.random.default_rng(0)
    prediction, reference = rng.random((2, 1, 9, 8)) < 0.4
    # A reader that knows no thickness makes one up.
    slab = compare(prediction, reference, (999.0, 2.0, 1.0), TUMOUR, "tumour")
    flat = compare(prediction[0], reference[0], (2.0, 1.0), TUMOUR, "tumour")
    volumes = [name for name in METRICS if "volume_ml" in name]
    assert {name: slab[name] for name in METRICS if name not in volumes} == {
        name: flat[name] for name in METRICS if name not in volumes
    }
    nothing = compare(prediction & False, reference, (999.0, 2.0, 1.0), TUMOUR, "tumour")
    assert nothing["hd95_mm"] == pytest.approx(math.hypot(18, 8))


def test_every_metric_of_the_policy_is_a_metric():
    assert set(empty_masks.METRICS) < set(METRICS)
    assert set(METRICS) - set(empty_masks.METRICS) == {
        "volume_ml",
        "reference_volume_ml",
        "lesions",
        "lesions_found",
        "lesion_sensitivity",
        "false_positives",
    }


def test_what_is_better_fits_the_best_and_the_worst_of_the_policy():
    sizes = {"image_size_mm": (9.0,)}
    best = EmptyPolicy("perfect").metrics(prediction_empty=True, reference_empty=True, **sizes)
    worst = EmptyPolicy().metrics(prediction_empty=True, reference_empty=False, **sizes)
    assert {METRICS[name].better for name in best if best[name] > worst[name]} == {"higher", "zero"}
    assert {METRICS[name].better for name in best if best[name] < worst[name]} == {"lower"}
    assert METRICS["rvd"].better == "zero"
    assert {name for name in METRICS if METRICS[name].better == "lower"} == LOWER_IS_BETTER


def test_units_are_in_the_names():
    for name, metric in METRICS.items():
        assert metric.unit == (name.rsplit("_", 1)[-1] if name.endswith(("_mm", "_ml")) else "")
        assert metric.title


def test_options_travel_between_processes_and_are_told_in_lines():
    options = MetricOptions(tolerances_mm={"liver": 7.0, "vena cava": 3.5}, lesion_regions=frozenset({"b", "a"}))
    assert pickle.loads(pickle.dumps(options)) == options
    lines = options.describe()
    assert json.dumps(lines)
    assert lines[0].startswith("HD95: maximum of the two directed 95th percentiles")
    assert lines[1].endswith('within liver 7 mm, "vena cava" 3.5 mm, elsewhere 2 mm')
    assert lines[2] == EmptyPolicy().describe()
    assert lines[3].endswith("in a, b")
    pooled = MetricOptions(hd_rule="pooled").describe()
    assert "both directions together" in pooled[0]
    assert pooled[1].endswith("within 2 mm")
    assert len(pooled) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance_mm": -1.0}, "NSD: tolerance -1.0 mm; use a finite number of 0 or more"),
        ({"tolerances_mm": {"liver": math.nan}}, "NSD: tolerance of liver nan mm; use a finite number"),
        ({"hd_rule": "mean"}, "HD95: rule 'mean'; use maximum or pooled"),
    ],
)
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(MetricOptionsError, match=message) as refusal:
        MetricOptions(**options)
    assert isinstance(refusal.value, UserError)


@pytest.mark.parametrize(
    ("reference", "spacing_mm", "message"),
    [
        (voxels(shape=(4, 5, 7)), SPACING, "must have the same two or three axes"),
        (voxels(), (1.0, 1.0), "must have the same two or three axes"),
        (voxels(), (1.0, -1.0, 1.0), "must be positive and finite"),
        (voxels().astype(np.uint8), SPACING, "must be boolean"),
    ],
)
def test_masks_are_checked_even_where_they_are_empty(reference, spacing_mm, message):
    with pytest.raises(ValueError, match=message):
        compare(voxels(), reference, spacing_mm, MetricOptions(), "liver")
