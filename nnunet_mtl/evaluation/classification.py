"""Scores of image-level answers: AUC, balanced accuracy and accuracy per question, intervals, and a check for collapse.

What cannot be said is None, never a number: where a class has no case, or where there are fewer than two cases.
"""

import csv
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import DegenerateDataWarning, bootstrap, rankdata
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from nnunet_mtl._messages import listed, shown
from nnunet_mtl.errors import UserError
from nnunet_mtl.tasks import ClassificationTask, TaskSet

COLUMNS = ("case", "task", "class", "probability", "evidence_volume_mm3")
METRICS = ("auc", "balanced_accuracy", "accuracy")

Array = npt.NDArray[Any]


class AnswersError(UserError):
    """A table of image-level answers cannot be read, or does not fit the data set's questions."""


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
    if len(labels) >= 2 and targets.any(0).all():
        if targets.shape[1] == 2:
            area = roc_auc_score(labels, probabilities[:, 1])
        else:
            area = roc_auc_score(targets, probabilities, average="macro")
        metrics = {
            "auc": float(area),
            "balanced_accuracy": float(balanced_accuracy_score(labels, answers)),
            "accuracy": float((answers == labels).mean()),
        }
    return QuestionScores(len(labels), metrics, collapsed(answers, labels))


def _multilabel_scores(probabilities: Array, targets: Array) -> QuestionScores:
    columns = range(targets.shape[1])
    pairs = [(np.stack([1 - probabilities[:, c], probabilities[:, c]], 1), targets[:, c]) for c in columns]
    each = [scores(both, np.stack([~label, label], 1)) for both, label in pairs]
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


# ---- intervals


def auc_interval(
    probabilities: Array, positive: Array, *, confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Return the bootstrap interval (BCa) of an AUC, positives and negatives drawn each among themselves.

    Args:
        probabilities: Of the positive class, (N,).
        positive: Which cases are positive, (N,) bool.
        confidence: Of the interval, 0 to 1.
        n_resamples: Bootstrap samples.
        seed: Of the drawing.

    Returns:
        Lower and upper limit; None with fewer than two positive or two negative cases. Where every sample gives the
        same AUC (perfect separation) both are that value, which says little about new cases.
    """
    probabilities, positive = np.asarray(probabilities, dtype=float), np.asarray(positive, dtype=bool)

    def area(positives: Array, negatives: Array) -> Array:
        return _area(probabilities[positives], probabilities[negatives])

    return _interval(area, positive, confidence, n_resamples, seed)


def auc_difference_interval(
    first: Array, second: Array, positive: Array, *, confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Return the interval of the AUC of `first` less that of `second`, both (N,) on the same cases; see `auc_interval`.

    The cases are drawn once for both, so what is hard for both does not widen the interval.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)

    def difference(positives: Array, negatives: Array) -> Array:
        return _area(first[positives], first[negatives]) - _area(second[positives], second[negatives])

    return _interval(difference, np.asarray(positive, dtype=bool), confidence, n_resamples, seed)


def _area(positives: Array, negatives: Array) -> Array:
    """Return the AUC along the last axis: how often a positive ranks before a negative, ties half."""
    shape = np.broadcast_shapes(positives.shape[:-1], negatives.shape[:-1])
    n_positive, n_negative = positives.shape[-1], negatives.shape[-1]
    values = [np.broadcast_to(part, (*shape, part.shape[-1])) for part in (positives, negatives)]
    ranks = rankdata(np.concatenate(values, axis=-1), axis=-1)
    excess = ranks[..., :n_positive].sum(-1) - n_positive * (n_positive + 1) / 2
    return np.asarray(excess / (n_positive * n_negative))


def _interval(
    statistic: Callable[[Array, Array], Array], positive: Array, confidence: float, n_resamples: int, seed: int
) -> tuple[float, float] | None:
    groups = (np.flatnonzero(positive), np.flatnonzero(~positive))
    if min(len(group) for group in groups) < 2:
        return None

    def drawn(positives: Array, negatives: Array, axis: int = -1) -> Array:
        return statistic(np.moveaxis(positives, axis, -1).astype(int), np.moveaxis(negatives, axis, -1).astype(int))

    options: dict[str, Any] = {"n_resamples": n_resamples, "confidence_level": confidence, "vectorized": True}
    with warnings.catch_warnings():
        # Without any spread the correction is 0/0; the percentiles below are then all there is.
        for category in (DegenerateDataWarning, RuntimeWarning):
            warnings.simplefilter("ignore", category)
        result = bootstrap(groups, drawn, method="BCa", rng=np.random.default_rng(seed), **options)
    low, high = result.confidence_interval
    if math.isnan(low + high):
        tail = (1 - confidence) / 2
        low, high = np.quantile(result.bootstrap_distribution, (tail, 1 - tail))
    return float(low), float(high)


# ---- tables


def read_answers(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Read the probabilities of a `classification.csv`: by question, then case, then class.

    Raises:
        AnswersError: If it cannot be read, or a line is not as it must be; the line is named.
    """
    answers: dict[str, dict[str, dict[str, float]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS[:4] if name not in (reader.fieldnames or ())]
            if missing:
                raise AnswersError(f"{path}: line 1: no column {listed(missing)}; expected {', '.join(COLUMNS)}")
            for row in reader:
                probability = _probability(path, reader.line_num, row["probability"])
                of_case = answers.setdefault(row["task"], {}).setdefault(row["case"], {})
                if row["class"] in of_case:
                    raise AnswersError(
                        f"{path}: line {reader.line_num}: case, task and class a second time; remove one"
                    )
                of_case[row["class"]] = probability
    except OSError as error:
        raise AnswersError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise AnswersError(f"{path}: is no CSV file ({error}); give the one that nnunet_mtl predict wrote") from None
    return answers


def _probability(path: Path, line: int, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise AnswersError(f"{path}: line {line}: probability {shown(text)} must be a number from 0 to 1")
    return value


def score_table(path: Path, taskset: TaskSet) -> dict[str, QuestionScores]:
    """Score a `classification.csv` with the labels of a data set; cases without an answer or a label do not count.

    Args:
        path: The table.
        taskset: Names the questions and holds the labels.

    Raises:
        AnswersError: If the table cannot be read, or lacks a class of a question for a case.
    """
    answers = read_answers(path)
    return {question.name: _scored(path, answers, question, taskset) for question in taskset.classification}


def _scored(
    path: Path, answers: Mapping[str, Mapping[str, Mapping[str, float]]], question: ClassificationTask, taskset: TaskSet
) -> QuestionScores:
    known = {name: case.classes[question.name] for name, case in taskset.cases.items() if question.name in case.classes}
    answered = answers.get(question.name, {})
    cases = [case for case in known if case in answered]
    for case in cases:
        if set(answered[case]) != set(question.classes):
            raise AnswersError(
                f"{path}: case {shown(case)}, task {shown(question.name)}: holds the classes {listed(answered[case])}, "
                f"the data set asks for {listed(question.classes)}; predict again with a model of this data set"
            )
    probabilities = [[answered[case][name] for name in question.classes] for case in cases]
    targets = [_hot(question.classes, known[case]) for case in cases]
    shape = (len(cases), len(question.classes))
    return scores(np.reshape(probabilities, shape), np.reshape(targets, shape), question.kind)


def _hot(classes: Sequence[str], label: str | tuple[str, ...]) -> list[bool]:
    true = (label,) if isinstance(label, str) else label
    return [name in true for name in classes]
