"""Calibration of probabilities: Brier score, expected calibration error and the points of a reliability diagram."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

N_BINS = 10

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: how often an event of a given probability happened, in B bins of equal width from 0 to 1.

    The upper edge of a bin belongs to the bin, the lower edge does not; 0 belongs to the first bin.

    Attributes:
        centres: Middle of every bin, (B,).
        predicted: Mean probability of the cases in the bin, (B,); NaN for an empty bin.
        observed: Share of the cases in the bin in which the event happened, (B,); NaN for an empty bin.
        counts: Number of cases in the bin, (B,).
    """

    centres: FloatArray
    predicted: FloatArray
    observed: FloatArray
    counts: npt.NDArray[np.integer[Any]]

    @property
    def error(self) -> float:
        """Expected calibration error: mean over cases of the bin's |observed - predicted|; NaN without a case."""
        if not self.counts.any():
            return math.nan
        filled = self.counts > 0
        gaps = np.abs(self.observed - self.predicted)[filled]
        return float(np.average(gaps, weights=self.counts[filled]))

    def to_mapping(self) -> dict[str, Any]:
        """Return the points as JSON-able lists; None for an empty bin."""
        means = {"predicted": self.predicted.tolist(), "observed": self.observed.tolist()}
        return {
            "centres": self.centres.tolist(),
            **{name: [None if math.isnan(value) else value for value in values] for name, values in means.items()},
            "counts": self.counts.tolist(),
        }


def reliability(probability: FloatArray, holds: BoolArray, n_bins: int = N_BINS) -> Reliability:
    """Return the reliability diagram of the probability of an event, (N,), and of whether it happened, (N,) bool."""
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.searchsorted(edges[1:-1], probability)
    counts = np.bincount(bins, minlength=n_bins)
    means = []
    for values in (probability, holds):
        sums = np.bincount(bins, weights=values, minlength=n_bins)
        means.append(np.divide(sums, counts, out=np.full(n_bins, np.nan), where=counts > 0))
    return Reliability((edges[:-1] + edges[1:]) / 2, means[0], means[1], counts)


def top_class_reliability(probabilities: FloatArray, targets: BoolArray, n_bins: int = N_BINS) -> Reliability:
    """Return the reliability diagram of the likeliest class.

    Args:
        probabilities: Probability of every class, (N, C).
        targets: True classes, one-hot, (N, C) bool.
        n_bins: Number of bins.
    """
    likeliest = probabilities.argmax(1)[:, None]
    chances, hits = np.take_along_axis(probabilities, likeliest, 1), np.take_along_axis(targets, likeliest, 1)
    return reliability(chances[:, 0], hits[:, 0], n_bins)


def squared_errors(probabilities: FloatArray, targets: BoolArray) -> FloatArray:
    """Return the squared error of every case, (N,); the Brier score is the mean of these.

    For two classes it is the squared error of the second class's probability (0 to 1), for more classes the sum of
    squared errors over all classes (0 to 2), as in Brier's definition.

    Args:
        probabilities: Probability of every class, (N, C).
        targets: True classes, one-hot, (N, C) bool.
    """
    errors: FloatArray = (probabilities - targets) ** 2
    return errors[:, 1] if targets.shape[1] == 2 else np.asarray(errors.sum(1))
