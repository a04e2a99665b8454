"""The regions of a stock data set taken for tasks."""

from dataclasses import replace
from pathlib import Path

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import shown
from nnunet_mtl.common.names import name_problem, twins
from nnunet_mtl.tasks import Task, TaskSet


class RegionNameError(UserError):
    """The name of a region cannot be that of a task, after which folders are named."""


def with_region_tasks(taskset: TaskSet, source: Path) -> TaskSet:
    """Return a task set in which every region is a task, inside the smallest region that contains it: nested labels.

    Args:
        taskset: Without a block.
        source: Its file, for messages.

    Raises:
        RegionNameError: If a region's name would not do for a folder, or two differ only in case or Unicode form.
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

    return replace(taskset, tasks=tuple(Task(one, (one,), (one,), parent(one)) for one in taskset.regions))
