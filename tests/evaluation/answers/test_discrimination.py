import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from nnunet_mtl.evaluation.answers.discrimination import (
    area,
    auc_interval,
    mean_auc,
    mean_average_precision,
    precision_area,
    roc_points,
)

TIED = st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7]), min_size=1, max_size=6)


def test_average_precision_by_hand() -> None:
    # the first positive is above all others, of the three down to the second two are positive
    found = mean_average_precision(np.array([[0.1, 0.9], [0.4, 0.6], [0.6, 0.4]]), np.array([[0, 1], [1, 0], [0, 1]]))
    assert found == pytest.approx((1 + 2 / 3) / 2)
    assert precision_area(np.array([0.9, 0.4]), np.array([0.6])) == pytest.approx((1 + 2 / 3) / 2)


def test_three_classes_are_each_against_the_rest() -> None:
    probabilities, targets = np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]), np.eye(3)
    # the first class ranks its case second, the second ties with one of two, the third is first
    assert mean_auc(probabilities, targets) == pytest.approx((0.5 + 0.75 + 1) / 3)
    assert mean_average_precision(probabilities, targets) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(TIED, TIED)
def test_many_samples_at_once_are_what_scikit_learn_gives_for_one(
    positives: list[float], negatives: list[float]
) -> None:
    labels, values = [1] * len(positives) + [0] * len(negatives), [*positives, *negatives]
    drawn = np.array([positives] * 2), np.array([negatives, [0.5] * len(negatives)])
    assert area(*drawn)[0] == pytest.approx(roc_auc_score(labels, values))
    assert precision_area(*drawn)[0] == pytest.approx(average_precision_score(labels, values))
    halves = positives + [0.5] * len(negatives)
    assert area(*drawn)[1] == pytest.approx(roc_auc_score(labels, halves))
    assert precision_area(*drawn)[1] == pytest.approx(average_precision_score(labels, halves))


def test_points_of_a_curve_by_hand() -> None:
    curve = roc_points(np.array([0.9, 0.6, 0.4]), np.array([True, False, True]))
    assert curve.false_positive_rate.tolist() == [0, 0, 1, 1]
    assert curve.true_positive_rate.tolist() == [0, 0.5, 0.5, 1]
    assert curve.to_mapping()["thresholds"] == [None, 0.9, 0.6, 0.4]
    json.dumps(curve.to_mapping(), allow_nan=False)


def test_the_area_under_the_points_is_the_auc() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(40) % 3 == 0
    values = rng.normal(0, 1, 40) + positive
    curve = roc_points(values, positive)
    assert np.trapezoid(curve.true_positive_rate, curve.false_positive_rate) == pytest.approx(
        float(area(values[positive], values[~positive]))
    )


def test_an_interval_takes_lists_and_any_truth_values() -> None:
    values: Any = [0.1, 0.4, 0.3, 0.8, 0.2, 0.9]
    labels: Any = [0, 0, 1, 1, 0, 1]
    found = auc_interval(values, labels, n_resamples=200)
    assert found is not None
    assert 0 < found[0] < 8 / 9 < found[1] <= 1
