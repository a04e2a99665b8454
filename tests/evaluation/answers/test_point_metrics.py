import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from nnunet_mtl.datasets.classification_table import COLUMNS, AnswersError, read_answers
from nnunet_mtl.evaluation.answers.discrimination import auc_difference_interval, auc_interval
from nnunet_mtl.evaluation.answers.point_metrics import collapsed, point_metrics, point_metrics_of_table
from nnunet_mtl.tasks import TaskSet

NOTHING = {"auc": None, "balanced_accuracy": None, "accuracy": None}


def one_hot(labels: Any, n: int) -> Any:
    return np.eye(n)[np.asarray(labels)]


def two(positive: Any) -> Any:
    return np.stack([1 - np.asarray(positive), np.asarray(positive)], 1)


def test_two_classes_by_hand() -> None:
    # of the six pairs of a second and a first class four are in order and one is a tie
    found = point_metrics(two([0.9, 0.4, 0.6, 0.4, 0.1]), one_hot([1, 1, 0, 0, 0], 2))
    assert found.n_cases == 5
    assert found.metrics["auc"] == pytest.approx(4.5 / 6)
    assert found.metrics["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.metrics["accuracy"] == pytest.approx(3 / 5)
    assert not found.collapsed


def test_three_classes_are_each_against_the_rest() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    found = point_metrics(probabilities, one_hot([0, 1, 1, 2], 3), "ordinal")
    each = [1.0, 1.0, 1.0]  # every class ranks its own cases first
    assert found.metrics["auc"] == pytest.approx(np.mean(each))
    assert found.metrics["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found.metrics["accuracy"] == pytest.approx(3 / 4)
    swapped = point_metrics(probabilities[:, [1, 0, 2]], one_hot([0, 1, 1, 2], 3))
    assert swapped.metrics["auc"] == pytest.approx((0 + 0.5 + 1) / 3)


def test_labels_are_questions_of_their_own() -> None:
    probabilities = np.array([[0.9, 0.6, 0.7], [0.2, 0.7, 0.7], [0.8, 0.1, 0.6]])
    targets = np.array([[1, 1, 1], [0, 0, 1], [0, 0, 1]])  # of the third label there is only yes
    found = point_metrics(probabilities, targets, "multilabel")
    assert found.metrics["auc"] == pytest.approx((1.0 + 0.5) / 2)
    assert found.metrics["accuracy"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert found.metrics["balanced_accuracy"] == pytest.approx((0.75 + 0.75) / 2)


@pytest.mark.parametrize(
    ("probabilities", "targets", "kind", "accuracy"),
    [
        (np.zeros((0, 2)), np.zeros((0, 2)), "nominal", None),
        (two([0.7]), one_hot([1], 2), "nominal", 1.0),
        (two([0.7, 0.2]), one_hot([1, 1], 2), "nominal", 0.5),
        (np.full((3, 3), 1 / 3), one_hot([0, 1, 1], 3), "ordinal", pytest.approx(1 / 3)),
        (np.zeros((0, 2)), np.zeros((0, 2)), "multilabel", None),
        # the means are over labels of which there are both
        (two([0.7, 0.2]), np.ones((2, 2)), "multilabel", None),
    ],
)
def test_what_cannot_be_said_is_not_available(probabilities: Any, targets: Any, kind: str, accuracy: Any) -> None:
    found = point_metrics(probabilities, targets, kind)
    assert found.metrics == NOTHING | {"accuracy": accuracy}
    assert found.n_cases == len(targets)


def test_one_class_for_everything_is_a_collapse() -> None:
    assert point_metrics(two([0.6, 0.9, 0.7]), one_hot([1, 0, 1], 2)).collapsed
    assert not point_metrics(two([0.6, 0.9, 0.7]), one_hot([1, 1, 1], 2)).collapsed  # it is right
    assert not point_metrics(two([0.6, 0.1, 0.7]), one_hot([1, 0, 1], 2)).collapsed
    assert point_metrics(two([0.6, 0.9]), np.array([[0, 1], [1, 0]]), "multilabel").collapsed
    assert not point_metrics(two([0.6, 0.4]), np.array([[0, 1], [1, 0]]), "multilabel").collapsed
    assert not collapsed(np.zeros(0), np.zeros(0))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.7]), st.booleans()), min_size=2, max_size=12))
def test_order_and_scale_change_no_auc(cases: list[tuple[float, bool]]) -> None:
    values, labels = np.array([value for value, _ in cases]), np.array([label for _, label in cases])
    found = point_metrics(two(values), two(labels))
    assert point_metrics(two(values[::-1]), two(labels[::-1])) == found
    assert point_metrics(two(values**2), two(labels)).metrics["auc"] == found.metrics["auc"]
    if found.metrics["auc"] is not None:
        assert point_metrics(two(1 - values), two(labels)).metrics["auc"] == pytest.approx(1 - found.metrics["auc"])


# ---- intervals


def draw(n: int, separation: float, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 3 == 0
    return rng.normal(0, 1, n) + separation * positive, positive


def test_an_interval_holds_the_auc_and_narrows_with_cases() -> None:
    widths = []
    for n in (30, 300):
        values, positive = draw(n, 1.0, 0)
        low, high = auc_interval(values, positive) or (0, 0)
        assert low < roc_auc_score(positive, values) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.integers(0, 10**6))
def test_an_interval_depends_on_ranks_and_seed_only(seed: int) -> None:
    values, positive = draw(24, 0.7, seed)
    interval = auc_interval(values, positive, n_resamples=200, seed=3)
    assert auc_interval(np.exp(values), positive, n_resamples=200, seed=3) == interval
    assert interval is not None
    assert 0 <= interval[0] <= interval[1] <= 1


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = 0.7602  # P(X + 1 > Y) of two standard normal variables
    intervals = [auc_interval(*draw(60, 1.0, seed), confidence=0.9, n_resamples=300) for seed in range(100)]
    covered = sum(low < truth < high for low, high in filter(None, intervals))
    assert 80 <= covered <= 97


def test_perfect_separation_has_no_width() -> None:
    values, positive = draw(12, 100.0, 0)
    assert auc_interval(values, positive) == (1.0, 1.0)
    assert auc_interval(-values, positive) == (0.0, 0.0)


def test_too_few_cases_have_no_interval() -> None:
    assert auc_interval(np.array([0.1, 0.2, 0.3]), np.array([True, False, False])) is None
    assert auc_difference_interval(np.zeros(3), np.zeros(3), np.array([True, True, False])) is None


def test_a_difference_is_of_the_same_cases() -> None:
    values, positive = draw(240, 1.0, 0)
    noise = np.random.default_rng(1).normal(0, 1, 240)
    assert auc_difference_interval(values, values, positive) == (0.0, 0.0)
    low, high = auc_difference_interval(values, noise, positive) or (0, 0)
    assert 0 < low < roc_auc_score(positive, values) - roc_auc_score(positive, noise) < high
    swapped = auc_difference_interval(noise, values, positive) or (0, 0)
    assert swapped == pytest.approx((-high, -low), abs=0.02)
    # a little worse on every case together: paired, the difference is sure; of two single intervals it is not
    worse = values + np.random.default_rng(2).normal(0, 0.3, 240) * ~positive + 0.3 * ~positive
    single = [auc_interval(each, positive) or (0, 0) for each in (values, worse)]
    assert single[0][0] < single[1][1]
    assert (auc_difference_interval(values, worse, positive) or (0, 0))[0] > 0


# ---- tables


def dataset(cases: dict[str, Any]) -> TaskSet:
    return TaskSet.from_dataset_json(
        {
            "labels": {"background": 0, "liver": [1, 2], "tumour": [2]},
            "regions_class_order": [1, 2],
            "nnunet_mtl": {
                "version": 1,
                "tasks": {"liver": {"regions": ["liver", "tumour"]}},
                "classification": {
                    "malignancy": {"kind": "nominal", "classes": ["benign", "malignant"], "evidence": "tumour"},
                    "findings": {"kind": "multilabel", "classes": ["cyst", "calcified, coarse"]},
                },
                "cases": {name: {"annotated": [], "classes": classes} for name, classes in cases.items()},
            },
        }
    )


def write(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def rows_of(case: str, malignant: float, cyst: float, coarse: float) -> list[tuple[str, ...]]:
    return [
        (case, "malignancy", "malignant", str(malignant), "12.5"),
        (case, "malignancy", "benign", str(1 - malignant), "12.5"),
        (case, "findings", "cyst", str(cyst), ""),
        (case, "findings", "calcified, coarse", str(coarse), ""),
    ]


def test_a_table_is_joined_with_the_labels(tmp_path: Path) -> None:
    rows = [
        *rows_of("a", 0.8, 0.9, 0.1),
        *rows_of("b", 0.3, 0.2, 0.2),
        *rows_of("c", 0.4, 0.6, 0.9),
        *rows_of("d", 0.9, 0.6, 0.9),
    ]
    labels = {
        "a": {"malignancy": "malignant", "findings": ["cyst"]},
        "b": {"malignancy": "benign", "findings": []},
        "c": {"malignancy": "malignant", "findings": ["calcified, coarse"]},
        "d": {},  # answered, but nobody knows
        "e": {"malignancy": "benign"},  # known, but not answered
    }
    found = point_metrics_of_table(write(tmp_path / "classification.csv", rows), dataset(labels))
    assert list(found) == ["malignancy", "findings"]
    assert found["malignancy"].n_cases == 3
    assert found["malignancy"].metrics == pytest.approx({"auc": 1.0, "balanced_accuracy": 0.75, "accuracy": 2 / 3})
    assert found["findings"].n_cases == 3
    assert found["findings"].metrics["auc"] == 1.0
    assert found["findings"].metrics["accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_table_without_a_question_has_no_scores(tmp_path: Path) -> None:
    path = write(tmp_path / "classification.csv", rows_of("a", 0.8, 0.9, 0.1)[:2])
    found = point_metrics_of_table(path, dataset({"a": {"malignancy": "malignant", "findings": ["cyst"]}}))
    assert found["findings"].n_cases == 0
    assert found["malignancy"].metrics == NOTHING | {"accuracy": 1.0}
    assert found["findings"].metrics == NOTHING


def test_probabilities_come_back_as_they_were(tmp_path: Path) -> None:
    found = read_answers(write(tmp_path / "classification.csv", rows_of("a", 0.8, 0.9, 1e-12)))
    assert found["malignancy"]["a"] == {"malignant": 0.8, "benign": pytest.approx(0.2)}
    assert found["findings"]["a"]["calcified, coarse"] == 1e-12


@pytest.mark.parametrize(
    ("rows", "pattern"),
    [
        ([("a", "malignancy", "benign", "often", "")], "line 2: probability 'often'"),
        ([("a", "malignancy", "benign", "1.5", "")], "line 2: probability '1.5'"),
        ([("a", "malignancy", "benign", "nan", "")], "line 2: probability 'nan'"),
        ([("a", "malignancy")], "line 2: probability ''"),
        ([("a", "malignancy", "benign", "0.5", "")] * 2, "line 3: .*second time"),
        ([("a", "malignancy", "benign", "0.5", "")], "case 'a', task 'malignancy': holds the classes benign"),
        (
            [("a", "malignancy", "benign", "-1", ""), ("a", "malignancy", "benign", "2", "")],
            "line 2: probability '-1' .*; line 3: probability '2' .*; correct or remove these lines",
        ),
        (
            [("a", "malignancy", "benign", "0.5", ""), ("a", "malignancy", "malignant", "0.6", "")],
            "case 'a', task 'malignancy': the probabilities add up to 1.1 and not to 1",
        ),
        ([("a", "malignancy", "benign", "x", "")] * 14, "line 13: [^;]*; and 2 more; correct"),
    ],
)
def test_a_wrong_table_is_refused_by_its_line(tmp_path: Path, rows: Any, pattern: str) -> None:
    path = write(tmp_path / "classification.csv", rows)
    with pytest.raises(AnswersError, match=pattern):
        point_metrics_of_table(path, dataset({"a": {"malignancy": "benign"}}))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnswersError, match="cannot be read"):
        read_answers(tmp_path / "none.csv")
    with pytest.raises(AnswersError, match="no column class"):
        read_answers(write(tmp_path / "short.csv", [], ("case", "task", "probability")))
    (tmp_path / "bytes.csv").write_bytes(b"case,\xff\xfe\x00")
    with pytest.raises(AnswersError, match="is no CSV file"):
        read_answers(tmp_path / "bytes.csv")
