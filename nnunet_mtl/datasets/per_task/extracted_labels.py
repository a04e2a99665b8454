"""The labels of some tasks of a data set, numbered anew for a data set of their own."""

from collections.abc import Collection, Sequence
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
        labels: As in `dataset.json`: nnU-Net's regions if one of them has several label values, plain integers else.
        order: `regions_class_order`; None for plain integers.
        renumbered: The new value of each value of the data set, (V,); 0 for those of other tasks.
        regions: Numbers of the regions in the data set, in nnU-Net's order.
    """

    labels: dict[str, Any]
    order: list[int] | None
    renumbered: Values
    regions: tuple[int, ...]

    @classmethod
    def of_tasks(cls, taskset: TaskSet, tasks: Collection[str], *, plain: bool = True) -> "TaskLabels":
        """Number the labels of some tasks anew; the order of regions is nnU-Net's of the data set.

        Args:
            taskset: Of the data set.
            tasks: Their names; without any there is one label, `NOTHING`, that no voxel has.
            plain: Whether regions of a single value each are plain integers; our block needs regions.
        """
        regions = regions_of(taskset, tasks)
        leaves = sorted({leaf for region in regions for leaf in taskset.region_labels[region]})
        n_values = 1 + max(leaf for labels in taskset.region_labels for leaf in labels)
        renumbered = np.zeros(n_values + (taskset.ignore_label is not None), np.uint16)
        if not regions:
            return cls({"background": 0, NOTHING: [1, 1]}, [1], renumbered, ())
        renumbered[leaves] = range(1, len(leaves) + 1)
        values = {region: renumbered[list(taskset.region_labels[region])].tolist() for region in regions}
        single = all(len(of_region) == 1 for of_region in values.values())
        order = [_painted(region, values, int(renumbered[taskset.regions_class_order[region]])) for region in regions]
        labels: dict[str, Any] = {"background": 0}
        for region, new in values.items():
            labels[taskset.regions[region]] = (new[0] if plain else new * 2) if single else new
        if taskset.ignore_label is not None:
            labels["ignore"] = len(leaves) + 1
            renumbered[taskset.ignore_label] = len(leaves) + 1
        return cls(labels, None if plain and single else order, renumbered, regions)

    def of_case(self, taskset: TaskSet, case: str) -> Values:
        """Return the new values, (V,), without those of which nobody annotated anything in a case.

        A value may be in regions of several tasks, and of these another one was annotated: in the new data set it would
        contradict what is said of the case.

        Raises:
            TaskSetError: If the case is not in the block.
        """
        annotated = {taskset.tasks[index].name for index in taskset.annotated_tasks(case)}
        values = self.renumbered.copy()
        known = {leaf for one in regions_of(taskset, annotated) if one in self.regions for leaf in _all(taskset, one)}
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
    """Return the label values of a task's structure: those of any of its regions, ascending."""
    return tuple(sorted({leaf for region in regions_of(taskset, [task]) for leaf in _all(taskset, region)}))


def _all(taskset: TaskSet, region: int) -> Sequence[int]:
    return taskset.region_labels[region]


def _painted(region: int, values: dict[int, list[int]], given: int) -> int:
    """Return what is painted for a region: as in the data set, unless that now belongs to an inner region alone."""
    own = set(values[region])
    for others in values.values():
        if set(others) < set(values[region]):
            own -= set(others)
    return given if given in own or not own else min(own)
