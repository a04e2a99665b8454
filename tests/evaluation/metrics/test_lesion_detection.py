import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.evaluation.metrics.lesion_detection import (
    LesionCounts,
    LesionRule,
    LesionRuleError,
    count_lesions,
    summed,
)


def mask(text):
    return np.array([[letter == "#" for letter in row] for row in text.split()])


def count(prediction, reference, **rule):
    return count_lesions(mask(prediction), mask(reference), LesionRule(**rule))


def test_found_missed_and_false():
    assert count(".##..##..", "##..##..#") == LesionCounts(reference=3, found=2, false_positives=0)
    assert count("..##....#", "##...####") == LesionCounts(reference=2, found=1, false_positives=1)


def test_one_prediction_may_find_two_lesions_and_two_may_find_one():
    assert count("#####", "#.#.#") == LesionCounts(3, 3, 0)
    assert count("#.#.#", "#####") == LesionCounts(1, 1, 0)


@pytest.mark.parametrize(("min_share", "found"), [(0, 1), (0.4, 1), (0.5, 0), (1, 0)])
def test_a_single_prediction_must_cover_the_share(min_share, found):
    # Two and two of five voxels; together they would be enough for more.
    assert count("##.##", "#####", min_share=min_share) == LesionCounts(1, found, 0)


def test_a_share_that_is_reached_exactly_is_enough():
    assert count("#######" + 93 * ".", 100 * "#", min_share=0.07).found == 1


def test_too_little_overlap_is_no_find_and_no_false_positive():
    assert count("...###", "####..", min_share=0.5) == LesionCounts(1, 0, 0)


def test_small_lesions_do_not_count():
    assert count("#..##", "##..#", min_voxels=2) == LesionCounts(reference=1, found=0, false_positives=0)
    assert count("#..##", "#....", min_voxels=2) == LesionCounts(0, 0, 1)
    assert count("##...", "#....", min_voxels=2) == LesionCounts(0, 0, 0)


@pytest.mark.parametrize(("connectivity", "lesions"), [("full", 1), ("faces", 2)])
def test_voxels_that_share_a_corner(connectivity, lesions):
    diagonal = "#. .#"
    assert count("..", "..") == LesionCounts(0, 0, 0)
    assert count(diagonal, diagonal, connectivity=connectivity) == LesionCounts(lesions, lesions, 0)
    cube = np.zeros((2, 2, 2), dtype=bool)
    cube[0, 0, 0] = cube[1, 1, 1] = True
    found = count_lesions(cube, cube, LesionRule(connectivity=connectivity))
    assert found == LesionCounts(lesions, lesions, 0)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [("...", "...", (0, 0, 0)), ("#.#", "...", (0, 0, 2)), ("...", "#.#", (2, 0, 0))],
)
def test_empty_masks(prediction, reference, expected):
    found = count(prediction, reference)
    assert found == LesionCounts(*expected)
    assert math.isnan(found.sensitivity) == (expected[0] == 0)


def test_the_pooled_sensitivity_weighs_every_lesion_the_same():
    cases = [LesionCounts(10, 9, 1), LesionCounts(1, 0, 2), LesionCounts(0, 0, 4)]
    assert summed(cases) == LesionCounts(11, 9, 7)
    assert summed(cases).sensitivity == pytest.approx(9 / 11)
    assert [case.sensitivity for case in cases] == pytest.approx([0.9, 0, math.nan], nan_ok=True)
    assert math.isnan(summed([]).sensitivity)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), margin=st.integers(0, 3))
def test_finding_everything_and_adding_nothing(seed, margin):
    reference = np.random.default_rng(seed).random((6, 7, 8)) < 0.15
    padded = np.pad(reference, margin)
    counts = count_lesions(padded, padded, LesionRule(min_share=1.0))
    assert (counts.found, counts.false_positives) == (counts.reference, 0)
    assert counts == count_lesions(reference, reference, LesionRule())
    nothing = count_lesions(reference, ~reference, LesionRule())
    assert nothing.found == 0
    # A hole's voxels touch nothing that is predicted; the other way round they are what is predicted.
    assert nothing.false_positives == counts.reference


def test_each_rule_is_described_in_one_line():
    assert LesionRule().describe() == (
        "lesions: connected by corners, of any size; found if one predicted lesion covers a voxel of it; "
        "false positive if it touches no reference"
    )
    line = LesionRule(0.25, 10, "faces").describe()
    assert "by faces" in line
    assert "of 10 voxels" in line
    assert "25% of it" in line


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"min_share": 1.1}, "min_share=1.1; use a number from 0 to 1"),
        ({"min_share": math.nan}, "min_share=nan; use a number from 0 to 1"),
        ({"min_voxels": 0}, "min_voxels=0; use 1 or more"),
        ({"connectivity": "26"}, "connectivity='26'; use full or faces"),
    ],
)
def test_rules_that_are_none_are_refused(rule, message):
    with pytest.raises(LesionRuleError, match=f"lesions: {message}") as refusal:
        LesionRule(**rule)
    assert isinstance(refusal.value, UserError)
