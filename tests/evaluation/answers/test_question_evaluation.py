import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from nnunet_mtl.datasets.classification_table import LabelledAnswers
from nnunet_mtl.evaluation.answers.discrimination import auc_interval
from nnunet_mtl.evaluation.answers.point_metrics import point_metrics_of_table
from nnunet_mtl.evaluation.answers.question_evaluation import evaluate_answers, evaluate_table
from nnunet_mtl.evaluation.answers.question_metrics import metric_names
from nnunet_mtl.tasks import ClassificationTask, TaskSet


def answered(kind: str, probabilities: Any, targets: Any, answers: Any = None, **known: Any) -> LabelledAnswers:
    table = np.array(probabilities, dtype=float)
    if answers is None:
        answers = table >= 0.5 if kind == "multilabel" else np.eye(table.shape[1])[table.argmax(1)]
    question = ClassificationTask("q", kind, tuple("abcde"[: table.shape[1]]))
    thresholds = (0.5,) * (table.shape[1] if kind == "multilabel" else int(table.shape[1] == 2))
    return LabelledAnswers(
        question=question,
        cases=tuple(f"case{i}" for i in range(len(table))),
        probabilities=table,
        targets=np.array(targets, dtype=bool),
        answers=np.array(answers, dtype=bool),
        **{"thresholds": thresholds, "stored": False, "unanswered": (), **known},
    )


def two(chance: Any) -> Any:
    return np.stack([1 - np.asarray(chance), np.asarray(chance)], 1)


def random_labels(seed: int = 0, n: int = 24) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    targets = rng.random((n, 3)) < 0.4
    return np.clip(0.25 + 0.4 * targets + rng.normal(0, 0.2, (n, 3)), 0, 1), targets


def test_two_classes_are_one_question() -> None:
    chance, positive = np.array([0.9, 0.4, 0.7, 0.6, 0.1, 0.2]), np.array([1, 1, 1, 0, 0, 0])
    found = evaluate_answers(answered("nominal", two(chance), two(positive)), n_resamples=200)
    assert found.whole is not None
    assert found.metrics == found.whole.metrics
    assert list(found.metrics) == list(metric_names(2))
    assert found.of_class == {}
    assert found.whole.intervals["auc"] == auc_interval(chance, positive, n_resamples=200)
    assert found.averaged == ()


def test_every_class_of_several_is_also_held_against_the_rest() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.4, 0.3, 0.3], [0.1, 0.2, 0.7], [0.5, 0.1, 0.4]])
    found = evaluate_answers(answered("ordinal", probabilities, np.eye(3)[[0, 1, 1, 2, 2]]), n_resamples=20)
    assert list(found.of_class) == ["a", "b", "c"]
    assert found.metrics["auc"] == pytest.approx(np.mean([one.metrics["auc"] for one in found.of_class.values()]))
    assert found.metrics["balanced_accuracy"] == pytest.approx(
        np.mean([one.metrics["sensitivity"] for one in found.of_class.values()])
    )
    assert found.metrics["macro_f1"] == pytest.approx(np.mean([one.metrics["f1"] for one in found.of_class.values()]))
    assert found.of_class["b"].confusion.tolist() == [[3, 0], [1, 1]]  # rows: other, b
    assert found.metrics["mean_absolute_error"] == pytest.approx((1 + 2) / 5)
    assert "quadratic_kappa" not in found.of_class["b"].metrics


def test_labels_are_questions_of_their_own() -> None:
    probabilities, targets = random_labels()
    targets[:, 2] = True  # of the third label there is only yes
    found = evaluate_answers(answered("multilabel", probabilities, targets), n_resamples=50)
    assert found.whole is None
    assert found.averaged == ("a", "b")
    alone = {name for name, value in found.of_class["c"].metrics.items() if value is not None}
    assert alone == {"accuracy", "sensitivity", "brier", "ece"}
    assert list(found.metrics) == [name for name in metric_names(2) if name != "f1"]
    for name in set(found.metrics) - {"macro_f1"}:
        assert found.metrics[name] == pytest.approx(np.mean([found.of_class[label].metrics[name] for label in "ab"]))
    expected = f1_score(targets[:, :2], probabilities[:, :2] >= 0.5, average="macro")
    assert found.metrics["macro_f1"] == pytest.approx(expected)
    single = answered("nominal", two(probabilities[:, 0]), two(targets[:, 0]), two(probabilities[:, 0] >= 0.5))
    whole = evaluate_answers(single, n_resamples=50).whole
    assert whole is not None
    assert whole.to_mapping() == found.of_class["a"].to_mapping()


def test_answers_at_other_thresholds_change_no_auc() -> None:
    probabilities, targets = random_labels(1)
    default = evaluate_answers(answered("multilabel", probabilities, targets), n_resamples=20)
    lenient = evaluate_answers(answered("multilabel", probabilities, targets, probabilities >= 0.2), n_resamples=20)
    for name in ("auc", "average_precision", "brier", "ece"):
        assert default.metrics[name] == lenient.metrics[name]
    assert lenient.metrics["sensitivity"] > default.metrics["sensitivity"]  # type: ignore[operator]
    assert lenient.metrics["specificity"] < default.metrics["specificity"]  # type: ignore[operator]


@pytest.mark.parametrize(("kind", "n"), [("nominal", 2), ("ordinal", 3), ("multilabel", 3)])
def test_without_cases_nothing_is_available(kind: str, n: int) -> None:
    found = evaluate_answers(answered(kind, np.zeros((0, n)), np.zeros((0, n)), unanswered=("x",)))
    assert set(found.metrics.values()) == {None}
    content = json.loads(json.dumps(found.to_mapping(), allow_nan=False))
    assert content["n_cases"] == 0
    assert content["unanswered"] == ["x"]
    assert content["averaged"] == []


@pytest.mark.parametrize("kind", ["nominal", "ordinal", "multilabel"])
def test_everything_can_be_stored(kind: str) -> None:
    targets = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    found = evaluate_answers(answered(kind, 0.6 * targets[::-1] + 0.4 / 3, targets), n_resamples=20)
    content = json.loads(json.dumps(found.to_mapping(), allow_nan=False))
    assert content["kind"] == kind
    assert content["n_of_class"] == {"a": 2, "b": 2, "c": 2}
    assert content["ece_bins"] == 10
    assert content["metrics"] == found.metrics
    assert ("confusion" in content) == (kind != "multilabel")
    assert set(content["of_class"]) == {"a", "b", "c"}


def test_it_is_said_what_the_answers_rest_on() -> None:
    pair, triple = (np.eye(2), np.eye(2)), (np.eye(3), np.eye(3))
    assert evaluate_answers(answered("nominal", *pair)).decided_by == "threshold 0.5"
    assert evaluate_answers(answered("nominal", *triple), n_resamples=20).decided_by == "likeliest class"
    stored = evaluate_answers(answered("nominal", *pair, stored=True, thresholds=(0.7,)))
    assert stored.decided_by == "answers stored with the prediction"
    assert stored.to_mapping()["thresholds"] == [0.7]


def test_a_table_is_evaluated_by_the_labels_of_a_data_set(tmp_path: Path) -> None:
    chances = {"a": 0.9, "b": 0.2, "c": 0.7, "d": 0.6, "e": 0.1}
    labels = {"a": "yes", "b": "no", "c": "yes", "d": "no"}
    taskset = TaskSet.from_dataset_json(
        {
            "labels": {"background": 0, "liver": [1, 2], "tumour": [2]},
            "regions_class_order": [1, 2],
            "nnunet_mtl": {
                "version": 1,
                "tasks": {"liver": {"regions": ["liver", "tumour"]}},
                "classification": {"q": {"kind": "nominal", "classes": ["no", "yes"]}},
                "cases": {name: {"annotated": [], "classes": {"q": label}} for name, label in labels.items()},
            },
        }
    )
    with (tmp_path / "classification.csv").open("w", newline="") as file:
        rows = [(case, "q", name, p) for case, yes in chances.items() for name, p in (("yes", yes), ("no", 1 - yes))]
        csv.writer(file).writerows([("case", "task", "class", "probability"), *rows])
    found = evaluate_table(tmp_path / "classification.csv", taskset, n_resamples=100)["q"]
    assert found.answered.cases == ("a", "b", "c", "d")
    assert found.metrics["auc"] == 1
    assert found.metrics["specificity"] == 0.5
    short = point_metrics_of_table(tmp_path / "classification.csv", taskset)["q"].metrics
    assert short == {name: found.metrics[name] for name in short}
    fewer = evaluate_table(tmp_path / "classification.csv", taskset, ["a", "b"])["q"]
    assert fewer.metrics["accuracy"] == 1
