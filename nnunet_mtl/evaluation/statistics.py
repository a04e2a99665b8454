"""How sure a figure is: intervals over cases by the bootstrap, and comparisons of two runs on the same cases.

Cases are what is drawn again. Several scans of one patient are not several cases: leave one of each before you ask.
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
# The least two-sided p of n pairs is 2 / 2^n: with fewer than six, none can be below 0.05.
LEAST_PAIRS = 6
ZERO_METHOD = "wilcox"  # pairs without a difference say nothing and are left out
_MOST_NUMBERS = 4_000_000  # drawn at once, so that thousands of cases fit into memory
_DECIMALS = 12  # 0.84 - 0.80 and 0.44 - 0.40 are a tie, although not to the last bit

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.floating[Any]]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A statistic over cases and its interval.

    Attributes:
        value: The statistic; None without a case.
        low: Lower limit of the interval; None with fewer than two cases.
        high: Upper limit, likewise.
        n_cases: Cases with a value.
        n_missing: Cases without one (NaN), which do not count.
    """

    value: float | None
    low: float | None
    high: float | None
    n_cases: int
    n_missing: int


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same cases.

    Attributes:
        difference: Mean of the first less the second over the cases that both have, with its interval.
        n_nonzero: Pairs that differ, which are all that the test looks at.
        p_value: Two-sided, of Wilcoxon's signed-rank test; None with fewer than `LEAST_PAIRS` pairs that differ.
        p_holm: The same, corrected for all comparisons made (`corrected`); None before that.
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
    """Return the bootstrap interval (BCa) of one or several statistics, each group drawn among itself.

    Args:
        groups: What is drawn, cases or their numbers: G arrays, (N_g,).
        statistic: Of G arrays of resamples, (..., N_g) each; returns (...), or (M, ...) for M statistics.
        confidence: Of the interval, 0 to 1.
        n_resamples: Bootstrap samples.
        seed: Of the drawing.

    Returns:
        Lower and upper limits, () or (M,); None if a group has fewer than two cases. Where BCa is not defined, because
        all samples (nearly) agree, they are percentiles of the samples; of no width if all agree, which says little
        about new cases.
    """
    if min(len(group) for group in groups) < 2:
        return None

    def drawn(*samples: Array, axis: int = -1) -> Any:
        return statistic(*(np.moveaxis(sample, axis, -1) for sample in samples))

    options: dict[str, Any] = {"n_resamples": n_resamples, "confidence_level": confidence, "vectorized": True}
    options["batch"] = max(1, _MOST_NUMBERS // sum(len(group) for group in groups))
    with warnings.catch_warnings():
        # Without any spread the correction is 0/0; the percentiles below are then all there is.
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
    """Return a statistic over cases with its interval; see `bootstrap_interval`.

    Args:
        values: Of each case, (N,); NaN is a case without a value, which is counted and left out.
        statistic: Takes an array and `axis`, as NumPy's do.
        confidence: Of the interval, 0 to 1.
        n_resamples: Bootstrap samples.
        seed: Of the drawing.

    Raises:
        ValueError: If the values are not (N,), or one is infinite.
    """
    every = np.asarray(values, dtype=float)
    if every.ndim != 1 or np.isinf(every).any():
        raise ValueError(f"values: must be (N,) without infinities, are {every.shape}")
    known = every[~np.isnan(every)]
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
    return Estimate(value, low, high, len(known), len(every) - len(known))


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
        first: Of each case, (N,); NaN where there is none.
        second: Of the same cases in the same order, (N,).
        confidence: Of the interval of the mean difference, 0 to 1.
        n_resamples: Bootstrap samples.
        seed: Of the drawing.

    Returns:
        The comparison; cases that lack a value in either run do not count and are counted as missing.

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
    """Correct the p values of several tests by Holm's step-down method: all of one family, in any order.

    None, a test that was not made, stays None and does not count.
    """
    made = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for step, (value, index) in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - step) * value))
        adjusted[index] = largest
    return adjusted


def corrected(comparisons: Mapping[Key, Comparison]) -> dict[Key, Comparison]:
    """Return the comparisons with `p_holm`, for which all that are made must be here."""
    adjusted = holm([comparison.p_value for comparison in comparisons.values()])
    return {key: replace(comparisons[key], p_holm=value) for key, value in zip(comparisons, adjusted, strict=True)}


def aligned(runs: Mapping[str, Mapping[str, float | None]]) -> tuple[tuple[str, ...], FloatArray]:
    """Bring the values of several runs to the same cases.

    Args:
        runs: Values by run, then by case; None or NaN where there is none.

    Returns:
        The cases that any run names, in their first order, (N,), and the values, (R, N): NaN where a run has none.
    """
    cases = tuple(dict.fromkeys(case for values in runs.values() for case in values))
    table = [[_number(values.get(case)) for case in cases] for values in runs.values()]
    return cases, np.array(table, dtype=float).reshape(len(runs), len(cases))


def _number(value: float | None) -> float:
    return math.nan if value is None else value
