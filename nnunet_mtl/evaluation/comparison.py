"""Runs on the same cases, side by side: paired tests, a ranking, and the gain over single-task runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed
from nnunet_mtl.evaluation.multitask_gain import multitask_gain
from nnunet_mtl.evaluation.ranking import Method, rank_runs, rank_stability
from nnunet_mtl.evaluation.run_scores import RunScores
from nnunet_mtl.evaluation.segmentation import LOWER_IS_BETTER
from nnunet_mtl.evaluation.statistics import LEAST_PAIRS, ZERO_METHOD, aligned, compare, corrected

# What a challenge ranks by: one that looks at volumes, two that look at borders.
RANKED = ("dice", "hd95_mm", "nsd")
# The gain is relative, so it needs a metric that is not near 0 where a run is good: distances are.
GAIN_METRIC = "dice"

# AUC by question, None where it is not available.
Areas = Mapping[str, float | None]


class ComparisonError(UserError):
    """Runs cannot be compared."""


class _Compared(NamedTuple):
    region: str
    metric: str
    first: str
    second: str


def compare_runs(
    runs: Mapping[str, RunScores],
    single_task: Sequence[RunScores] = (),
    *,
    method: Method = "aggregate",
    areas: Mapping[str, Areas] = MappingProxyType({}),
    single_areas: Sequence[Areas] = (),
) -> dict[str, Any]:
    """Compare runs, region by region.

    A case counts for a region if any run has it. One family of tests is corrected: every pair of runs, metric and
    region.

    Args:
        runs: By name; at least two, or one with single-task runs.
        single_task: Runs on the same cases that together predict the regions of the multi-task runs. Each counts for
            the regions that it predicts anywhere; of two that predict a region, the first.
        method: How ranks come about, see `rank_runs`.
        areas: AUC by question, of each of the runs that answers any.
        single_areas: The same of the single-task runs; a question that all runs and one of them answer is part of
            the gain.

    Returns:
        JSON-able: "tests", "ranking" with "stability" (from two runs on), "gain" (with single-task runs).

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
        # An empty mask's metric is decided by the policy; what is still missing is a region nobody outlined.
        options: dict[str, Any] = {"method": method, "missing": "drop"}
        result["ranking"] = rank_runs(names, tables, lower, **options).to_mapping()
        stability = rank_stability(names, tables, lower, **options)
        result["ranking"]["stability"] = None if stability is None else stability.to_mapping()
    if single_task:
        every = [areas.get(name, {}) for name in runs]
        asked = {question: area for of_run in reversed(single_areas) for question, area in of_run.items()}
        asked = {one: area for one, area in asked.items() if None not in (area, *(run.get(one) for run in every))}
        baseline = _single_task_means(single_task) | {_auc_of(question): area for question, area in asked.items()}
        result["gain"] = {"metric": f"{GAIN_METRIC} of each region, AUC of each question", "runs": {}}
        for name, run in runs.items():
            answered = {_auc_of(question): areas[name][question] for question in asked}
            gain = multitask_gain(_means(run) | answered, baseline)
            result["gain"]["runs"][name] = gain.to_mapping()
    return result


def _require_same_cases(runs: Mapping[str, RunScores]) -> None:
    """Refuse runs of which one has a case the other lacks, as far as it was annotated for regions that both predict."""
    lacking: dict[str, set[str]] = {}
    for (first, ours), (second, theirs) in combinations(runs.items(), 2):
        common = ours.regions.keys() & theirs.regions.keys()
        here, there = ({one.case for one in run.scores if one.region in common} for run in (ours, theirs))
        for name, cases in ((first, there - here), (second, here - there)):
            lacking.setdefault(name, set()).update(cases)
    reasons = "; ".join(f"{name} lacks {listed(sorted(cases))}" for name, cases in lacking.items() if cases)
    if reasons:
        raise ComparisonError(f"runs must have the same cases: {reasons}; predict and evaluate these, then compare")


def _common_regions(runs: Mapping[str, RunScores]) -> list[str]:
    first, *others = runs.values()
    regions = [region for region in first.regions if all(region in other.regions for other in others)]
    if not regions:
        raise ComparisonError(f"runs {listed(list(runs))} have no region in common; compare runs of one data set")
    return regions


def _tests(runs: Mapping[str, RunScores], regions: Sequence[str]) -> list[dict[str, Any]]:
    comparisons = {}
    for region in regions:
        for metric in RANKED:
            for first, second in combinations(runs, 2):
                _, values = aligned({name: runs[name].values(region, metric) for name in (first, second)})
                comparisons[_Compared(region, metric, first, second)] = compare(values[0], values[1])
    return [{**key._asdict(), **asdict(found)} for key, found in corrected(comparisons).items()]


def _tables(runs: Mapping[str, RunScores], regions: Sequence[str]) -> dict[str, Any]:
    """Values by region and metric, (R, N) over all cases; those that no run has anywhere are left out."""
    cases = tuple(dict.fromkeys(case for run in runs.values() for case in run.cases))
    tables = {}
    for region in regions:
        for metric in RANKED:
            values = [run.values(region, metric) for run in runs.values()]
            table = np.array([[of_run.get(case, np.nan) for case in cases] for of_run in values])
            if not np.isnan(table).any(0).all():
                tables[f"{region} {metric}"] = table
    return tables


def _auc_of(question: str) -> str:
    return f"{question} AUC"


def _means(run: RunScores) -> dict[str, float | None]:
    return {region: run.mean(region, GAIN_METRIC) for region in run.regions}


def _single_task_means(runs: Sequence[RunScores]) -> dict[str, float | None]:
    """Return the mean of each region from the first run that predicts it; a region that none predicts is missing."""
    means: dict[str, float | None] = {}
    for run in runs:
        means = {region: mean for region, mean in _means(run).items() if run.predicts(region)} | means
    return means
