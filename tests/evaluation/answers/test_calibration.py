import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from nnunet_mtl.evaluation.answers.calibration import N_BINS, reliability, squared_errors, top_class_reliability

CASES = st.lists(st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.booleans()), min_size=1, max_size=12)


def two(chance: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(chance), np.array(chance)], 1)


def test_the_error_by_hand() -> None:
    found = reliability(np.array([0.62, 0.68, 0.05]), np.array([True, False, False]))
    # 0.65 was said of two and true of one; 0.05 of one and true of none
    assert found.error == pytest.approx(2 / 3 * 0.15 + 1 / 3 * 0.05)
    assert found.counts.tolist() == [1, 0, 0, 0, 0, 0, 2, 0, 0, 0]
    assert found.centres[6] == pytest.approx(0.65)
    assert (found.predicted[6], found.observed[6]) == pytest.approx((0.65, 0.5))


def test_empty_bins_are_null_and_no_case_has_no_error() -> None:
    content = json.loads(json.dumps(reliability(np.array([0.25]), np.array([True])).to_mapping(), allow_nan=False))
    assert content["observed"] == [None, None, 1.0, *[None] * 7]
    assert content["counts"][2] == 1
    nothing = reliability(np.zeros(0), np.zeros(0, dtype=bool))
    assert math.isnan(nothing.error)
    assert nothing.counts.tolist() == [0] * N_BINS
    json.dumps(nothing.to_mapping(), allow_nan=False)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(CASES)
def test_bins_are_those_of_scikit_learn(cases: list[tuple[float, bool]]) -> None:
    chance, holds = np.array([value for value, _ in cases]), np.array([label for _, label in cases])
    found = reliability(chance, holds)
    filled = found.counts > 0
    observed, predicted = calibration_curve([*holds, True, False], [*chance, 1.0, 0.0], n_bins=N_BINS)
    # the two that are added (it wants both answers) are in the outer bins only
    inner = filled.copy()
    inner[[0, -1]] = False
    assert found.observed[inner] == pytest.approx(observed[1:-1])
    assert found.predicted[inner] == pytest.approx(predicted[1:-1])
    assert found.counts.sum() == len(cases)
    assert 0 <= found.error <= 1
    assert found.error == pytest.approx(reliability(chance[::-1], holds[::-1]).error)


def test_the_likeliest_class_is_looked_at() -> None:
    probabilities = np.array([[0.1, 0.2, 0.7], [0.62, 0.3, 0.08]])
    found = top_class_reliability(probabilities, np.eye(3, dtype=bool)[[2, 1]])
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 0]
    assert found.error == pytest.approx(abs(0.66 - 0.5))


def test_the_error_of_two_classes_is_that_of_the_second() -> None:
    targets = np.array([[False, True], [True, False]])
    assert squared_errors(two([0.9, 0.3]), targets) == pytest.approx([0.01, 0.09])
    assert squared_errors(two([0.9, 0.3]), targets).mean() == pytest.approx(brier_score_loss([1, 0], [0.9, 0.3]))


def test_the_error_of_more_is_the_sum_over_classes() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    found = squared_errors(probabilities, np.eye(3, dtype=bool)[[0, 1]])
    assert found == pytest.approx([0.25 + 0.09 + 0.04, 2.0])
    expected = brier_score_loss([0, 1], probabilities, scale_by_half=False, labels=[0, 1, 2])
    assert found.mean() == pytest.approx(expected)
