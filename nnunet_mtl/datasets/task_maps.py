"""Each task's own label map, decoded from its own probabilities.

In the one map nnU-Net exports, a later region overwrites an earlier one: a vessel inside the liver leaves a hole in it.
Exporting the channels of one task alone, under a label description of its own, keeps every task as it was predicted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_mtl.tasks import TaskSet


@dataclass(frozen=True)
class LabelMap:
    """What nnU-Net's export is given to write the map of some of the channels.

    Attributes:
        name: Of the task.
        channels: Which channels of the network's output, in the order in which they are painted.
        dataset_json: Describes the labels of the map.
    """

    name: str
    channels: tuple[int, ...]
    dataset_json: Mapping[str, Any]


def task_maps(tasks: TaskSet, names: Sequence[str], dataset_json: Mapping[str, Any]) -> tuple[LabelMap, ...]:
    """Return the map of each named task, in its own label values.

    A region's value is its place among the regions of its task, from 1 on. Without regions (softmax) the only task is
    everything, and its values are the data set's.

    Args:
        tasks: Of the model.
        names: Of the tasks wanted.
        dataset_json: The model's.
    """
    rest = {key: value for key, value in dataset_json.items() if key not in ("nnunet_mtl", "regions_class_order")}
    if not tasks.has_regions:
        every = tuple(range(len(tasks.regions)))
        return tuple(LabelMap(name, every, rest) for name in names)
    return tuple(_task_map(tasks, index, rest) for index, task in enumerate(tasks.tasks) if task.name in names)


def _task_map(tasks: TaskSet, index: int, rest: Mapping[str, Any]) -> LabelMap:
    task = tasks.tasks[index]
    # nnU-Net's order, not the task's: only there an outer region is sure to be painted before its inner one.
    channels = tuple(channel for channel, owner in enumerate(tasks.task_of_region) if owner == index)
    value = {tasks.regions.index(region): place for place, region in enumerate(task.regions, start=1)}
    labels: dict[str, Any] = {"background": 0}
    for outer in channels:
        inside = [value[inner] for inner in channels if _is_inside(tasks, inner, outer)]
        # a list of one would be a plain label, and with plain labels only nnU-Net takes the channels for a softmax
        labels[tasks.regions[outer]] = sorted(inside) if len(inside) > 1 else inside * 2
    order = [value[channel] for channel in channels]
    return LabelMap(task.name, channels, {**rest, "labels": labels, "regions_class_order": order})


def _is_inside(tasks: TaskSet, inner: int, outer: int) -> bool:
    return set(tasks.region_labels[inner]) <= set(tasks.region_labels[outer])


def region_map(channel: int) -> LabelMap:
    """Return the map, 0 and 1, of one region alone."""
    labels = {"background": 0, "region": [1, 1]}
    return LabelMap("region", (channel,), {"labels": labels, "regions_class_order": [1]})
