"""Metrics of a question with one true class: values, intervals, confusion matrix, ROC curve, reliability diagram.

A metric that is not available is None. AUC, average precision, balanced accuracy and F1 need a case of every class,
kappa needs cases of two classes, sensitivity a case of the second class and specificity a case of the first. Means over
cases (accuracy, Brier score, calibration error, error in steps) need one case.
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

from nnunet_mtl.evaluation.answers.calibration import (
    Reliability,
    reliability,
    squared_errors,
    top_class_reliability,
)
from nnunet_mtl.evaluation.answers.discrimination import RocCurve, mean_auc, mean_average_precision, roc_points
from nnunet_mtl.evaluation.answers.metric_intervals import metric_intervals
from nnunet_mtl.evaluation.statistics import CONFIDENCE, N_RESAMPLES

LOWER_IS_BETTER = frozenset({"brier", "ece", "mean_absolute_error"})

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QuestionMetrics:
    """Metrics of a question, or of one class of a question against the rest.

    Attributes:
        metrics: Values by name; None where a metric is not available. For two classes, `auc`, `average_precision`,
            `f1`, `sensitivity`, `specificity` and `ece` describe the second class, and `brier` is the mean squared
            error of the second class's probability. For more classes, `auc` and `average_precision` are means over
            classes, each against the rest; `ece` describes the likeliest class, and `brier` is the mean over cases of
            the sum of squared errors over classes. `macro_f1` and `balanced_accuracy` are means over classes. Ordinal
            questions alone have `quadratic_kappa` and `mean_absolute_error`, in steps from class to class.
        intervals: Lower and upper limit of every available metric but `ece`, by a bootstrap in which the cases of every
            class are resampled separately; None if a class has exactly one case.
        confusion: Number of cases by true class (row) and answered class (column), (C, C).
        roc: ROC curve of the second of two classes; None for more classes, or if a class has no case.
        reliability: Reliability diagram of the second of two classes, or of the likeliest of more classes.
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


def measure_answers(
    probabilities: Array,
    targets: Array,
    answers: Array,
    *,
    ordinal: bool = False,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> QuestionMetrics:
    """Measure answers where exactly one class is true and one class is answered.

    Args:
        probabilities: Probability of every class, (N, C).
        targets: True classes, one-hot, (N, C) bool.
        answers: Answered classes, one-hot, (N, C) bool.
        ordinal: Whether the classes are in ascending order.
        confidence: Level of the intervals, 0 to 1.
        n_resamples: Number of bootstrap samples.
        seed: Seed of the random numbers.
    """
    n_classes, occurring = targets.shape[1], int(targets.any(0).sum())
    labels, answered = targets.argmax(1), answers.argmax(1)
    two = n_classes == 2
    reliable = reliability(probabilities[:, 1], targets[:, 1]) if two else top_class_reliability(probabilities, targets)
    metrics: dict[str, float | None] = dict.fromkeys(metric_names(n_classes, ordinal=ordinal))
    if occurring:
        metrics |= _case_metrics(labels, answered, ordinal)
        metrics |= {"brier": float(squared_errors(probabilities, targets).mean()), "ece": reliable.error}
    if ordinal and occurring >= 2:
        metrics["quadratic_kappa"] = _quadratic_kappa(labels, answered, n_classes)
    if occurring == n_classes:
        metrics |= _class_metrics(probabilities, targets, answers)
    if two:
        recalls = {"sensitivity": 1, "specificity": 0}
        metrics |= {name: _recall(labels, answered, number) for name, number in recalls.items() if number in labels}
    intervals = metric_intervals(
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
    return QuestionMetrics(metrics, intervals, confusion, roc, reliable)


def metric_names(n_classes: int, *, ordinal: bool = False) -> tuple[str, ...]:
    """Return the names of the metrics of a question with one true class, in the order of tables."""
    of_two = ("f1", "sensitivity", "specificity") if n_classes == 2 else ()
    of_steps = ("quadratic_kappa", "mean_absolute_error") if ordinal else ()
    return ("auc", "average_precision", "accuracy", "balanced_accuracy", "macro_f1", *of_two, "brier", "ece", *of_steps)


def _class_metrics(probabilities: Array, targets: Array, answers: Array) -> dict[str, float]:
    labels, answered = targets.argmax(1), answers.argmax(1)
    values = {
        "auc": mean_auc(probabilities, targets),
        "average_precision": mean_average_precision(probabilities, targets),
        "balanced_accuracy": balanced_accuracy_score(labels, answered),
        "macro_f1": f1_score(labels, answered, average="macro"),
    }
    if targets.shape[1] == 2:
        values["f1"] = f1_score(labels, answered)
    return {name: float(value) for name, value in values.items()}


def _recall(labels: Array, answered: Array, number: int) -> float:
    return float((answered[labels == number] == number).mean())


def _case_metrics(labels: Array, answered: Array, ordinal: bool) -> dict[str, float]:
    values = {"accuracy": accuracy_score(labels, answered)}
    if ordinal:
        values["mean_absolute_error"] = mean_absolute_error(labels, answered)
    return {name: float(value) for name, value in values.items()}


def _quadratic_kappa(labels: Array, answered: Array, n_classes: int) -> float:
    return float(cohen_kappa_score(labels, answered, weights="quadratic", labels=range(n_classes)))
