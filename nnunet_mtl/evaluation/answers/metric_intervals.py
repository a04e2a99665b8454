"""Bootstrap intervals of the metrics of one question, computed for many resamples of the cases at once.

scikit-learn's functions take one sample at a time, so an interval would take minutes. The tests compare the metrics of
this module with scikit-learn's.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_mtl.evaluation.answers.calibration import squared_errors
from nnunet_mtl.evaluation.answers.discrimination import area, precision_area
from nnunet_mtl.evaluation.statistics import CONFIDENCE, N_RESAMPLES, bootstrap_interval

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Resampled:
    """Resamples of the N cases of a question, drawn class by class.

    Attributes:
        probabilities: Probability of every class, (N, C).
        answers: Index of the answered class, (N,).
        groups: For each of the C true classes the indices of the drawn cases, (..., N_c); empty for a class without
            cases.
        errors: Squared error of every case, (N,), see `squared_errors`.
    """

    probabilities: Array
    answers: Array
    groups: tuple[Array, ...]
    errors: Array

    @property
    def n_cases(self) -> int:
        """Number of cases in a resample."""
        return sum(group.shape[-1] for group in self.groups)

    def confusion(self) -> Array:
        """Return the number of cases by true class (rows) and answered class (columns), (C, C, ...)."""
        numbers = range(len(self.groups))
        return np.array([[(self.answers[group] == number).sum(-1) for number in numbers] for group in self.groups])

    def against_rest(self, measure: Callable[[Array, Array], Array]) -> Array:
        """Return the mean over classes of a measure of each class against the rest, (...); of two, only the second."""
        classes = [1] if len(self.groups) == 2 else range(len(self.groups))
        values = []
        for number in classes:
            rest = np.concatenate([group for other, group in enumerate(self.groups) if other != number], axis=-1)
            probability = self.probabilities[:, number]
            values.append(measure(probability[self.groups[number]], probability[rest]))
        return np.asarray(np.mean(values, axis=0))


def _recalls(cases: Resampled, *classes: int) -> Array:
    """Return the recall of some classes, (len(classes), ...); every class must have a case."""
    confusion = cases.confusion()[list(classes)]
    correct = np.stack([row[number] for row, number in zip(confusion, classes, strict=True)])
    return np.asarray(correct / confusion.sum(1))


def _f1s(cases: Resampled) -> Array:
    confusion = cases.confusion()
    return np.asarray(2 * np.einsum("cc...->c...", confusion) / (confusion.sum(0) + confusion.sum(1)))


def _accuracy(cases: Resampled) -> Array:
    return np.asarray(np.einsum("cc...->...", cases.confusion()) / cases.n_cases)


def _brier(cases: Resampled) -> Array:
    sums = [cases.errors[group].sum(-1) for group in cases.groups]
    return np.asarray(sum(sums) / cases.n_cases)


def _quadratic_kappa(cases: Resampled) -> Array:
    confusion = cases.confusion()
    by_chance = confusion.sum(1)[:, None] * confusion.sum(0)[None] / cases.n_cases
    weights = _steps(len(confusion)) ** 2
    return np.asarray(
        1 - np.einsum("ij,ij...->...", weights, confusion) / np.einsum("ij,ij...->...", weights, by_chance)
    )


def _mean_absolute_error(cases: Resampled) -> Array:
    confusion = cases.confusion()
    return np.asarray(np.einsum("ij,ij...->...", _steps(len(confusion)), confusion) / cases.n_cases)


def _steps(n_classes: int) -> Array:
    numbers = np.arange(n_classes)
    return np.asarray(np.abs(numbers[:, None] - numbers))


# The expected calibration error is missing on purpose: a bin of a resample has fewer different cases, so the error of a
# resample is larger than the error of the sample, and the interval would be wrong.
RESAMPLED_METRICS: Mapping[str, Callable[[Resampled], Array]] = {
    "auc": lambda cases: cases.against_rest(area),
    "average_precision": lambda cases: cases.against_rest(precision_area),
    "accuracy": _accuracy,
    "balanced_accuracy": lambda cases: _recalls(cases, *range(len(cases.groups))).mean(0),
    "macro_f1": lambda cases: _f1s(cases).mean(0),
    "f1": lambda cases: _f1s(cases)[1],
    "sensitivity": lambda cases: _recalls(cases, 1)[0],
    "specificity": lambda cases: _recalls(cases, 0)[0],
    "brier": _brier,
    "quadratic_kappa": _quadratic_kappa,
    "mean_absolute_error": _mean_absolute_error,
}


def metric_intervals(
    names: Iterable[str],
    probabilities: Array,
    targets: Array,
    answers: Array,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """Return the bootstrap intervals (BCa) of metrics of one question; every class's cases are resampled separately.

    Args:
        names: Names of metrics that are available; names without an interval are not in the result.
        probabilities: Probability of every class, (N, C).
        targets: True classes, one-hot, (N, C) bool.
        answers: Answered classes, one-hot, (N, C) bool.
        confidence: Level of the interval, 0 to 1.
        n_resamples: Number of bootstrap samples.
        seed: Seed of the random numbers.

    Returns:
        Lower and upper limit by name; None for all names if any class has exactly one case.
    """
    wanted = [name for name in names if name in RESAMPLED_METRICS]
    groups = [np.flatnonzero(column) for column in targets.T]
    # The second of two classes comes first, as in `auc_interval`: equal resamples give equal intervals.
    present = [number for number, group in reversed(list(enumerate(groups))) if len(group)]
    answered, errors = answers.argmax(1), squared_errors(probabilities, targets)

    def statistic(*drawn: Array) -> Array:
        no_cases = np.zeros((*drawn[0].shape[:-1], 0), dtype=int)
        drawn_of_class = dict(zip(present, drawn, strict=True))
        drawn_groups = tuple(drawn_of_class.get(number, no_cases) for number in range(len(groups)))
        cases = Resampled(probabilities, answered, drawn_groups, errors)
        return np.stack([RESAMPLED_METRICS[name](cases) for name in wanted])

    if not wanted:
        return {}
    drawn = [groups[number] for number in present]
    interval = bootstrap_interval(drawn, statistic, confidence=confidence, n_resamples=n_resamples, seed=seed)
    if interval is None:
        return dict.fromkeys(wanted)
    return {name: (float(low), float(high)) for name, low, high in zip(wanted, *interval, strict=True)}
