"""Discrimination: how well probabilities rank positive above negative cases (AUC, average precision, ROC curve)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from nnunet_mtl.evaluation.statistics import CONFIDENCE, N_RESAMPLES, bootstrap_interval

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RocCurve:
    """The P points of a ROC curve, from (0, 0) to (1, 1).

    Attributes:
        false_positive_rate: 1 - specificity, (P,).
        true_positive_rate: Sensitivity, (P,).
        thresholds: Probability from which on a case is called positive, (P,), descending; the first is infinite.
    """

    false_positive_rate: Array
    true_positive_rate: Array
    thresholds: Array

    def to_mapping(self) -> dict[str, Any]:
        """Return the points as JSON-able lists; the infinite threshold is null."""
        return {
            "false_positive_rate": self.false_positive_rate.tolist(),
            "true_positive_rate": self.true_positive_rate.tolist(),
            "thresholds": [value if math.isfinite(value) else None for value in self.thresholds.tolist()],
        }


def roc_points(probabilities: Array, positive: Array) -> RocCurve:
    """Return the ROC curve of probabilities of the positive class, (N,).

    Args:
        probabilities: Probability of the positive class, (N,).
        positive: Which cases are positive, (N,) bool; at least one is positive and at least one is negative.
    """
    return RocCurve(*roc_curve(positive, probabilities))


def mean_auc(probabilities: Array, targets: Array) -> float:
    """Return the AUC of the second of two classes; of more classes, the mean AUC of each class against the rest.

    Args:
        probabilities: Probability of every class, (N, C).
        targets: True classes, one-hot, (N, C) bool; every class occurs.
    """
    if targets.shape[1] == 2:
        return float(roc_auc_score(targets[:, 1], probabilities[:, 1]))
    return float(roc_auc_score(targets, probabilities, average="macro"))


def mean_average_precision(probabilities: Array, targets: Array) -> float:
    """Return the average precision, over classes as in `mean_auc`; by chance it equals the share of positive cases."""
    if targets.shape[1] == 2:
        return float(average_precision_score(targets[:, 1], probabilities[:, 1]))
    return float(average_precision_score(targets, probabilities, average="macro"))


# ---- Many resamples at once: scikit-learn's functions take one sample at a time, which takes minutes for an interval.


def area(positives: Array, negatives: Array) -> Array:
    """Return the AUC along the last axis of (..., P) positive and (..., Q) negative cases, (...).

    It is the share of pairs in which the positive case has the higher probability; a tie counts one half.
    """
    n_positive, n_negative = positives.shape[-1], negatives.shape[-1]
    ranks = rankdata(np.concatenate([positives, negatives], axis=-1), axis=-1)
    excess = ranks[..., :n_positive].sum(-1) - n_positive * (n_positive + 1) / 2
    return np.asarray(excess / (n_positive * n_negative))


def precision_area(positives: Array, negatives: Array) -> Array:
    """Return the average precision along the last axis of (..., P) positive and (..., Q) negative cases, (...).

    It is the mean over positive cases of the share of positives among all cases that are at least as probable.
    """
    at_least = rankdata(-np.concatenate([positives, negatives], axis=-1), "max", axis=-1)[..., : positives.shape[-1]]
    return np.asarray((rankdata(-positives, "max", axis=-1) / at_least).mean(-1))


def auc_interval(
    probabilities: Array,
    positive: Array,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the bootstrap interval (BCa) of an AUC; positives and negatives are resampled separately.

    Args:
        probabilities: Probability of the positive class, (N,).
        positive: Which cases are positive, (N,) bool.
        confidence: Level of the interval, 0 to 1.
        n_resamples: Number of bootstrap samples.
        seed: Seed of the random numbers.

    Returns:
        Lower and upper limit; None with fewer than two positive or two negative cases. If every sample has the same AUC
        (perfect separation), both limits are that value, which says little about new cases.
    """
    return auc_difference_interval(
        probabilities, None, positive, confidence=confidence, n_resamples=n_resamples, seed=seed
    )


def auc_difference_interval(
    first: Array,
    second: Array | None,
    positive: Array,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the interval of the difference of two AUCs, first minus second, on the same cases; see `auc_interval`.

    Both runs use the same resamples, so cases that are hard for both runs do not widen the interval.

    Args:
        first: Probability of the positive class in the first run, (N,).
        second: The same in the second run, (N,); None for the interval of the first run's AUC.
        positive: Which cases are positive, (N,) bool.
        confidence: Level of the interval, 0 to 1.
        n_resamples: Number of bootstrap samples.
        seed: Seed of the random numbers.
    """
    runs = [np.asarray(run, dtype=float) for run in (first, second) if run is not None]
    positive = np.asarray(positive, dtype=bool)

    def difference(positives: Array, negatives: Array) -> Array:
        areas = [area(run[positives], run[negatives]) for run in runs]
        return areas[0] - areas[1] if len(areas) > 1 else areas[0]

    groups = (np.flatnonzero(positive), np.flatnonzero(~positive))
    interval = bootstrap_interval(groups, difference, confidence=confidence, n_resamples=n_resamples, seed=seed)
    return None if interval is None else (float(interval[0]), float(interval[1]))
