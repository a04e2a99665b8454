"""The scores of one run over its cases: the table they are written to and read from, and what they come to."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.csv_tables import read_rows
from nnunet_mtl.evaluation.case_scores import RegionScores
from nnunet_mtl.evaluation.lesions import LesionCounts
from nnunet_mtl.evaluation.lesions import summed as summed_lesions
from nnunet_mtl.evaluation.missing import json_number, mean_of_present
from nnunet_mtl.evaluation.overlap import Overlap
from nnunet_mtl.evaluation.overlap import summed as summed_overlaps
from nnunet_mtl.evaluation.segmentation import METRICS
from nnunet_mtl.evaluation.statistics import estimate
from nnunet_mtl.evaluation.units import LengthUnit, with_unit
from nnunet_mtl.tasks import TaskSet

CASES_NAME = "cases.csv"
_KEYS = ("case", "task", "region")
_COUNTS = ("common_voxels", "predicted_voxels", "reference_voxels")


class RunScoresError(UserError):
    """A table of scores cannot be read."""


@dataclass(frozen=True)
class RunScores:
    """What was measured of every annotated region of every case of one run.

    Attributes:
        scores: One entry per case and region.
        unit: Of lengths; "pixels" is in the names of columns and keys.
    """

    scores: tuple[RegionScores, ...]
    unit: LengthUnit = "mm"

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """Every case, in the order of the scores."""
        return tuple(dict.fromkeys(one.case for one in self.scores))

    @cached_property
    def regions(self) -> dict[str, str]:
        """The task of every region that was annotated in any case."""
        return {one.region: one.task for one in self.scores}

    def values(self, region: str, metric: str) -> dict[str, float]:
        """Return a metric of a region by case; NaN where it is not available."""
        return {one.case: one.metrics[metric] for one in self.scores if one.region == region}

    def mean(self, region: str, metric: str) -> float:
        """Return the mean of a metric over the cases that have it; NaN where none has."""
        return mean_of_present(self.values(region, metric).values())

    def means(self, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return the mean of each metric by region."""
        return {region: {metric: self.mean(region, metric) for metric in metrics} for region in self.regions}

    def n_cases(self, metrics: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return of how many cases the means of each metric are, by region."""

        def count(region: str, metric: str) -> int:
            return sum(not math.isnan(value) for value in self.values(region, metric).values())

        return {region: {metric: count(region, metric) for metric in metrics} for region in self.regions}

    def mean_of_case(self, case: str, metric: str) -> float:
        """Return the mean of a metric over the regions of a case that have it; NaN where none has."""
        return mean_of_present(one.metrics[metric] for one in self.scores if one.case == case)

    def predicts(self, region: str) -> bool:
        """Return whether the region was predicted anywhere: a voxel of it in any case."""
        return any(one.overlap.prediction for one in self.scores if one.region == region)

    def write(self, path: Path) -> None:
        """Write `cases.csv`: a line per case and region, the unit in a metric's name, empty where not available."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow((*_KEYS, *(with_unit(name, self.unit) for name in METRICS), *_COUNTS))
        for one in self.scores:
            values = (one.metrics[name] for name in METRICS)
            texts = ("" if math.isnan(value) else f"{value:.9g}" for value in values)
            counts = (one.overlap.common, one.overlap.prediction, one.overlap.reference)
            writer.writerow((one.case, one.task, one.region, *texts, *counts))
        path.write_text(table.getvalue(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "RunScores":
        """Read what `write` wrote.

        Raises:
            RunScoresError: If it cannot be read or a column is missing.
        """
        unit = _unit_of(path)
        columns = {name: with_unit(name, unit) for name in METRICS}
        rows = read_rows(path, (*_KEYS, *columns.values(), *_COUNTS), RunScoresError, columns.values())
        return cls(tuple(_line(row, columns, path, line) for line, row in rows), unit)

    def summary(self, taskset: TaskSet) -> dict[str, Any]:
        """Return what the scores come to, as JSON-able values.

        Means over cases have a bootstrap interval; means over regions (of a task, of a slot, of all) weigh every
        region the same and have none.

        Args:
            taskset: Of the data set, for the order of tasks and slots.
        """
        in_slot: dict[str, list[str]] = {slot: [] for slot in taskset.slot_names}
        for region, slot in zip(taskset.regions, taskset.slot_of_region, strict=True):
            in_slot[taskset.slot_names[slot]].append(region)
        return {
            "cases": len(self.cases),
            **self._mean_dice(self.regions),
            "tasks": {task.name: self._mean_dice(task.regions) for task in taskset.tasks},
            "slots": {slot: self._mean_dice(regions) for slot, regions in in_slot.items()},
            "regions": {region: self._region_summary(region) for region in self.regions},
        }

    def _mean_dice(self, regions: Iterable[str]) -> dict[str, Any]:
        """Return the mean over regions, and how many cases have a Dice of any of them, and how many have none."""
        scored = [region for region in regions if region in self.regions]
        there = {case for region in scored for case in self.values(region, "dice")}
        with_dice = {
            case for region in scored for case, dice in self.values(region, "dice").items() if not math.isnan(dice)
        }
        return {
            "mean_dice": json_number(mean_of_present(self.mean(region, "dice") for region in scored)),
            "n_cases": len(with_dice),
            "n_missing": len(there - with_dice),
        }

    def _region_summary(self, region: str) -> dict[str, Any]:
        of_region = [one for one in self.scores if one.region == region]
        return {
            "task": self.regions[region],
            "cases": len(of_region),
            "metrics": {with_unit(name, self.unit): self._metric_summary(region, name) for name in METRICS},
            **_pooled(of_region),
        }

    def _metric_summary(self, region: str, metric: str) -> dict[str, Any]:
        values = np.array(list(self.values(region, metric).values()))
        present = values[~np.isnan(values)]
        found = estimate(values)
        return {
            "mean": found.value,
            "low": found.low,
            "high": found.high,
            "median": float(np.median(present)) if len(present) else None,
            "sd": float(present.std(ddof=1)) if len(present) > 1 else None,
            "n_cases": found.n_cases,
            "n_missing": found.n_missing,
        }


def _unit_of(path: Path) -> LengthUnit:
    """Return the unit that the first line of a table of scores names; a file that cannot be read is refused later."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return "pixels" if with_unit("hd95_mm", "pixels") in file.readline() else "mm"
    except OSError:
        return "mm"


def _line(row: Mapping[str, str], columns: Mapping[str, str], path: Path, line: int) -> RegionScores:
    try:
        metrics = {name: float(row[of]) if row[of] else math.nan for name, of in columns.items()}
        overlap = Overlap(*(int(row[name]) for name in _COUNTS))
    except (TypeError, ValueError):
        raise RunScoresError(f"{path}: line {line}: holds no scores; run `nnunet_mtl evaluate` again") from None
    return RegionScores(row["case"], row["task"], row["region"], metrics, overlap)


def _pooled(of_region: Sequence[RegionScores]) -> dict[str, Any]:
    """Return what is computed from the counts of all cases together, as LiTS has it."""
    overlap = summed_overlaps(one.overlap for one in of_region)
    pooled: dict[str, Any] = {"global_dice": json_number(overlap.dice), "global_voe": json_number(overlap.voe)}
    names = ("lesions", "lesions_found", "false_positives")
    counted = [[one.metrics[name] for name in names] for one in of_region]
    if counted and not math.isnan(counted[0][0]):
        lesions = summed_lesions(LesionCounts(*(int(value) for value in of_case)) for of_case in counted)
        pooled["lesions"] = {
            "reference": lesions.reference,
            "found": lesions.found,
            "sensitivity": json_number(lesions.sensitivity),
            "false_positives_per_case": lesions.false_positives / len(counted),
        }
    return pooled
