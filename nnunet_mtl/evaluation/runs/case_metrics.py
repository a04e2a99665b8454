"""The metrics of every region of every case, measured in parallel; one process holds one case in memory at a time."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from nnunet_mtl.datasets.label_pairs import Pair, problems_of, region_masks, warnings_of
from nnunet_mtl.datasets.label_table import LabelTable
from nnunet_mtl.evaluation.metrics.overlap import Overlap
from nnunet_mtl.evaluation.metrics.region_metrics import MetricOptions, measure

# `map`, or a process pool's `map`: the next case is sent when a process is free, so no case waits in memory.
_Map = Callable[[Callable[[Pair], Any], Sequence[Pair]], Iterator[Any]]


@dataclass(frozen=True)
class CaseMetrics:
    """The metrics of one region of one case: one line of `cases.csv`.

    Attributes:
        case: Identifier of the case.
        task: Name of the task that owns the region.
        region: Name of the region.
        metrics: Every metric of `region_metrics.METRICS` by name; NaN where the metric is not available.
        overlap: Voxel counts, which add up over cases.
    """

    case: str
    task: str
    region: str
    metrics: Mapping[str, float]
    overlap: Overlap


def check_cases(pairs: Sequence[Pair], table: LabelTable, n_processes: int) -> tuple[list[str], list[str]]:
    """Read every label map; return the problems and the warnings of all pairs, one line for each problem or warning."""
    problems, warnings = [], []
    with _processes(n_processes) as map_cases:
        results = map_cases(partial(_check, table=table), pairs)
        for case_problems, case_warnings in _with_progress("check", results, len(pairs)):
            problems += case_problems
            warnings += case_warnings
    return problems, warnings


def measure_cases(
    pairs: Sequence[Pair], table: LabelTable, options: MetricOptions, n_processes: int
) -> list[CaseMetrics]:
    """Measure every annotated region of every pair; `check_cases` must have found no problem.

    Args:
        pairs: Predictions and their references.
        table: What the values of the label maps mean.
        options: How the metrics are computed.
        n_processes: How many cases are measured at once; with 1 everything happens in the calling process.

    Returns:
        One entry for each case and region, in the order of the pairs and then of the tasks.
    """
    rows: list[CaseMetrics] = []
    with _processes(n_processes) as map_cases:
        results = map_cases(partial(_measure_case, table=table, options=options), pairs)
        for case_rows in _with_progress("score", results, len(pairs)):
            rows += case_rows
    return rows


def _check(pair: Pair, table: LabelTable) -> tuple[list[str], list[str]]:
    return problems_of(pair, table), warnings_of(pair)


def _measure_case(pair: Pair, table: LabelTable, options: MetricOptions) -> list[CaseMetrics]:
    taskset = table.taskset
    rows = []
    for masks in region_masks(pair, table):
        region = taskset.regions[masks.region]
        task = taskset.tasks[taskset.task_of_region[masks.region]].name
        measured = measure(masks.prediction, masks.reference, masks.spacing_mm, options, region)
        rows.append(CaseMetrics(pair.case, task, region, measured.values, measured.overlap))
    return rows


@contextmanager
def _processes(n_processes: int) -> Iterator[_Map]:
    if n_processes == 1:
        yield map
        return
    with ProcessPoolExecutor(n_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _with_progress(title: str, results: Iterator[Any], total: int) -> Iterator[Any]:
    yield from tqdm(results, desc=title, total=total, unit="case")
