import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, roc_auc_score

from nnunet_mtl.evaluation.answers.calibration import squared_errors
from nnunet_mtl.evaluation.answers.metric_intervals import RESAMPLED_METRICS, Resampled
from nnunet_mtl.evaluation.answers.question_metrics import (
    LOWER_IS_BETTER,
    QuestionMetrics,
    measure_answers,
    metric_names,
)

FEW = settings(deadline=None, max_examples=25, derandomize=True)


def hot(labels: Any, n: int) -> Any:
    return np.eye(n, dtype=bool)[np.asarray(labels, dtype=int)]


def two(chance: Any) -> Any:
    return np.stack([1 - np.asarray(chance), np.asarray(chance)], 1)


def scored(chance: Any, labels: Any, answers: Any, **options: Any) -> QuestionMetrics:
    return measure_answers(two(chance), hot(labels, 2), hot(answers, 2), **{"n_resamples": 50, **options})


def random_question(seed: int, n_classes: int, n: int) -> tuple[Any, Any, Any]:
    """Tied probabilities, and answers that are not always the likeliest, of which every class occurs twice."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(n_classes), n).round(1)
    labels = np.concatenate([np.arange(n_classes).repeat(2), rng.integers(0, n_classes, n - 2 * n_classes)])
    return probabilities, labels, rng.integers(0, n_classes, n)


# ---- scores by hand


def test_two_classes_by_hand() -> None:
    # of three positives two are found, of two negatives one is called positive
    found = scored([0.9, 0.4, 0.7, 0.6, 0.1], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0])
    assert found.metrics == pytest.approx(
        {
            "auc": 5 / 6,
            "average_precision": (1 + 1 + 3 / 4) / 3,
            "accuracy": 3 / 5,
            "balanced_accuracy": (2 / 3 + 1 / 2) / 2,
            "macro_f1": (4 / 6 + 2 / 4) / 2,
            "f1": 4 / 6,
            "sensitivity": 2 / 3,
            "specificity": 1 / 2,
            "brier": (0.01 + 0.36 + 0.09 + 0.36 + 0.01) / 5,
            "ece": (0.1 + 0.6 + 0.3 + 0.6 + 0.1) / 5,  # every case is alone in its bin
        }
    )
    assert found.confusion.tolist() == [[1, 1], [1, 2]]
    assert found.roc is not None
    assert found.reliability.counts.sum() == 5


def test_answers_count_and_not_the_likeliest_class() -> None:
    lenient, strict = (scored([0.3, 0.3, 0.2, 0.1], [1, 1, 0, 0], answers) for answers in ([1, 1, 0, 0], [0] * 4))
    assert (lenient.metrics["sensitivity"], strict.metrics["sensitivity"]) == (1, 0)
    assert (lenient.metrics["specificity"], strict.metrics["specificity"]) == (1, 1)
    assert lenient.metrics["auc"] == strict.metrics["auc"] == 1
    assert strict.metrics["f1"] == 0


def test_ordered_classes_by_hand() -> None:
    # 0 -> 0, 1 -> 2, 2 -> 2: one mistake by one step; by chance (0, 4 and 4, 1 and 1 * 2, 4) / 3 of squared steps
    found = measure_answers(hot([0, 2, 2], 3) * 1.0, hot([0, 1, 2], 3), hot([0, 2, 2], 3), ordinal=True)
    assert found.metrics["quadratic_kappa"] == pytest.approx(1 - 1 / ((4 * 2 + 1 + 2 + 4) / 3))
    assert found.metrics["mean_absolute_error"] == pytest.approx(1 / 3)
    assert found.metrics["brier"] == pytest.approx(2 / 3)
    assert found.metrics["ece"] == pytest.approx(1 / 3)
    assert found.metrics["macro_f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert found.confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert found.roc is None
    far, near = (
        measure_answers(hot([0, 1, 2], 3) * 1.0, hot([0, 1, 2], 3), hot(answers, 3), ordinal=True).metrics
        for answers in ([2, 1, 2], [1, 1, 2])
    )
    assert far["accuracy"] == near["accuracy"]
    assert far["quadratic_kappa"] < near["quadratic_kappa"]  # type: ignore[operator]
    assert far["mean_absolute_error"] == 2 * near["mean_absolute_error"]  # type: ignore[operator]


def test_names_are_those_of_the_kind_of_question() -> None:
    assert set(metric_names(2)) - set(metric_names(3)) == {"f1", "sensitivity", "specificity"}
    assert set(metric_names(3, ordinal=True)) - set(metric_names(3)) == {"quadratic_kappa", "mean_absolute_error"}
    assert {*RESAMPLED_METRICS, "ece"} == set(metric_names(2, ordinal=True))
    assert set(metric_names(2, ordinal=True)) > LOWER_IS_BETTER


# ---- what cannot be said


def test_without_cases_nothing_is_available() -> None:
    found = scored([], [], [], ordinal=True)
    assert found.metrics == dict.fromkeys(metric_names(2, ordinal=True))
    assert found.intervals == {}
    assert found.roc is None
    json.dumps(found.to_mapping(), allow_nan=False)


@pytest.mark.parametrize("present", [0, 1])
def test_with_one_class_what_needs_no_other_is_available(present: int) -> None:
    found = scored([0.7, 0.9, 0.4], [present] * 3, [1, 1, 0], ordinal=True)
    recall, expected = (("specificity", 1 / 3), ("sensitivity", 2 / 3))[present]
    assert {name: value for name, value in found.metrics.items() if value is not None} == {
        "accuracy": pytest.approx(expected),
        recall: pytest.approx(expected),
        "brier": pytest.approx(np.mean([(present - chance) ** 2 for chance in (0.7, 0.9, 0.4)])),
        "ece": pytest.approx(np.mean([abs(present - chance) for chance in (0.7, 0.9, 0.4)])),
        "mean_absolute_error": pytest.approx(1 - expected),
    }
    assert set(found.intervals) == {"accuracy", recall, "brier", "mean_absolute_error"}
    low, high = found.intervals[recall] or (0, 0)
    assert 0 <= low < high <= 1
    assert found.roc is None
    assert found.confusion.sum() == 3
    json.dumps(found.to_mapping(), allow_nan=False)


def test_a_single_case_has_scores_but_no_interval() -> None:
    found = scored([0.7], [1], [1])
    assert (found.metrics["sensitivity"], found.metrics["accuracy"], found.metrics["specificity"]) == (1, 1, None)
    assert found.metrics["brier"] == pytest.approx(0.09)
    assert set(found.intervals.values()) == {None}


def test_without_one_of_three_classes_only_means_over_cases_are_available() -> None:
    found = measure_answers(np.full((4, 3), 1 / 3), hot([0, 0, 1, 1], 3), hot([0, 2, 1, 1], 3), ordinal=True)
    missing = {name for name, value in found.metrics.items() if value is None}
    assert missing == {"auc", "average_precision", "balanced_accuracy", "macro_f1"}
    assert found.metrics["mean_absolute_error"] == 0.5
    assert found.confusion.tolist() == [[1, 0, 1], [0, 2, 0], [0, 0, 0]]
    assert set(found.intervals) == set(found.metrics) - missing - {"ece"}
    low, high = found.intervals["accuracy"] or (0, 0)
    assert 0 < low < 0.75 < high <= 1


def test_a_single_case_of_a_class_has_scores_but_no_interval() -> None:
    found = scored([0.9, 0.2, 0.3], [1, 0, 0], [1, 0, 0])
    assert found.metrics["auc"] == 1
    assert set(found.intervals.values()) == {None}


# ---- intervals


@FEW
@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4]))
def test_scores_of_resamples_are_the_scores_of_each(seed: int, n_classes: int) -> None:
    probabilities, labels, answers = random_question(seed, n_classes, 14)
    groups = [np.flatnonzero(labels == number) for number in range(n_classes)]
    rng = np.random.default_rng(seed)
    drawn = [np.stack([group, rng.choice(group, len(group))]) for group in groups]
    cases = Resampled(probabilities, answers, tuple(drawn), squared_errors(probabilities, hot(labels, n_classes)))
    for row in range(2):
        picked = np.concatenate([group[row] for group in drawn])
        tables = probabilities[picked], hot(labels[picked], n_classes), hot(answers[picked], n_classes)
        alone = measure_answers(*tables, ordinal=True, n_resamples=1)
        for name, value in alone.metrics.items():
            if name in RESAMPLED_METRICS:
                assert RESAMPLED_METRICS[name](cases)[row] == pytest.approx(value), name
        expected = confusion_matrix(labels[picked], answers[picked], labels=range(n_classes))
        assert alone.confusion.tolist() == expected.tolist() == cases.confusion()[..., row].tolist()


def test_an_interval_holds_its_score_and_narrows_with_cases() -> None:
    widths = []
    for n in (40, 400):
        rng = np.random.default_rng(4)
        labels = np.arange(n) % 3
        logits = rng.normal(0, 1, (n, 3)) + 1.5 * hot(labels, 3)
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        answers = hot(probabilities.argmax(1), 3)
        found = measure_answers(probabilities, hot(labels, 3), answers, ordinal=True, n_resamples=300)
        assert set(found.intervals) == set(found.metrics) - {"ece"}
        for name, limits in found.intervals.items():
            assert limits is not None
            assert limits[0] < found.metrics[name] < limits[1], name  # type: ignore[operator]
        widths.append({name: limits[1] - limits[0] for name, limits in found.intervals.items() if limits})
    for name in widths[0]:
        assert widths[1][name] < widths[0][name] / 2


def test_classes_are_drawn_among_themselves() -> None:
    # sensitivity depends on the positives only: more negatives change nothing but the drawing
    chance, labels, answers = np.tile([0.9, 0.4, 0.2], 8), np.tile([1, 1, 0], 8), np.tile([1, 0, 0], 8)
    found = scored(chance, labels, answers, n_resamples=1000)
    assert found.intervals["specificity"] == (1, 1)
    assert found.intervals["sensitivity"] == pytest.approx((0.25, 0.75), abs=0.07)
    # of 16 positives half are found and all 8 negatives: accuracy is 1/3 + 2/3 of the sensitivity
    low, high = found.intervals["sensitivity"] or (0, 0)
    assert found.intervals["accuracy"] == pytest.approx(((1 + 2 * low) / 3, (1 + 2 * high) / 3))


def test_figures_can_be_stored() -> None:
    found = scored([0.9, 0.4, 0.7, 0.6, 0.1], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0], ordinal=True)
    content = json.loads(json.dumps(found.to_mapping(), allow_nan=False))
    assert content["confusion"] == [[1, 1], [1, 2]]
    assert content["metrics"] == found.metrics
    assert len(content["intervals"]["auc"]) == 2
    assert content["roc"]["true_positive_rate"][-1] == 1
    assert len(content["reliability"]["observed"]) == 10


def test_the_auc_of_three_classes_is_their_mean_against_the_rest() -> None:
    probabilities, labels, answers = random_question(0, 3, 30)
    each = [roc_auc_score(labels == number, probabilities[:, number]) for number in range(3)]
    found = measure_answers(probabilities, hot(labels, 3), hot(answers, 3), n_resamples=50)
    assert found.metrics["auc"] == pytest.approx(np.mean(each))
