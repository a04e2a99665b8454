"""Regularised logistic regression on the descriptors of cases, its strength chosen by cross-validation.

Whatever the kind of the question, the result is one linear layer whose outputs mean what those of the heads mean. Every
class weighs the same, however rare.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression

from nnunet_mtl.losses.classification import probabilities
from nnunet_mtl.tasks import ClassificationTask

Array = npt.NDArray[np.float64]
# Inverse of the L2 penalty, on descriptors whose squared length is about one.
STRENGTHS = tuple(10.0**power for power in range(-2, 4))
_INNER_FOLDS = 5
_LEAST_VARIANCE = 1e-6  # as in RunningStandardiser, which the exported head uses


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        mean: Of the descriptors it was fitted on, (D,).
        var: Their variance, (D,).
        weight: On the standardised descriptor, (outputs, D).
        bias: (outputs,).
        strength: Inverse of the L2 penalty that was chosen.
    """

    mean: Array
    var: Array
    weight: Array
    bias: Array
    strength: float

    def logits(self, descriptors: Array) -> Array:
        """Return the outputs for descriptors (N, D): (N, outputs)."""
        standardised = (descriptors - self.mean) / np.sqrt(self.var + _LEAST_VARIANCE)
        return np.asarray(standardised @ self.weight.T + self.bias)


def fit_probe(
    question: ClassificationTask, descriptors: Array, targets: Array, patients: Sequence[Hashable]
) -> LinearProbe:
    """Fit a probe; the same input gives the same probe.

    The strength is the one with the least loss in a cross-validation that keeps the cases of a patient together; of
    equally good ones the strongest penalty. A class that no case has is answered as improbable.

    Args:
        question: What is asked.
        descriptors: Of each case, (N, D), N at least 1.
        targets: One-hot, for multilabel multi-hot, (N, C).
        patients: Whose case each is, N of them.
    """
    descriptors, targets = np.asarray(descriptors, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    mean, var = descriptors.mean(0), descriptors.var(0)
    scale = np.sqrt(var + _LEAST_VARIANCE) * np.sqrt(descriptors.shape[1])
    # Fewer cases than values: a rotation into the space the cases span changes no fit and makes each one fast.
    left, singular, axes = np.linalg.svd((descriptors - mean) / scale, full_matrices=False)
    values = left * singular
    strength = _best_strength(question, values, targets, patients)
    weight, bias = _FITS[question.kind](values, targets, strength)
    return LinearProbe(mean, var, weight @ axes / np.sqrt(descriptors.shape[1]), bias, strength)


def case_probabilities(question: ClassificationTask, logits: Array) -> Array:
    """Turn logits (N, outputs) into the probability of each class, (N, C)."""
    return probabilities(question.kind, torch.from_numpy(np.asarray(logits))).double().numpy()


def balanced_loss(question: ClassificationTask, logits: Array, targets: Array) -> float:
    """Return the negative log-likelihood of what is true, the mean over classes of the mean over their cases."""
    of_class = case_probabilities(question, logits).clip(1e-7, 1 - 1e-7)
    losses = -np.log(of_class) * targets
    if question.kind == "multilabel":
        losses = np.concatenate((losses, -np.log(1 - of_class) * (1 - targets)), axis=1)
        targets = np.concatenate((targets, 1 - targets), axis=1)
    counts = targets.sum(0)
    return float((losses.sum(0)[counts > 0] / counts[counts > 0]).mean())


def patient_folds(targets: Array, patients: Sequence[Hashable], n_folds: int) -> npt.NDArray[np.int_]:
    """Deal the cases out, (N,): those of a patient into one fold, and each class as evenly as it goes over all."""
    first: dict[Hashable, int] = {}
    for index, patient in enumerate(patients):
        first.setdefault(patient, index)
    shuffled = np.random.default_rng(0).permutation(list(first.values()))
    by_class = sorted(shuffled.tolist(), key=lambda index: tuple(targets[index]))
    fold_of = {patients[index]: place % n_folds for place, index in enumerate(by_class)}
    return np.array([fold_of[patient] for patient in patients])


def _best_strength(question: ClassificationTask, values: Array, targets: Array, patients: Sequence[Hashable]) -> float:
    n_folds = min(_INNER_FOLDS, len(set(patients)))
    if n_folds < 2:
        return STRENGTHS[0]
    fold_of = patient_folds(targets, patients, n_folds)

    def loss(strength: float) -> float:
        logits: Any = [None] * len(values)
        for fold in range(n_folds):
            held_out = fold_of == fold
            weight, bias = _FITS[question.kind](values[~held_out], targets[~held_out], strength)
            for row in np.flatnonzero(held_out):
                logits[row] = values[row] @ weight.T + bias
        return balanced_loss(question, np.stack(logits), targets)

    return min(STRENGTHS, key=loss)


# ---- one linear layer for each kind of question


def _nominal(values: Array, targets: Array, strength: float) -> tuple[Array, Array]:
    labels, n_classes = targets.argmax(1), targets.shape[1]
    present = np.unique(labels)
    weight, bias = np.zeros((n_classes, values.shape[1])), np.full(n_classes, -np.log(len(labels) + 1.0))
    bias[present] = 0.0
    if len(present) > 1:
        model = _regression(strength).fit(values, labels)
        both = len(present) == 2  # then there is one logit, that of the second of them
        weight[present] = np.concatenate((-model.coef_, model.coef_)) / 2 if both else model.coef_
        bias[present] = np.concatenate((-model.intercept_, model.intercept_)) / 2 if both else model.intercept_
    return weight, bias


def _ordinal(values: Array, targets: Array, strength: float) -> tuple[Array, Array]:
    above = targets[:, ::-1].cumsum(1)[:, ::-1][:, 1:]  # is it more than class k?
    return _each(values, above, strength)


def _each(values: Array, holds: Array, strength: float) -> tuple[Array, Array]:
    """Fit yes or no for every column."""
    weight, bias = np.zeros((holds.shape[1], values.shape[1])), np.zeros(holds.shape[1])
    for column, of_column in enumerate(holds.T):
        positives, n_cases = of_column.sum(), len(of_column)
        if 0 < positives < n_cases:
            model = _regression(strength).fit(values, of_column > 0.5)
            weight[column], bias[column] = model.coef_[0], model.intercept_[0]
        else:
            bias[column] = np.log((positives + 0.5) / (n_cases - positives + 0.5))
    return weight, bias


def _regression(strength: float) -> Any:
    return LogisticRegression(C=strength, class_weight="balanced", tol=1e-6, max_iter=10_000)


_FITS: dict[str, Callable[[Array, Array, float], tuple[Array, Array]]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "multilabel": _each,
}
