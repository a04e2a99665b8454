import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_mtl.evaluation.metrics.overlap import Overlap, summed, volume_ml

counts = st.tuples(*[st.integers(0, 9)] * 3).map(lambda n: Overlap(n[0], n[0] + n[1], n[0] + n[2]))


def test_two_voxels_of_which_one_is_right():
    prediction, reference = np.zeros((2, 1, 2), dtype=bool), np.zeros((2, 1, 2), dtype=bool)
    prediction[0] = reference[:, :, 0] = True
    overlap = Overlap.of(prediction, reference)
    assert overlap == Overlap(common=1, prediction=2, reference=2)
    assert overlap.dice == 0.5
    assert overlap.voe == pytest.approx(1 - 1 / 3)
    assert overlap.rvd == 0


@pytest.mark.parametrize(("predicted", "rvd"), [(6, 0.5), (2, -0.5), (4, 0), (0, -1)])
def test_relative_volumes_are_positive_where_too_much_is_predicted(predicted, rvd):
    overlap = Overlap(0, predicted, 4)
    assert overlap.rvd == rvd
    assert overlap.relative_volume_difference == abs(rvd)


def test_what_would_divide_by_zero_is_not_available():
    nothing = Overlap(0, 0, 0)
    values = (nothing.dice, nothing.voe, nothing.rvd, nothing.relative_volume_difference, Overlap(0, 3, 0).rvd)
    assert all(math.isnan(value) for value in values)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(overlap=counts)
def test_dice_and_voe_say_the_same_and_do_not_depend_on_the_order(overlap):
    swapped = Overlap(overlap.common, overlap.reference, overlap.prediction)
    assert (swapped.dice, swapped.voe) == pytest.approx((overlap.dice, overlap.voe), nan_ok=True)
    jaccard = 1 - overlap.voe
    assert overlap.dice == pytest.approx(2 * jaccard / (1 + jaccard), nan_ok=True)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999))
def test_global_dice_is_that_of_all_cases_in_one_image(seed):
    predictions, references = np.random.default_rng(seed).random((2, 4, 3, 5)) < 0.4
    cases = [Overlap.of(*pair) for pair in zip(predictions, references, strict=True)]
    assert summed(cases) == Overlap.of(predictions, references)


def test_in_the_global_dice_a_large_case_weighs_more():
    large, small = Overlap(90, 100, 100), Overlap(0, 10, 10)
    assert summed([large, small]).dice == pytest.approx(180 / 220)
    assert math.isnan(summed([]).dice)


def test_volumes_are_in_millilitres():
    assert volume_ml(100, (5.0, 2.0, 1.5)) == pytest.approx(1.5)


def test_masks_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"prediction \(1, 3\) and reference \(3, 1\) must have the same shape"):
        Overlap.of(np.ones((1, 3), dtype=bool), np.ones((3, 1), dtype=bool))
