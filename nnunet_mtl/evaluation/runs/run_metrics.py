"""All metrics of one run: the table `cases.csv`, means over cases and regions, and the content of `summary.json`."""

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
from nnunet_mtl.evaluation.metrics.length_unit import LengthUnit, with_unit
from nnunet_mtl.evaluation.metrics.lesion_detection import LesionCounts
from nnunet_mtl.evaluation.metrics.lesion_detection import summed as summed_lesions
from nnunet_mtl.evaluation.metrics.overlap import Overlap
from nnunet_mtl.evaluation.metrics.overlap import summed as summed_overlaps
from nnunet_mtl.evaluation.metrics.region_metrics import METRICS
from nnunet_mtl.evaluation.missing_values import json_number, mean_of_present, ranked
from nnunet_mtl.evaluation.runs.case_metrics import CaseMetrics
from nnunet_mtl.evaluation.statistics import estimate
from nnunet_mtl.tasks import TaskSet

CASES_NAME = "cases.csv"
_KEYS = ("case", "task", "region")
_COUNTS = ("common_voxels", "predicted_voxels", "reference_voxels")


class RunMetricsError(UserError):
    """A `cases.csv` cannot be read."""


@dataclass(frozen=True)
class RunMetrics:
    """The metrics of every annotated region of every case of one run.

    Attributes:
        rows: One entry for each case and annotated region.
        taskset: Tasks, slots and regions of the data set.
        unit: Unit of lengths; with "pixels" the names of columns and keys say so.
    """

    rows: tuple[CaseMetrics, ...]
    taskset: TaskSet
    unit: LengthUnit = "mm"

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """Every case with an annotated region, in the order of the rows."""
        return tuple(dict.fromkeys(row.case for row in self.rows))

    @cached_property
    def annotated_regions(self) -> dict[str, str]:
        """Every region that is annotated in at least one case, with the name of its task."""
        return {row.region: row.task for row in self.rows}

    @cached_property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Regions by task, in output order, without the background; also regions that no case annotates."""
        return self._grouped([self.taskset.tasks[task].name for task in self.taskset.task_of_region])

    @cached_property
    def slots(self) -> dict[str, tuple[str, ...]]:
        """Regions by the name of the slot they use (`organ`, `tumour`), in output order, without the background."""
        return self._grouped([self.taskset.slot_names[slot] for slot in self.taskset.slot_of_region])

    @cached_property
    def regions(self) -> tuple[str, ...]:
        """Every region of the data set but the background, task by task."""
        return tuple(region for regions in self.tasks.values() for region in regions)

    def _grouped(self, groups: Sequence[str]) -> dict[str, tuple[str, ...]]:
        grouped: dict[str, tuple[str, ...]] = {}
        for group, region, labels in zip(groups, self.taskset.regions, self.taskset.region_labels, strict=True):
            if tuple(labels) != (0,):
                grouped[group] = (*grouped.get(group, ()), region)
        return grouped

    def values(self, region: str, metric: str) -> dict[str, float]:
        """Return a metric of a region by case; NaN where the metric is not available."""
        return {row.case: row.metrics[metric] for row in self.rows if row.region == region}

    def number_of_cases(self, region: str, metric: str = "dice") -> int:
        """Return in how many cases a metric of a region is available."""
        return sum(not math.isnan(value) for value in self.values(region, metric).values())

    def n_cases(self, metrics: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return the number of cases behind the mean of each metric, by region and metric."""
        return {
            region: {metric: self.number_of_cases(region, metric) for metric in metrics}
            for region in self.annotated_regions
        }

    def mean(self, region: str, metric: str) -> float:
        """Return the mean of a metric over the cases in which it is available; NaN if there is no such case."""
        return mean_of_present(self.values(region, metric).values())

    def means(self, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return the mean of each metric over cases, by region and metric."""
        return {region: {metric: self.mean(region, metric) for metric in metrics} for region in self.annotated_regions}

    def mean_over_regions(self, regions: Iterable[str], metric: str = "dice") -> float:
        """Return the mean over regions of their means over cases, so that a rare region weighs as a common one.

        NaN where the metric is available for none of the regions.
        """
        return mean_of_present(self.mean(region, metric) for region in regions)

    def mean_of_case(self, case: str, metric: str = "dice") -> float:
        """Return the mean of a metric over the regions of a case; NaN where the metric is available for none."""
        return mean_of_present(row.metrics[metric] for row in self.rows if row.case == case)

    def ranked_cases(self, metric: str = "dice") -> list[str]:
        """Return the cases in which a metric is available, from the lowest to the highest mean over regions."""
        return ranked({case: self.mean_of_case(case, metric) for case in self.cases})

    def predicts(self, region: str) -> bool:
        """Return whether the prediction of any case holds a voxel of the region."""
        return any(row.overlap.prediction for row in self.rows if row.region == region)

    def write(self, path: Path) -> None:
        """Write `cases.csv`: one line for each case and region; a cell is empty where a metric is not available."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow((*_KEYS, *(with_unit(name, self.unit) for name in METRICS), *_COUNTS))
        for row in self.rows:
            values = (row.metrics[name] for name in METRICS)
            texts = ("" if math.isnan(value) else f"{value:.9g}" for value in values)
            counts = (row.overlap.common, row.overlap.prediction, row.overlap.reference)
            writer.writerow((row.case, row.task, row.region, *texts, *counts))
        path.write_text(table.getvalue(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path, taskset: TaskSet) -> "RunMetrics":
        """Read a `cases.csv` that `write` wrote.

        Args:
            path: The file.
            taskset: Tasks, slots and regions of the data set.

        Raises:
            RunMetricsError: If the file cannot be read or a column is missing.
        """
        unit = _unit_of(path)
        columns = {name: with_unit(name, unit) for name in METRICS}
        rows = read_rows(path, (*_KEYS, *columns.values(), *_COUNTS), RunMetricsError, columns.values())
        return cls(tuple(_parsed(row, columns, path, line) for line, row in rows), taskset, unit)

    def summary(self) -> dict[str, Any]:
        """Return means, medians, intervals and counts as JSON-able values.

        Means over cases have a bootstrap interval. Means over regions (of a task, of a slot, of all regions) weigh
        every region the same and have no interval.
        """
        regions_of_slot: dict[str, list[str]] = {slot: [] for slot in self.taskset.slot_names}
        for region, slot in zip(self.taskset.regions, self.taskset.slot_of_region, strict=True):
            regions_of_slot[self.taskset.slot_names[slot]].append(region)
        return {
            "cases": len(self.cases),
            **self._mean_dice(self.annotated_regions),
            "tasks": {task.name: self._mean_dice(task.regions) for task in self.taskset.tasks},
            "slots": {slot: self._mean_dice(regions) for slot, regions in regions_of_slot.items()},
            "regions": {region: self._region_summary(region) for region in self.annotated_regions},
        }

    def _mean_dice(self, regions: Iterable[str]) -> dict[str, Any]:
        """Return the mean Dice over regions, the number of cases with a Dice of any region, and of those without."""
        annotated = [region for region in regions if region in self.annotated_regions]
        all_cases = {case for region in annotated for case in self.values(region, "dice")}
        with_dice = {
            case for region in annotated for case, dice in self.values(region, "dice").items() if not math.isnan(dice)
        }
        return {
            "mean_dice": json_number(self.mean_over_regions(annotated)),
            "n_cases": len(with_dice),
            "n_missing": len(all_cases - with_dice),
        }

    def _region_summary(self, region: str) -> dict[str, Any]:
        rows = [row for row in self.rows if row.region == region]
        return {
            "task": self.annotated_regions[region],
            "cases": len(rows),
            "metrics": {with_unit(name, self.unit): self._metric_summary(region, name) for name in METRICS},
            **_pooled(rows),
        }

    def _metric_summary(self, region: str, metric: str) -> dict[str, Any]:
        values = np.array(list(self.values(region, metric).values()))
        present = values[~np.isnan(values)]
        mean = estimate(values)
        return {
            "mean": mean.value,
            "low": mean.low,
            "high": mean.high,
            "median": float(np.median(present)) if len(present) else None,
            "sd": float(present.std(ddof=1)) if len(present) > 1 else None,
            "n_cases": mean.n_cases,
            "n_missing": mean.n_missing,
        }


def _unit_of(path: Path) -> LengthUnit:
    """Return the unit that the first line of a `cases.csv` names; `read` refuses a file that cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return "pixels" if with_unit("hd95_mm", "pixels") in file.readline() else "mm"
    except OSError:
        return "mm"


def _parsed(row: Mapping[str, str], columns: Mapping[str, str], path: Path, line: int) -> CaseMetrics:
    try:
        metrics = {name: float(row[column]) if row[column] else math.nan for name, column in columns.items()}
        overlap = Overlap(*(int(row[name]) for name in _COUNTS))
    except (TypeError, ValueError):
        raise RunMetricsError(f"{path}: line {line}: holds no scores; run `nnunet_mtl evaluate` again") from None
    return CaseMetrics(row["case"], row["task"], row["region"], metrics, overlap)


def _pooled(rows: Sequence[CaseMetrics]) -> dict[str, Any]:
    """Return the metrics that LiTS computes from the counts of all cases together."""
    overlap = summed_overlaps(row.overlap for row in rows)
    pooled: dict[str, Any] = {"global_dice": json_number(overlap.dice), "global_voe": json_number(overlap.voe)}
    names = ("lesions", "lesions_found", "false_positives")
    counts = [[row.metrics[name] for name in names] for row in rows]
    if counts and not math.isnan(counts[0][0]):
        lesions = summed_lesions(LesionCounts(*(int(value) for value in case_counts)) for case_counts in counts)
        pooled["lesions"] = {
            "reference": lesions.reference,
            "found": lesions.found,
            "sensitivity": json_number(lesions.sensitivity),
            "false_positives_per_case": lesions.false_positives / len(counts),
        }
    return pooled
