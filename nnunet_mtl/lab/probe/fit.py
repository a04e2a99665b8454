"""Regularised logistic regression on the descriptors of cases, with a penalty chosen by cross-validation.

For every kind of question the result is one linear layer whose outputs have the meaning of a classification head's
outputs. Every class has the same weight, however rare it is.
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
        mean: Mean of the descriptors on which the probe was fitted, (D,).
        var: Variance of these descriptors, (D,).
        weight: Weight of the standardised descriptor, (outputs, D).
        bias: Bias, (outputs,).
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

    The chosen penalty has the smallest loss in a cross-validation that keeps the cases of a patient together; of
    equally good penalties the strongest one is chosen. A class without cases is answered as improbable.

    Args:
        question: The question to answer.
        descriptors: Descriptor of each case, (N, D), N at least 1.
        targets: One-hot, for multilabel multi-hot, (N, C).
        patients: Patient of each case, N of them.
    """
    descriptors, targets = np.asarray(descriptors, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    mean, var = descriptors.mean(0), descriptors.var(0)
    scale = np.sqrt(var + _LEAST_VARIANCE) * np.sqrt(descriptors.shape[1])
    # There are fewer cases than values: a rotation into the space of the cases makes a fit fast and does not change it.
    left, singular, axes = np.linalg.svd((descriptors - mean) / scale, full_matrices=False)
    values = left * singular
    strength = _best_strength(question, values, targets, patients)
    weight, bias = _FITS[question.kind](values, targets, strength)
    return LinearProbe(mean, var, weight @ axes / np.sqrt(descriptors.shape[1]), bias, strength)


def case_probabilities(question: ClassificationTask, logits: Array) -> Array:
    """Turn logits (N, outputs) into the probability of each class, (N, C)."""
    return probabilities(question.kind, torch.from_numpy(np.asarray(logits))).double().numpy()


def balanced_loss(question: ClassificationTask, logits: Array, targets: Array) -> float:
    """Return the negative log-likelihood of the true classes: the mean over classes of the mean over their cases."""
    predicted = case_probabilities(question, logits).clip(1e-7, 1 - 1e-7)
    losses = -np.log(predicted) * targets
    if question.kind == "multilabel":
        losses = np.concatenate((losses, -np.log(1 - predicted) * (1 - targets)), axis=1)
        targets = np.concatenate((targets, 1 - targets), axis=1)
    counts = targets.sum(0)
    return float((losses.sum(0)[counts > 0] / counts[counts > 0]).mean())


def patient_folds(targets: Array, patients: Sequence[Hashable], n_folds: int) -> npt.NDArray[np.int_]:
    """Return the fold of every case, (N,); a patient's cases share a fold, and classes are spread evenly."""
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
        binary = len(present) == 2  # then scikit-learn has one logit, for the second class
        weight[present] = np.concatenate((-model.coef_, model.coef_)) / 2 if binary else model.coef_
        bias[present] = np.concatenate((-model.intercept_, model.intercept_)) / 2 if binary else model.intercept_
    return weight, bias


def _ordinal(values: Array, targets: Array, strength: float) -> tuple[Array, Array]:
    above = targets[:, ::-1].cumsum(1)[:, ::-1][:, 1:]  # whether the true class is above class k
    return _binary(values, above, strength)


def _binary(values: Array, holds: Array, strength: float) -> tuple[Array, Array]:
    """Fit a separate yes-or-no regression for every column."""
    weight, bias = np.zeros((holds.shape[1], values.shape[1])), np.zeros(holds.shape[1])
    for column, is_true in enumerate(holds.T):
        positives, n_cases = is_true.sum(), len(is_true)
        if 0 < positives < n_cases:
            model = _regression(strength).fit(values, is_true > 0.5)
            weight[column], bias[column] = model.coef_[0], model.intercept_[0]
        else:
            bias[column] = np.log((positives + 0.5) / (n_cases - positives + 0.5))
    return weight, bias


def _regression(strength: float) -> Any:
    return LogisticRegression(C=strength, class_weight="balanced", tol=1e-6, max_iter=10_000)


_FITS: dict[str, Callable[[Array, Array, float], tuple[Array, Array]]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "multilabel": _binary,
}
