"""AUC, balanced accuracy and accuracy of a question without intervals: fast enough for every epoch of a training.

A metric is None where it is not available: AUC and balanced accuracy if a class has no case, accuracy if there is no
case. `question_evaluation` holds everything else that an evaluation reports of a question.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import balanced_accuracy_score

from nnunet_mtl.datasets.classification_table import join_labels, read_answers
from nnunet_mtl.evaluation.answers.discrimination import mean_auc
from nnunet_mtl.tasks import TaskSet

METRICS = ("auc", "balanced_accuracy", "accuracy")

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PointMetrics:
    """Metrics of one question.

    Attributes:
        n_cases: Number of cases with an answer and a label.
        metrics: By the names in `METRICS`; None where a metric is not available.
        collapsed: Whether one class is answered in every case although the labels hold several classes.
    """

    n_cases: int
    metrics: Mapping[str, float | None]
    collapsed: bool


def point_metrics(probabilities: Array, targets: Array, kind: str = "nominal") -> PointMetrics:
    """Measure the answers to one question.

    Args:
        probabilities: Probability of every class, (N, C).
        targets: True classes, one-hot or (multilabel) multi-hot, (N, C).
        kind: "nominal", "ordinal" or "multilabel".

    Returns:
        AUC of the second of two classes; of more classes, the mean AUC of each class against the rest. Balanced
        accuracy and accuracy of the most probable class. For multilabel, each label is a question with the answer yes
        from 0.5 on, and metrics are means over the labels that are true in some cases and false in others.
    """
    probabilities, targets = np.asarray(probabilities, dtype=float), np.asarray(targets, dtype=bool)
    if kind == "multilabel":
        return _multilabel_metrics(probabilities, targets)
    answers, labels = probabilities.argmax(1), targets.argmax(1)
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    if len(labels):
        metrics["accuracy"] = float((answers == labels).mean())
    if len(labels) and targets.any(0).all():
        metrics["auc"] = mean_auc(probabilities, targets)
        metrics["balanced_accuracy"] = float(balanced_accuracy_score(labels, answers))
    return PointMetrics(len(labels), metrics, collapsed(answers, labels))


def _multilabel_metrics(probabilities: Array, targets: Array) -> PointMetrics:
    columns = range(targets.shape[1])
    pairs = [(np.stack([1 - probabilities[:, c], probabilities[:, c]], 1), targets[:, c]) for c in columns]
    of_labels = [
        point_metrics(no_and_yes, np.stack([~label, label], 1))
        for no_and_yes, label in pairs
        if label.any() and not label.all()
    ]
    metrics: dict[str, float | None] = {}
    for name in METRICS:
        values = [value for of_label in of_labels if (value := of_label.metrics[name]) is not None]
        metrics[name] = float(np.mean(values)) if values else None
    answers = probabilities >= 0.5
    return PointMetrics(len(targets), metrics, collapsed(_row_numbers(answers), _row_numbers(targets)))


def _row_numbers(multi_hot: Array) -> Array:
    """Return a number for every row, (N,): equal rows have equal numbers."""
    return np.unique(multi_hot, axis=0, return_inverse=True)[1].reshape(-1) if len(multi_hot) else np.zeros(0, int)


def collapsed(answers: Array, labels: Array) -> bool:
    """Return whether all answers, (N,), name one class although the labels, (N,), hold several classes."""
    return len(np.unique(answers)) == 1 and len(np.unique(labels)) > 1


def point_metrics_of_table(path: Path, taskset: TaskSet) -> dict[str, PointMetrics]:
    """Measure the answers of a `classification.csv`, by question; cases without an answer or a label do not count.

    Args:
        path: The table.
        taskset: Questions of the data set and labels of its cases.

    Raises:
        AnswersError: If the table cannot be read, or does not hold the classes of a question for a case.
    """
    answers = read_answers(path)
    joined = [join_labels(path, answers, question, taskset) for question in taskset.classification]
    return {one.question.name: point_metrics(one.probabilities, one.targets, one.question.kind) for one in joined}
