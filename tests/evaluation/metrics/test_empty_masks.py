import math

import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.evaluation.metrics.empty_masks import METRICS, PAPERS_DISTANCE_MM, EmptyPolicy, EmptyPolicyError

SIZE_MM = (30.0, 40.0, 120.0)  # a diagonal of 130 mm
DISTANCES = ("hd95_mm", "assd_mm", "mssd_mm")
POLICIES = [EmptyPolicy(both, one) for both in ("unavailable", "perfect") for one in ("diagonal", "constant")]


def metrics(policy, *, prediction_empty, reference_empty):
    return policy.metrics(prediction_empty=prediction_empty, reference_empty=reference_empty, image_size_mm=SIZE_MM)


@pytest.mark.parametrize("policy", POLICIES)
def test_masks_that_hold_something_are_measured(policy):
    assert metrics(policy, prediction_empty=False, reference_empty=False) is None


@pytest.mark.parametrize("policy", POLICIES)
def test_both_empty(policy):
    found = metrics(policy, prediction_empty=True, reference_empty=True)
    assert set(found) == set(METRICS)
    if policy.both == "unavailable":
        assert all(math.isnan(value) for value in found.values())
    else:
        perfect = dict.fromkeys(("dice", "nsd"), 1.0)
        assert found == dict.fromkeys(METRICS, 0.0) | perfect


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("prediction_empty", [True, False])
def test_one_empty(policy, prediction_empty):
    found = metrics(policy, prediction_empty=prediction_empty, reference_empty=not prediction_empty)
    distance = 130.0 if policy.one == "diagonal" else 373.12866
    assert set(found) == set(METRICS)
    assert [found[name] for name in DISTANCES] == pytest.approx([distance] * 3)
    assert (found["dice"], found["nsd"], found["voe"]) == (0, 0, 1)
    relative = (-1, 1) if prediction_empty else (math.nan, math.nan)
    assert (found["rvd"], found["relative_volume_difference"]) == pytest.approx(relative, nan_ok=True)


def test_the_diagonal_of_the_papers_image_is_their_constant():
    assert pytest.approx(373.12866, abs=1e-5) == PAPERS_DISTANCE_MM
    options = {"prediction_empty": True, "reference_empty": False, "image_size_mm": (240, 240, 155)}
    assert EmptyPolicy().metrics(**options) == EmptyPolicy(one="constant").metrics(**options)


def test_by_default_cases_without_anything_do_not_count_and_a_miss_costs_the_diagonal():
    assert EmptyPolicy() == EmptyPolicy("unavailable", "diagonal")


def test_each_policy_is_described_in_one_line_of_its_own():
    lines = [policy.describe() for policy in POLICIES]
    assert len(set(lines)) == len(lines)
    assert all("\n" not in line and len(line) < 200 for line in lines)
    assert lines[0].startswith("empty masks: both empty, not available; one empty, overlaps 0 and distances the image")
    assert "perfect" in lines[3]
    assert "373.13 mm" in lines[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"both": "zero"}, "empty masks: both='zero'; use unavailable or perfect"),
        ({"one": "infinite"}, "empty masks: one='infinite'; use diagonal or constant"),
    ],
)
def test_unknown_rules_are_refused(options, message):
    with pytest.raises(EmptyPolicyError, match=message) as refusal:
        EmptyPolicy(**options)
    assert isinstance(refusal.value, UserError)
