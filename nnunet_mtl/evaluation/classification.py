"""The few scores of image-level answers that training, probes and demonstrations look at, and a check for collapse.

What cannot be said is None, never a number: AUC and balanced accuracy where a class has no case, accuracy without a
case. All that an evaluation reports is in `question_evaluation`; reading and intervals, which are used with these
scores, can be had from here too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import balanced_accuracy_score

from nnunet_mtl.datasets.classification_table import COLUMNS, NOT_AVAILABLE, AnswersError, join_labels, read_answers
from nnunet_mtl.evaluation.discrimination import auc_difference_interval, auc_interval, mean_auc
from nnunet_mtl.tasks import TaskSet

__all__ = [
    "COLUMNS",
    "METRICS",
    "NOT_AVAILABLE",
    "AnswersError",
    "QuestionScores",
    "auc_difference_interval",
    "auc_interval",
    "collapsed",
    "read_answers",
    "score_table",
    "scores",
]

METRICS = ("auc", "balanced_accuracy", "accuracy")

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QuestionScores:
    """Scores of one question.

    Attributes:
        n_cases: Cases that have both an answer and a label.
        metrics: By the names in `METRICS`; None is not available.
        collapsed: Whether one class is answered for every case although the labels hold more than one.
    """

    n_cases: int
    metrics: Mapping[str, float | None]
    collapsed: bool


def scores(probabilities: Array, targets: Array, kind: str = "nominal") -> QuestionScores:
    """Score one question.

    Args:
        probabilities: Of every class, (N, C).
        targets: What is true, one-hot or (multilabel) multi-hot, (N, C).
        kind: "nominal", "ordinal" or "multilabel".

    Returns:
        AUC of the second of two classes, of more than two the mean over classes of one against the rest; balanced
        accuracy and accuracy of the most probable class. For multilabel every label is a question of its own (yes from
        0.5 on), and the means are over the labels of which there are both.
    """
    probabilities, targets = np.asarray(probabilities, dtype=float), np.asarray(targets, dtype=bool)
    if kind == "multilabel":
        return _multilabel_scores(probabilities, targets)
    answers, labels = probabilities.argmax(1), targets.argmax(1)
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    if len(labels):
        metrics["accuracy"] = float((answers == labels).mean())
    if len(labels) and targets.any(0).all():
        metrics["auc"] = mean_auc(probabilities, targets)
        metrics["balanced_accuracy"] = float(balanced_accuracy_score(labels, answers))
    return QuestionScores(len(labels), metrics, collapsed(answers, labels))


def _multilabel_scores(probabilities: Array, targets: Array) -> QuestionScores:
    columns = range(targets.shape[1])
    pairs = [(np.stack([1 - probabilities[:, c], probabilities[:, c]], 1), targets[:, c]) for c in columns]
    each = [scores(both, np.stack([~label, label], 1)) for both, label in pairs if label.any() and not label.all()]
    metrics: dict[str, float | None] = {}
    for name in METRICS:
        values = [value for one in each if (value := one.metrics[name]) is not None]
        metrics[name] = float(np.mean(values)) if values else None
    answers = probabilities >= 0.5
    return QuestionScores(len(targets), metrics, collapsed(_codes(answers), _codes(targets)))


def _codes(multi_hot: Array) -> Array:
    """Number the different rows."""
    return np.unique(multi_hot, axis=0, return_inverse=True)[1].reshape(-1) if len(multi_hot) else np.zeros(0, int)


def collapsed(answers: Array, labels: Array) -> bool:
    """Return whether one class is answered for every case although the labels, (N,) as the answers, hold several."""
    return len(np.unique(answers)) == 1 and len(np.unique(labels)) > 1


def score_table(path: Path, taskset: TaskSet) -> dict[str, QuestionScores]:
    """Score a `classification.csv` with the labels of a data set; cases without an answer or a label do not count.

    Args:
        path: The table.
        taskset: Names the questions and holds the labels.

    Raises:
        AnswersError: If the table cannot be read, or does not hold the classes of a question for a case.
    """
    answers = read_answers(path)
    joined = [join_labels(path, answers, question, taskset) for question in taskset.classification]
    return {one.question.name: scores(one.probabilities, one.targets, one.question.kind) for one in joined}
