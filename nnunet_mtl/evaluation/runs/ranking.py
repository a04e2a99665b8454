"""Ranks of several runs as in challenges, and how much the ranks depend on the choice of cases.

Two methods can disagree: "aggregate" (default) takes the mean of a metric over cases and ranks the means; "rank" ranks
the runs within every case and takes the mean of these ranks. Both give a rank for every run and metric. The ranks are
averaged over the metrics, every metric with the same weight, and the runs are ranked by that average. Rank 1 is the
best; equal runs share the average of their ranks.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, rankdata

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed

Method = Literal["aggregate", "rank"]
Missing = Literal["worst", "drop"]
N_RESAMPLES = 1000
_DECIMALS = 12  # relative to the largest: sums of the same numbers in another order agree up to these

FloatArray = npt.NDArray[np.floating[Any]]


class RankingError(UserError):
    """There are fewer than two runs, no metric, or a metric without a case that counts."""


@dataclass(frozen=True)
class Ranking:
    """The rank of every run.

    Attributes:
        ranks: Final rank by run; 1 is the best.
        mean_ranks: Mean rank over metrics by run; the final ranks order these means.
        of_metric: Rank by metric, then by run; with "rank" the mean rank over cases.
        n_cases: Number of cases that count, by metric.
        method: "aggregate" or "rank".
        missing: How a missing value counts: "worst" or "drop".
    """

    ranks: Mapping[str, float]
    mean_ranks: Mapping[str, float]
    of_metric: Mapping[str, Mapping[str, float]]
    n_cases: Mapping[str, int]
    method: Method
    missing: Missing

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class Stability:
    """How a ranking changes when the cases are resampled.

    Attributes:
        distribution: Share of resamples by run, then by rank; a rank such as 1.5 is a tie.
        kendall_tau: Mean over the resamples of Kendall's tau to the ranking of all cases; 1 is the same order. None if
            tau is undefined in every resample, because all runs are equal.
        tau_low: 2.5th percentile of Kendall's tau over the resamples.
        tau_high: 97.5th percentile of Kendall's tau over the resamples.
        n_resamples: Number of resamples with a case that counts for at least one metric.
        n_tau: Number of resamples in which tau is defined, because not all runs are equal.
    """

    distribution: Mapping[str, Mapping[float, float]]
    kendall_tau: float | None
    tau_low: float | None
    tau_high: float | None
    n_resamples: int
    n_tau: int

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-able values; ranks, as keys, become text such as "1" and "1.5"."""
        distribution = {
            run: {f"{rank:g}": share for rank, share in shares.items()} for run, shares in self.distribution.items()
        }
        return asdict(self) | {"distribution": distribution}


def rank_runs(
    runs: Sequence[str],
    metrics: Mapping[str, npt.ArrayLike],
    lower_is_better: Collection[str] = (),
    *,
    method: Method = "aggregate",
    missing: Missing = "worst",
) -> Ranking:
    """Rank runs on the same cases.

    Args:
        runs: Names of the R runs.
        metrics: Values by metric, (R, N) for every metric, with the same N cases in the same order; NaN where a run
            has no value.
        lower_is_better: Names of the metrics of which less is better.
        method: "aggregate" ranks the means over cases; "rank" averages the ranks within cases.
        missing: "worst": if some run has a value in a case, a run without a value gets the worst rank in the case, or
            for a mean over cases the worst value of any run in any case. "drop": a case counts only if every run has a
            value, which is right where a missing value is no failure, such as Dice where both masks are empty. A case
            in which no run has a value never counts.

    Raises:
        RankingError: If there are fewer than two runs, no metric, or a metric without a case that counts.
        ValueError: If a shape does not fit, a value is infinite, or an option is unknown.
    """
    tables = _tables(runs, metrics, lower_is_better, method, missing)
    n_cases = next(iter(tables.values())).shape[1]
    of_metrics, means, ranks = _ranks(list(tables.values()), np.ones((1, n_cases)), method)
    by_metric = {name: _by_run(runs, of_metric[0]) for name, of_metric in zip(tables, of_metrics, strict=True)}
    counts = {name: int((~np.isnan(table[0])).sum()) for name, table in tables.items()}
    return Ranking(_by_run(runs, ranks[0]), _by_run(runs, means[0]), by_metric, counts, method, missing)


def rank_stability(
    runs: Sequence[str],
    metrics: Mapping[str, npt.ArrayLike],
    lower_is_better: Collection[str] = (),
    *,
    method: Method = "aggregate",
    missing: Missing = "worst",
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Stability | None:
    """Rank the runs on bootstrap resamples of the cases; all metrics and runs use the same resamples.

    Args:
        runs: Names of the R runs.
        metrics: Values by metric, (R, N) for every metric.
        lower_is_better: Names of the metrics of which less is better.
        method: "aggregate" or "rank", see `rank_runs`.
        missing: "worst" or "drop", see `rank_runs`.
        n_resamples: Number of bootstrap samples.
        seed: Seed of the random numbers.

    Returns:
        The stability; None with fewer than two cases, which have only one resample.

    Raises:
        RankingError: If there are fewer than two runs, no metric, or a metric without a case that counts.
        ValueError: If a shape does not fit, a value is infinite, or an option is unknown.
    """
    tables = list(_tables(runs, metrics, lower_is_better, method, missing).values())
    n_cases = tables[0].shape[1]
    if n_cases < 2:
        return None
    weights = np.random.default_rng(seed).multinomial(n_cases, np.full(n_cases, 1 / n_cases), n_resamples)
    full = _ranks(tables, np.ones((1, n_cases)), method)[2][0]
    ranks = _ranks(tables, weights, method)[2]
    ranks = ranks[~np.isnan(ranks).any(1)]
    # Thousands of resamples give few different rankings, so tau is computed once for every different ranking.
    kinds, counts = np.unique(ranks, axis=0, return_counts=True)
    taus = np.repeat([_tau(full, kind) for kind in kinds], counts)
    taus = taus[~np.isnan(taus)]
    distribution = {run: _shares(ranks[:, index]) for index, run in enumerate(runs)}
    if not len(taus):
        return Stability(distribution, None, None, None, len(ranks), 0)
    low, high = np.quantile(taus, (0.025, 0.975))
    return Stability(distribution, float(taus.mean()), float(low), float(high), len(ranks), len(taus))


def _tables(
    runs: Sequence[str],
    metrics: Mapping[str, npt.ArrayLike],
    lower_is_better: Collection[str],
    method: Method,
    missing: Missing,
) -> dict[str, FloatArray]:
    """Return costs by metric, (R, N), lower is better; NaN in cases that do not count."""
    if method not in ("aggregate", "rank") or missing not in ("worst", "drop"):
        raise ValueError(f"method and missing: unknown {method!r} or {missing!r}")
    if len(set(runs)) < 2 or len(set(runs)) < len(runs):
        raise RankingError(f"ranking: needs at least two runs of different names, not {listed(runs) or 'none'}")
    if not metrics:
        raise RankingError("ranking: there is no metric; name at least one")
    tables = {name: np.asarray(values, dtype=float) for name, values in metrics.items()}
    shape = next(iter(tables.values())).shape
    for name, table in tables.items():
        if table.shape != shape or table.ndim != 2 or len(table) != len(runs) or np.isinf(table).any():
            raise ValueError(f"{name}: must be ({len(runs)}, N) as every other, finite or NaN, is {table.shape}")
    has_value = {name: ~np.isnan(table) for name, table in tables.items()}
    counted = {name: known.any(0) if missing == "worst" else known.all(0) for name, known in has_value.items()}
    empty = [name for name, cases in counted.items() if not cases.any()]
    if empty:
        which = "any" if missing == "worst" else "every"
        raise RankingError(f"ranking: no case has a value of {listed(empty)} in {which} run; leave the metric out")
    return {
        name: np.where(counted[name], _costs(table if name in lower_is_better else -table, method), math.nan)
        for name, table in tables.items()
    }


def _costs(table: FloatArray, method: Method) -> FloatArray:
    """Return ranks within cases, or the values themselves, (R, N), with the worst in place of a missing value."""
    if method == "rank":
        ranks: FloatArray = rankdata(np.where(np.isnan(table), math.inf, table), axis=0)
        return ranks
    return np.where(np.isnan(table), np.nanmax(table), table)


def _ranks(
    tables: Sequence[FloatArray], weights: npt.NDArray[Any], method: Method
) -> tuple[list[FloatArray], FloatArray, FloatArray]:
    """Rank the runs for B weightings of the cases, (B, N).

    Returns:
        Ranks by every metric, a list of (B, R); mean ranks over metrics, (B, R); final ranks, (B, R). NaN where no case
        has a weight.
    """
    of_metrics = []
    for table in tables:
        counted = ~np.isnan(table[0])
        total = weights[:, counted].sum(1, keepdims=True)
        means = np.divide(
            weights[:, counted] @ table[:, counted].T, total, out=_nan_ranks(weights, table), where=total > 0
        )
        of_metrics.append(means if method == "rank" else _ranked(means))
    known = np.array([~np.isnan(ranks) for ranks in of_metrics])
    n_metrics = known.sum(0)
    sums = np.where(known, of_metrics, 0.0).sum(0)
    mean_ranks = np.divide(sums, n_metrics, out=_nan_ranks(weights, tables[0]), where=n_metrics > 0)
    return of_metrics, mean_ranks, _ranked(mean_ranks)


def _nan_ranks(weights: npt.NDArray[Any], table: FloatArray) -> FloatArray:
    return np.full((len(weights), len(table)), math.nan)


def _ranked(costs: FloatArray) -> FloatArray:
    """Rank along the last axis, the lowest cost first; rows of NaN stay NaN."""
    scale = np.abs(costs).max(-1, keepdims=True)
    even: FloatArray = np.round(np.divide(costs, scale, out=np.zeros_like(costs), where=scale != 0), _DECIMALS)
    ranks: FloatArray = rankdata(even, axis=-1)
    return ranks


def _tau(first: FloatArray, second: FloatArray) -> float:
    return float(kendalltau(first, second).statistic)


def _shares(ranks: FloatArray) -> dict[float, float]:
    values, counts = np.unique(ranks, return_counts=True)
    return {float(value): float(count / len(ranks)) for value, count in zip(values, counts, strict=True)}


def _by_run(runs: Sequence[str], values: FloatArray) -> dict[str, float]:
    return {run: float(value) for run, value in zip(runs, values, strict=True)}
