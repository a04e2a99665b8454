"""Scores of every case: in parallel, with progress, and with no more than one case a process in memory."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from nnunet_mtl.datasets.label_pairs import Pair, problems_of, region_masks, warnings_of
from nnunet_mtl.datasets.label_table import LabelTable
from nnunet_mtl.evaluation.overlap import Overlap
from nnunet_mtl.evaluation.segmentation import Options, measure

# A case is handed over when a process is free for it: none waits in memory.
_Map = Callable[[Callable[[Pair], Any], Sequence[Pair]], Iterator[Any]]


@dataclass(frozen=True)
class RegionScores:
    """What was measured of one region of one case: a line of `cases.csv`.

    Attributes:
        case: Identifier.
        task: Name of the task that owns the region.
        region: Name of the region.
        metrics: By the names of `segmentation.METRICS`; NaN is not available.
        overlap: Voxels, which add up over cases.
    """

    case: str
    task: str
    region: str
    metrics: Mapping[str, float]
    overlap: Overlap


def check_cases(pairs: Sequence[Pair], table: LabelTable, n_processes: int) -> tuple[list[str], list[str]]:
    """Read every map; return the problems and the warnings of all pairs, a line each."""
    problems, warnings = [], []
    with _processes(n_processes) as each:
        for found, doubtful in _shown("check", each(partial(_checked, table=table), pairs), len(pairs)):
            problems += found
            warnings += doubtful
    return problems, warnings


def score_cases(pairs: Sequence[Pair], table: LabelTable, options: Options, n_processes: int) -> list[RegionScores]:
    """Score every annotated region of every pair; pairs must have been checked.

    Args:
        pairs: What to compare.
        table: What the label maps mean.
        options: Of the metrics.
        n_processes: How many cases at once; with 1 everything is done in this process.

    Returns:
        In the order of the pairs, then of the tasks.
    """
    scores: list[RegionScores] = []
    with _processes(n_processes) as each:
        for of_case in _shown("score", each(partial(_scored, table=table, options=options), pairs), len(pairs)):
            scores += of_case
    return scores


def _checked(pair: Pair, table: LabelTable) -> tuple[list[str], list[str]]:
    return problems_of(pair, table), warnings_of(pair)


def _scored(pair: Pair, table: LabelTable, options: Options) -> list[RegionScores]:
    taskset = table.taskset
    scores = []
    for masks in region_masks(pair, table):
        region = taskset.regions[masks.region]
        task = taskset.tasks[taskset.task_of_region[masks.region]].name
        found = measure(masks.prediction, masks.reference, masks.spacing_mm, options, region)
        scores.append(RegionScores(pair.case, task, region, found.values, found.overlap))
    return scores


@contextmanager
def _processes(n_processes: int) -> Iterator[_Map]:
    if n_processes == 1:
        yield map
        return
    with ProcessPoolExecutor(n_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _shown(what: str, results: Iterator[Any], total: int) -> Iterator[Any]:
    yield from tqdm(results, desc=what, total=total, unit="case")
