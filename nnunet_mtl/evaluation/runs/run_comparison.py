"""Comparison of runs on the same cases: paired tests, a ranking, and the gain over single-task runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed
from nnunet_mtl.evaluation.metrics.region_metrics import LOWER_IS_BETTER
from nnunet_mtl.evaluation.runs.multitask_gain import multitask_gain
from nnunet_mtl.evaluation.runs.ranking import Method, rank_runs, rank_stability
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics
from nnunet_mtl.evaluation.statistics import LEAST_PAIRS, ZERO_METHOD, aligned, compare, corrected

# The metrics of many challenges: Dice judges volumes, HD95 and NSD judge borders.
RANKED = ("dice", "hd95_mm", "nsd")
# The gain is relative, so its metric must not be near 0 for a good run, as distances are.
GAIN_METRIC = "dice"

# AUC by question; None where the AUC is not available.
Areas = Mapping[str, float | None]


class ComparisonError(UserError):
    """The runs have different cases, or no region in common."""


class _Compared(NamedTuple):
    region: str
    metric: str
    first: str
    second: str


def compare_runs(
    runs: Mapping[str, RunMetrics],
    single_task: Sequence[RunMetrics] = (),
    *,
    method: Method = "aggregate",
    areas: Mapping[str, Areas] = MappingProxyType({}),
    single_areas: Sequence[Areas] = (),
) -> dict[str, Any]:
    """Compare runs, region by region.

    A case counts for a region if any run has measured the region in the case. The tests of all pairs of runs, metrics
    and regions form one family, which is corrected together.

    Args:
        runs: Runs by name; at least two, or one together with single-task runs.
        single_task: Runs on the same cases that together predict the regions of the multi-task runs. A single-task run
            counts for every region that it predicts in some case; if two predict a region, the first counts.
        method: How runs are ranked, see `rank_runs`.
        areas: AUC by run and question.
        single_areas: AUC by question of every single-task run. A question that all runs and one single-task run answer
            enters the gain.

    Returns:
        JSON-able values: "tests" and "ranking" (with "stability") of two or more runs, "gain" over single-task runs.

    Raises:
        ComparisonError: If the runs have different cases, or no region in common.
        GainError: If the single-task runs lack a region.
    """
    _require_same_cases({**runs, **{f"single-task run {i}": run for i, run in enumerate(single_task, start=1)}})
    result: dict[str, Any] = {}
    if len(runs) > 1:
        regions = _common_regions(runs)
        result["tests"] = {
            "test": "Wilcoxon signed-rank, two-sided",
            "zero_differences": f"left out ({ZERO_METHOD})",
            "least_pairs": LEAST_PAIRS,
            "correction": "Holm, over all tests in this list",
            "comparisons": _tests(runs, regions),
        }
        names, tables = list(runs), _tables(runs, regions)
        lower = {name for name in tables if name.split(" ")[-1] in LOWER_IS_BETTER}
        # The policy gives metrics to empty masks, so a missing value means that the region was not annotated.
        options: dict[str, Any] = {"method": method, "missing": "drop"}
        result["ranking"] = rank_runs(names, tables, lower, **options).to_mapping()
        stability = rank_stability(names, tables, lower, **options)
        result["ranking"]["stability"] = None if stability is None else stability.to_mapping()
    if single_task:
        single = {question: area for run_areas in reversed(single_areas) for question, area in run_areas.items()}
        common = {
            question: area
            for question, area in single.items()
            if None not in (area, *(areas.get(name, {}).get(question) for name in runs))
        }
        baseline = _single_task_means(single_task) | {_auc_of(question): area for question, area in common.items()}
        result["gain"] = {"metric": f"{GAIN_METRIC} of each region, AUC of each question", "runs": {}}
        for name, run in runs.items():
            answered = {_auc_of(question): areas[name][question] for question in common}
            gain = multitask_gain(_means(run) | answered, baseline)
            result["gain"]["runs"][name] = gain.to_mapping()
    return result


def _require_same_cases(runs: Mapping[str, RunMetrics]) -> None:
    """Refuse two runs with different cases; only cases annotated for a region of both runs are looked at."""
    lacking: dict[str, set[str]] = {}
    for (first, ours), (second, theirs) in combinations(runs.items(), 2):
        common = ours.annotated_regions.keys() & theirs.annotated_regions.keys()
        our_cases, their_cases = ({row.case for row in run.rows if row.region in common} for run in (ours, theirs))
        for name, cases in ((first, their_cases - our_cases), (second, our_cases - their_cases)):
            lacking.setdefault(name, set()).update(cases)
    reasons = "; ".join(f"{name} lacks {listed(sorted(cases))}" for name, cases in lacking.items() if cases)
    if reasons:
        raise ComparisonError(f"runs must have the same cases: {reasons}; predict and evaluate these, then compare")


def _common_regions(runs: Mapping[str, RunMetrics]) -> list[str]:
    first, *others = runs.values()
    regions = [
        region for region in first.annotated_regions if all(region in other.annotated_regions for other in others)
    ]
    if not regions:
        raise ComparisonError(f"runs {listed(list(runs))} have no region in common; compare runs of one data set")
    return regions


def _tests(runs: Mapping[str, RunMetrics], regions: Sequence[str]) -> list[dict[str, Any]]:
    comparisons = {}
    for region in regions:
        for metric in RANKED:
            for first, second in combinations(runs, 2):
                _, values = aligned({name: runs[name].values(region, metric) for name in (first, second)})
                comparisons[_Compared(region, metric, first, second)] = compare(values[0], values[1])
    return [{**key._asdict(), **asdict(comparison)} for key, comparison in corrected(comparisons).items()]


def _tables(runs: Mapping[str, RunMetrics], regions: Sequence[str]) -> dict[str, Any]:
    """Return the values of R runs in N cases, (R, N), by region and metric; a table of NaN alone is left out."""
    cases = tuple(dict.fromkeys(case for run in runs.values() for case in run.cases))
    tables = {}
    for region in regions:
        for metric in RANKED:
            values = [run.values(region, metric) for run in runs.values()]
            table = np.array([[run_values.get(case, np.nan) for case in cases] for run_values in values])
            if not np.isnan(table).any(0).all():
                tables[f"{region} {metric}"] = table
    return tables


def _auc_of(question: str) -> str:
    return f"{question} AUC"


def _means(run: RunMetrics) -> dict[str, float | None]:
    return {region: run.mean(region, GAIN_METRIC) for region in run.annotated_regions}


def _single_task_means(runs: Sequence[RunMetrics]) -> dict[str, float | None]:
    """Return the mean of every region from the first run that predicts the region; others are missing."""
    means: dict[str, float | None] = {}
    for run in runs:
        means = {region: mean for region, mean in _means(run).items() if run.predicts(region)} | means
    return means
