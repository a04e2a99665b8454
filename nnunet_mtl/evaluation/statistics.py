"""Bootstrap intervals of a statistic over cases, and paired tests of two runs on the same cases.

The bootstrap draws cases and takes them as independent: of several scans of one patient only one may be passed in.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.stats import DegenerateDataWarning, bootstrap, wilcoxon

CONFIDENCE = 0.95
N_RESAMPLES = 2000
# The smallest two-sided p value of n pairs is 2 / 2^n: with fewer than six pairs no p value is below 0.05.
LEAST_PAIRS = 6
ZERO_METHOD = "wilcox"  # pairs without a difference are left out
_MOST_NUMBERS = 4_000_000  # per batch of resamples, so that thousands of cases fit into memory
_DECIMALS = 12  # 0.84 - 0.80 and 0.44 - 0.40 are a tie, although the last bits differ

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.floating[Any]]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A statistic over cases with its bootstrap interval.

    Attributes:
        value: The statistic; None if there is no case.
        low: Lower limit of the interval; None with fewer than two cases.
        high: Upper limit of the interval; None with fewer than two cases.
        n_cases: Number of cases with a value.
        n_missing: Number of cases without a value (NaN), which are left out.
    """

    value: float | None
    low: float | None
    high: float | None
    n_cases: int
    n_missing: int


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two runs on the same cases.

    Attributes:
        difference: Mean of first minus second over the cases with a value in both runs, with its interval.
        n_nonzero: Number of pairs that differ; the test uses no other pairs.
        p_value: Two-sided p value of Wilcoxon's signed-rank test; None with fewer than `LEAST_PAIRS` differing pairs.
        p_holm: The p value after `corrected` has corrected all comparisons by Holm's method; None before.
    """

    difference: Estimate
    n_nonzero: int
    p_value: float | None
    p_holm: float | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)


def bootstrap_interval(
    groups: Sequence[Array],
    statistic: Callable[..., Any],
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray] | None:
    """Return the bootstrap interval (BCa) of one or several statistics; every group of cases is resampled separately.

    Args:
        groups: G arrays of cases or case numbers to draw from, (N_g,).
        statistic: Takes G arrays of resamples, (..., N_g); returns (...), or (M, ...) for M statistics.
        confidence: Level of the interval, 0 to 1.
        n_resamples: Number of bootstrap samples.
        seed: Seed of the random numbers.

    Returns:
        Lower and upper limits, () or (M,); None if a group has fewer than two cases. BCa is undefined where all samples
        (nearly) agree: limits are then percentiles of the samples. If all samples agree, the interval has no width,
        which says little about new cases.
    """
    if min(len(group) for group in groups) < 2:
        return None

    def drawn(*samples: Array, axis: int = -1) -> Any:
        return statistic(*(np.moveaxis(sample, axis, -1) for sample in samples))

    options: dict[str, Any] = {"n_resamples": n_resamples, "confidence_level": confidence, "vectorized": True}
    options["batch"] = max(1, _MOST_NUMBERS // sum(len(group) for group in groups))
    with warnings.catch_warnings():
        # Without any spread BCa's correction is 0/0; the percentiles below take its place.
        for category in (DegenerateDataWarning, RuntimeWarning):
            warnings.simplefilter("ignore", category)
        result = bootstrap(tuple(groups), drawn, method="BCa", rng=np.random.default_rng(seed), **options)
    tail = (1 - confidence) / 2
    percentiles = np.quantile(result.bootstrap_distribution, (tail, 1 - tail), axis=-1)
    limits = np.stack([result.confidence_interval.low, result.confidence_interval.high])
    low, high = np.where(np.isnan(limits).any(0), percentiles, limits)
    return low, high


def estimate(
    values: npt.ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return a statistic over cases with its interval by `bootstrap_interval`.

    Args:
        values: One value for each case, (N,); NaN is a case without a value, which is counted as missing.
        statistic: A function of an array and `axis`, such as `numpy.mean`.
        confidence: Level of the interval, 0 to 1.
        n_resamples: Number of bootstrap samples.
        seed: Seed of the random numbers.

    Raises:
        ValueError: If the values are not (N,), or one is infinite.
    """
    all_values = np.asarray(values, dtype=float)
    if all_values.ndim != 1 or np.isinf(all_values).any():
        raise ValueError(f"values: must be (N,) without infinities, are {all_values.shape}")
    known = all_values[~np.isnan(all_values)]
    interval = None
    if len(known):
        interval = bootstrap_interval(
            [known],
            lambda sample: statistic(sample, axis=-1),
            confidence=confidence,
            n_resamples=n_resamples,
            seed=seed,
        )
    low, high = (None, None) if interval is None else (float(limit) for limit in interval)
    value = float(statistic(known, axis=-1)) if len(known) else None
    return Estimate(value, low, high, len(known), len(all_values) - len(known))


def compare(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two runs by their values on the same cases.

    Args:
        first: One value for each case, (N,); NaN where the run has no value.
        second: Values of the same cases in the same order, (N,).
        confidence: Level of the interval of the mean difference, 0 to 1.
        n_resamples: Number of bootstrap samples.
        seed: Seed of the random numbers.

    Returns:
        The comparison; a case that lacks a value in either run is counted as missing and otherwise left out.

    Raises:
        ValueError: If the shapes differ or are not (N,), or a value is infinite.
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != other.shape or np.isinf(one).any() or np.isinf(other).any():
        raise ValueError(f"values: must be of the same cases and finite or NaN, are {one.shape} and {other.shape}")
    differences = np.round(one - other, _DECIMALS)
    mean = estimate(differences, confidence=confidence, n_resamples=n_resamples, seed=seed)
    nonzero = differences[~np.isnan(differences) & (differences != 0)]
    p_value = None
    if len(nonzero) >= LEAST_PAIRS:
        p_value = float(wilcoxon(nonzero, zero_method=ZERO_METHOD).pvalue)
    return Comparison(mean, len(nonzero), p_value)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct the p values of one family of tests by Holm's step-down method.

    None stands for a test that could not be made: it stays None and does not enlarge the family.
    """
    tested = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for step, (value, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - step) * value))
        adjusted[index] = largest
    return adjusted


def corrected(comparisons: Mapping[Key, Comparison]) -> dict[Key, Comparison]:
    """Return the comparisons with `p_holm`; they must be the whole family of tests."""
    adjusted = holm([comparison.p_value for comparison in comparisons.values()])
    return {key: replace(comparisons[key], p_holm=value) for key, value in zip(comparisons, adjusted, strict=True)}


def aligned(runs: Mapping[str, Mapping[str, float | None]]) -> tuple[tuple[str, ...], FloatArray]:
    """Arrange the values of several runs by case in one array.

    Args:
        runs: Values by run, then by case; None or NaN where a run has no value.

    Returns:
        The names of all cases in order of first appearance, (N,), and the values, (R, N), NaN where a run has no value.
    """
    cases = tuple(dict.fromkeys(case for values in runs.values() for case in values))
    table = [[_number(values.get(case)) for case in cases] for values in runs.values()]
    return cases, np.array(table, dtype=float).reshape(len(runs), len(cases))


def _number(value: float | None) -> float:
    return math.nan if value is None else value
