"""Everything that is reported of answers of which one class is true: scores, intervals, confusion, points of figures.

What cannot be said is None, never a number. Scores that hold classes against each other (AUC, average precision,
balanced accuracy, F1) need a case of every class, kappa cases of two. Sensitivity needs a case of the second class,
specificity one of the first. Means over cases (accuracy, Brier score, calibration error, error in steps) need a case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    mean_absolute_error,
)

from nnunet_mtl.evaluation.calibration_scores import (
    Reliability,
    reliability,
    squared_errors,
    top_class_reliability,
)
from nnunet_mtl.evaluation.discrimination import RocCurve, mean_auc, mean_average_precision, roc_points
from nnunet_mtl.evaluation.resampled_scores import score_intervals
from nnunet_mtl.evaluation.statistics import CONFIDENCE, N_RESAMPLES

LOWER_IS_BETTER = frozenset({"brier", "ece", "mean_absolute_error"})

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class AnswerScores:
    """Scores and figures of a question, or of one of its classes against the rest.

    Attributes:
        metrics: By name; None is not available. Of two classes, `auc`, `average_precision`, `f1`, `sensitivity`,
            `specificity` and `ece` are of the second, and `brier` is the mean squared error of its probability. Of
            more, `auc` and `average_precision` are means over classes of one against the rest, `ece` is of the
            likeliest class, and `brier` is the mean sum of squared errors over the classes. `macro_f1` and
            `balanced_accuracy` are means over classes. Only of ordered classes: `quadratic_kappa`, and
            `mean_absolute_error` in steps from class to class.
        intervals: By the names of the available metrics but `ece`: lower and upper limit, by a bootstrap of the cases
            of each class among themselves; None if a class has a single case.
        confusion: Number of cases by true (row) and answered class (column), (C, C).
        roc: Of the second of two classes; None for more, or where a class has no case.
        reliability: Of the second of two classes, or of the likeliest of more.
    """

    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float] | None]
    confusion: npt.NDArray[np.integer[Any]]
    roc: RocCurve | None
    reliability: Reliability

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {
            "metrics": dict(self.metrics),
            "intervals": {name: None if limits is None else list(limits) for name, limits in self.intervals.items()},
            "confusion": self.confusion.tolist(),
            "roc": None if self.roc is None else self.roc.to_mapping(),
            "reliability": self.reliability.to_mapping(),
        }


def score_answers(
    probabilities: Array,
    targets: Array,
    answers: Array,
    *,
    ordinal: bool = False,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> AnswerScores:
    """Score answers of which exactly one class is true and one is answered.

    Args:
        probabilities: Of every class, (N, C).
        targets: What is true, one-hot, (N, C) bool.
        answers: What is answered, one-hot, (N, C) bool.
        ordinal: Whether the classes are in ascending order.
        confidence: Of the intervals, 0 to 1.
        n_resamples: Bootstrap samples.
        seed: Of the drawing.
    """
    n_classes, occurring = targets.shape[1], int(targets.any(0).sum())
    labels, answered = targets.argmax(1), answers.argmax(1)
    two = n_classes == 2
    reliable = reliability(probabilities[:, 1], targets[:, 1]) if two else top_class_reliability(probabilities, targets)
    metrics: dict[str, float | None] = dict.fromkeys(metric_names(n_classes, ordinal=ordinal))
    if occurring:
        metrics |= _scores_of_cases(labels, answered, ordinal)
        metrics |= {"brier": float(squared_errors(probabilities, targets).mean()), "ece": reliable.error}
    if ordinal and occurring >= 2:
        metrics["quadratic_kappa"] = _quadratic_kappa(labels, answered, n_classes)
    if occurring == n_classes:
        metrics |= _scores_of_classes(probabilities, targets, answers)
    if two:
        recalls = {"sensitivity": 1, "specificity": 0}
        metrics |= {name: _recall(labels, answered, number) for name, number in recalls.items() if number in labels}
    intervals = score_intervals(
        [name for name, value in metrics.items() if value is not None],
        probabilities,
        targets,
        answers,
        confidence=confidence,
        n_resamples=n_resamples,
        seed=seed,
    )
    confusion = targets.T.astype(int) @ answers.astype(int)
    roc = roc_points(probabilities[:, 1], targets[:, 1]) if two and occurring == 2 else None
    return AnswerScores(metrics, intervals, confusion, roc, reliable)


def metric_names(n_classes: int, *, ordinal: bool = False) -> tuple[str, ...]:
    """Return the names of the metrics of a question with one true class, in the order of tables."""
    of_two = ("f1", "sensitivity", "specificity") if n_classes == 2 else ()
    of_steps = ("quadratic_kappa", "mean_absolute_error") if ordinal else ()
    return ("auc", "average_precision", "accuracy", "balanced_accuracy", "macro_f1", *of_two, "brier", "ece", *of_steps)


def _scores_of_classes(probabilities: Array, targets: Array, answers: Array) -> dict[str, float]:
    labels, answered = targets.argmax(1), answers.argmax(1)
    found = {
        "auc": mean_auc(probabilities, targets),
        "average_precision": mean_average_precision(probabilities, targets),
        "balanced_accuracy": balanced_accuracy_score(labels, answered),
        "macro_f1": f1_score(labels, answered, average="macro"),
    }
    if targets.shape[1] == 2:
        found["f1"] = f1_score(labels, answered)
    return {name: float(value) for name, value in found.items()}


def _recall(labels: Array, answered: Array, number: int) -> float:
    return float((answered[labels == number] == number).mean())


def _scores_of_cases(labels: Array, answered: Array, ordinal: bool) -> dict[str, float]:
    found = {"accuracy": accuracy_score(labels, answered)}
    if ordinal:
        found["mean_absolute_error"] = mean_absolute_error(labels, answered)
    return {name: float(value) for name, value in found.items()}


def _quadratic_kappa(labels: Array, answered: Array, n_classes: int) -> float:
    return float(cohen_kappa_score(labels, answered, weights="quadratic", labels=range(n_classes)))
