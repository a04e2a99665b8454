"""Numbers the labels of some tasks anew, for a data set that holds these tasks alone."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_mtl.datasets.described_regions import NOTHING
from nnunet_mtl.tasks import TaskSet

Values = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class TaskLabels:
    """The labels of some tasks, numbered without gaps.

    Attributes:
        labels: The key `labels` of `dataset.json`: nnU-Net's regions if a region has several label values, otherwise
            plain integers.
        order: The key `regions_class_order`; None for plain integers.
        renumbered: The new value of every label value of the data set, (V,); 0 for values of other tasks.
        regions: Numbers of the tasks' regions in the data set, in nnU-Net's order.
    """

    labels: dict[str, Any]
    order: list[int] | None
    renumbered: Values
    regions: tuple[int, ...]

    @classmethod
    def of_tasks(cls, taskset: TaskSet, tasks: Collection[str], *, plain: bool = True) -> "TaskLabels":
        """Number the labels of some tasks anew; regions keep nnU-Net's order in the data set.

        Args:
            taskset: Task set of the data set.
            tasks: Names of the tasks; without a task there is one label, `NOTHING`, that no voxel has.
            plain: Whether labels become plain integers if every region has a single value; False with our block, which
                needs regions.
        """
        regions = regions_of(taskset, tasks)
        leaves = sorted({leaf for region in regions for leaf in taskset.region_labels[region]})
        n_values = 1 + max(leaf for labels in taskset.region_labels for leaf in labels)
        renumbered = np.zeros(n_values + (taskset.ignore_label is not None), np.uint16)
        if not regions:
            return cls({"background": 0, NOTHING: [1, 1]}, [1], renumbered, ())
        renumbered[leaves] = range(1, len(leaves) + 1)
        values = {region: renumbered[list(taskset.region_labels[region])].tolist() for region in regions}
        single = all(len(new) == 1 for new in values.values())
        order = [_painted(region, values, int(renumbered[taskset.regions_class_order[region]])) for region in regions]
        labels: dict[str, Any] = {"background": 0}
        for region, new in values.items():
            labels[taskset.regions[region]] = (new[0] if plain else new * 2) if single else new
        if taskset.ignore_label is not None:
            labels["ignore"] = len(leaves) + 1
            renumbered[taskset.ignore_label] = len(leaves) + 1
        return cls(labels, None if plain and single else order, renumbered, regions)

    def of_case(self, taskset: TaskSet, case: str) -> Values:
        """Return the new values, (V,), with 0 for every value that lies in no region of an annotated task of a case.

        A label map can hold such a value, because the value may also be in a region of an annotated task that is not
        extracted. In the new data set it would contradict the annotation of the case.

        Raises:
            TaskSetError: If the block does not list the case.
        """
        annotated = {taskset.tasks[index].name for index in taskset.annotated_tasks(case)}
        values = self.renumbered.copy()
        kept = [region for region in regions_of(taskset, annotated) if region in self.regions]
        known = {leaf for region in kept for leaf in taskset.region_labels[region]}
        for leaf in range(1, len(values)):
            if leaf not in known and leaf != taskset.ignore_label:
                values[leaf] = 0
        return values

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.labels.items())


def regions_of(taskset: TaskSet, tasks: Collection[str]) -> tuple[int, ...]:
    """Return the numbers of the regions of some tasks, in nnU-Net's order."""
    return tuple(region for region, owner in enumerate(taskset.task_of_region) if taskset.tasks[owner].name in tasks)


def structure_of(taskset: TaskSet, task: str) -> tuple[int, ...]:
    """Return the label values of all regions of a task, ascending."""
    return tuple(sorted({leaf for region in regions_of(taskset, [task]) for leaf in taskset.region_labels[region]}))


def _painted(region: int, values: dict[int, list[int]], given: int) -> int:
    """Return the value painted for a region: `given`, or the least other one if `given` belongs to an inner region."""
    outside_inner = set(values[region])
    for others in values.values():
        if set(others) < set(values[region]):
            outside_inner -= set(others)
    return given if given in outside_inner or not outside_inner else min(outside_inner)
