"""Turns every region of a stock data set into a task."""

from dataclasses import replace
from pathlib import Path

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import shown
from nnunet_mtl.common.names import name_problem, twins
from nnunet_mtl.tasks import Task, TaskSet


class RegionNameError(UserError):
    """The name of a region is no valid task name, because folders are named after tasks."""


def with_region_tasks(taskset: TaskSet, source: Path) -> TaskSet:
    """Return a task set in which every region is a task; its parent is the smallest region that contains it.

    Args:
        taskset: Task set of a data set without a block.
        source: File of the data set, for messages.

    Raises:
        RegionNameError: If the name of a region is no valid folder name, or two names differ only in case or Unicode
            form.
    """
    for region in taskset.regions:
        if problem := name_problem(region):
            raise RegionNameError(f"{source}: labels: as the name of a task, {shown(region)} {problem}; rename it")
    if pair := twins(taskset.regions):
        raise RegionNameError(
            f"{source}: labels: as names of tasks, {shown(pair[0])} and {shown(pair[1])} must differ in more than case "
            "or Unicode form; rename one of them"
        )
    labels = {region: set(values) for region, values in zip(taskset.regions, taskset.region_labels, strict=True)}

    def parent(region: str) -> str | None:
        outer = [other for other in taskset.regions if labels[region] < labels[other]]
        return min(outer, key=lambda other: len(labels[other]), default=None)

    return replace(
        taskset, tasks=tuple(Task(region, (region,), (region,), parent(region)) for region in taskset.regions)
    )
