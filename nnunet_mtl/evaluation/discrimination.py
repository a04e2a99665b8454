"""How well probabilities put the cases in order: areas under the ROC and the precision-recall curve, and ROC points."""

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
    """Points of a ROC curve, from (0, 0) to (1, 1).

    Attributes:
        false_positive_rate: 1 - specificity of each of P points, (P,).
        true_positive_rate: Sensitivity, (P,).
        thresholds: From which probability on a case is called positive, (P,), descending; the first is infinite.
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
    """Return the ROC curve of probabilities of the positive class, (N,), positive or not, (N,) bool; both occur."""
    return RocCurve(*roc_curve(positive, probabilities))


def mean_auc(probabilities: Array, targets: Array) -> float:
    """Return the AUC of the second of two classes; of more, the mean over them of one against the rest.

    Args:
        probabilities: Of every class, (N, C).
        targets: What is true, (N, C) bool, one-hot; every class occurs.
    """
    if targets.shape[1] == 2:
        return float(roc_auc_score(targets[:, 1], probabilities[:, 1]))
    return float(roc_auc_score(targets, probabilities, average="macro"))


def mean_average_precision(probabilities: Array, targets: Array) -> float:
    """Return the average precision, as `mean_auc` returns the AUC; by chance it is the share of the positive cases."""
    if targets.shape[1] == 2:
        return float(average_precision_score(targets[:, 1], probabilities[:, 1]))
    return float(average_precision_score(targets, probabilities, average="macro"))


# ---- many resamples at once; scikit-learn's functions take one at a time, which for intervals takes minutes


def area(positives: Array, negatives: Array) -> Array:
    """Return the AUC along the last axis of (..., P) and (..., Q): how often a positive is above, ties half."""
    n_positive, n_negative = positives.shape[-1], negatives.shape[-1]
    ranks = rankdata(np.concatenate([positives, negatives], axis=-1), axis=-1)
    excess = ranks[..., :n_positive].sum(-1) - n_positive * (n_positive + 1) / 2
    return np.asarray(excess / (n_positive * n_negative))


def precision_area(positives: Array, negatives: Array) -> Array:
    """Return the average precision along the last axis of (..., P) and (..., Q).

    It is the mean over the positives of the share of positives among all that are at least as probable.
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
    """Return the interval of the AUC of `first` less that of `second`, both (N,) on the same cases; see `auc_interval`.

    The cases are drawn once for both, so what is hard for both does not widen the interval. Without a `second` it is
    the interval of the first.
    """
    runs = [np.asarray(run, dtype=float) for run in (first, second) if run is not None]
    positive = np.asarray(positive, dtype=bool)

    def difference(positives: Array, negatives: Array) -> Array:
        areas = [area(run[positives], run[negatives]) for run in runs]
        return areas[0] - areas[1] if len(areas) > 1 else areas[0]

    groups = (np.flatnonzero(positive), np.flatnonzero(~positive))
    interval = bootstrap_interval(groups, difference, confidence=confidence, n_resamples=n_resamples, seed=seed)
    return None if interval is None else (float(interval[0]), float(interval[1]))
