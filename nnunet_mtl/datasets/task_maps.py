"""Label maps of single tasks, each decoded from the probabilities of the task alone.

In the map that nnU-Net exports, a later region overwrites an earlier region: a vessel inside the liver leaves a hole in
the liver. If only the channels of one task are exported, with labels for that task, every task stays as predicted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_mtl.tasks import TaskSet


@dataclass(frozen=True)
class LabelMap:
    """The input of nnU-Net's export for a map of some output channels.

    Attributes:
        name: Name of the task.
        channels: Output channels of the network, in the order in which they are painted.
        dataset_json: Content of a `dataset.json` with the labels of the map.
    """

    name: str
    channels: tuple[int, ...]
    dataset_json: Mapping[str, Any]


def task_maps(tasks: TaskSet, names: Sequence[str], dataset_json: Mapping[str, Any]) -> tuple[LabelMap, ...]:
    """Return the label map of every named task.

    The value of a region is its position among the regions of the task, beginning with 1. If labels are no regions
    (softmax), the only task covers all labels and keeps the values of the data set.

    Args:
        tasks: Task set of the model.
        names: Names of the tasks to export.
        dataset_json: `dataset.json` of the model.
    """
    rest = {key: value for key, value in dataset_json.items() if key not in ("nnunet_mtl", "regions_class_order")}
    if not tasks.has_regions:
        all_channels = tuple(range(len(tasks.regions)))
        return tuple(LabelMap(name, all_channels, rest) for name in names)
    return tuple(_task_map(tasks, index, rest) for index, task in enumerate(tasks.tasks) if task.name in names)


def _task_map(tasks: TaskSet, index: int, rest: Mapping[str, Any]) -> LabelMap:
    task = tasks.tasks[index]
    # Channels are in nnU-Net's order: only there an outer region is always painted before its inner region.
    channels = tuple(channel for channel, owner in enumerate(tasks.task_of_region) if owner == index)
    value = {tasks.regions.index(region): place for place, region in enumerate(task.regions, start=1)}
    labels: dict[str, Any] = {"background": 0}
    for outer in channels:
        inside = [value[inner] for inner in channels if _is_inside(tasks, inner, outer)]
        # A list of one value is a plain label; if all labels are plain, nnU-Net takes the channels for a softmax.
        labels[tasks.regions[outer]] = sorted(inside) if len(inside) > 1 else inside * 2
    order = [value[channel] for channel in channels]
    return LabelMap(task.name, channels, {**rest, "labels": labels, "regions_class_order": order})


def _is_inside(tasks: TaskSet, inner: int, outer: int) -> bool:
    return set(tasks.region_labels[inner]) <= set(tasks.region_labels[outer])


def region_map(channel: int) -> LabelMap:
    """Return the label map of a single region, with the values 0 and 1."""
    labels = {"background": 0, "region": [1, 1]}
    return LabelMap("region", (channel,), {"labels": labels, "regions_class_order": [1]})
