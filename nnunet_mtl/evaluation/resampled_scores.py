"""The scores of one question for many resamples of its cases at once, and their intervals.

scikit-learn's functions score one sample at a time: right for a figure, minutes for an interval. The tests hold these
against them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_mtl.evaluation.calibration_scores import squared_errors
from nnunet_mtl.evaluation.discrimination import area, precision_area
from nnunet_mtl.evaluation.statistics import CONFIDENCE, N_RESAMPLES, bootstrap_interval

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Resampled:
    """What is needed of the cases of a question, drawn class by class.

    Attributes:
        probabilities: Of every class, (N, C).
        answers: Number of the class that is answered, (N,).
        groups: Numbers of the drawn cases by true class, (..., N_c) each; C of them, empty for a class without cases.
        errors: Squared errors of each case, (N,).
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
        """Return how many cases of each class (rows) are answered with each (columns), (C, C, ...)."""
        numbers = range(len(self.groups))
        return np.array([[(self.answers[group] == number).sum(-1) for number in numbers] for group in self.groups])

    def against_rest(self, measure: Callable[[Array, Array], Array]) -> Array:
        """Return the mean over classes of a measure of one against the rest, (...); of two classes of the second."""
        classes = [1] if len(self.groups) == 2 else range(len(self.groups))
        values = []
        for number in classes:
            rest = np.concatenate([group for other, group in enumerate(self.groups) if other != number], axis=-1)
            chance = self.probabilities[:, number]
            values.append(measure(chance[self.groups[number]], chance[rest]))
        return np.asarray(np.mean(values, axis=0))


def _recalls(cases: Resampled, *classes: int) -> Array:
    """Return the share of each of these classes' cases that is answered with it; each must have a case."""
    confusion = cases.confusion()[list(classes)]
    found = np.stack([of_class[number] for of_class, number in zip(confusion, classes, strict=True)])
    return np.asarray(found / confusion.sum(1))


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


# The expected calibration error is not among them: a resample has fewer different cases in a bin, so its error is
# larger than that of the sample, and an interval around that would be wrong.
SCORES: Mapping[str, Callable[[Resampled], Array]] = {
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


def score_intervals(
    names: Iterable[str],
    probabilities: Array,
    targets: Array,
    answers: Array,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """Return the bootstrap intervals (BCa) of scores of one question, the cases of each class drawn among themselves.

    Args:
        names: Of scores that are available; those that have no interval are left out of the answer.
        probabilities: Of every class, (N, C).
        targets: What is true, one-hot, (N, C) bool.
        answers: What is answered, one-hot, (N, C) bool.
        confidence: Of the interval, 0 to 1.
        n_resamples: Bootstrap samples.
        seed: Of the drawing.

    Returns:
        Lower and upper limit by name; all None if a class that occurs has a single case.
    """
    wanted = [name for name in names if name in SCORES]
    groups = [np.flatnonzero(column) for column in targets.T]
    # The second of two classes first: the same resamples as those of `auc_interval`, and so the same interval.
    present = [number for number, group in reversed(list(enumerate(groups))) if len(group)]
    answered, errors = answers.argmax(1), squared_errors(probabilities, targets)

    def statistic(*drawn: Array) -> Array:
        nobody = np.zeros((*drawn[0].shape[:-1], 0), dtype=int)
        found = dict(zip(present, drawn, strict=True))
        cases = Resampled(probabilities, answered, tuple(found.get(i, nobody) for i in range(len(groups))), errors)
        return np.stack([SCORES[name](cases) for name in wanted])

    if not wanted:
        return {}
    drawn = [groups[number] for number in present]
    interval = bootstrap_interval(drawn, statistic, confidence=confidence, n_resamples=n_resamples, seed=seed)
    if interval is None:
        return dict.fromkeys(wanted)
    return {name: (float(low), float(high)) for name, low, high in zip(wanted, *interval, strict=True)}
