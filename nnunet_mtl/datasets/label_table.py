"""The regions of label values: in the maps of a data set, and in predictions, matched by the names of regions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.described_regions import DescribedRegions, described_regions
from nnunet_mtl.datasets.task_maps import task_maps
from nnunet_mtl.tasks import TaskSet


class LabelTableError(UserError):
    """Predictions have no region of the data set."""


class LabelTable(NamedTuple):
    """The label values of a data set.

    Attributes:
        dataset_json: Content of `dataset.json`, for the file ending and the reader.
        taskset: Regions and tasks of the data set.
    """

    dataset_json: Mapping[str, Any]
    taskset: TaskSet

    @property
    def file_ending(self) -> str:
        """The ending of label maps, with its dot."""
        return str(self.dataset_json["file_ending"])

    @property
    def regions(self) -> tuple[int, ...]:
        """Indices of the regions without background, which is an output channel if labels are no regions."""
        return tuple(index for index, labels in enumerate(self.taskset.region_labels) if tuple(labels) != (0,))

    @property
    def values(self) -> frozenset[int]:
        """Every value that a label map may hold, except the ignore label."""
        return frozenset({0}.union(*self.taskset.region_labels))


class MapValues(NamedTuple):
    """The label values of the predicted maps in a folder.

    Attributes:
        of_region: Values of every predicted region, by the region's index in the data set.
        known: Every value that may occur.
    """

    of_region: Mapping[int, tuple[int, ...]]
    known: frozenset[int]


def described(predictions: Path, table: LabelTable) -> DescribedRegions | None:
    """Return the regions from the `dataset.json` of a folder of predictions; None if there is no such file.

    Raises:
        LabelTableError: If the predictions have no region of the data set.
    """
    if not (predictions / "dataset.json").is_file():
        return None
    regions = described_regions(predictions, table.taskset, table.file_ending)
    if regions.unknown and not regions.channels:
        raise LabelTableError(
            f"{regions.path}: predicts {listed(regions.unknown)}, none of the data set's regions "
            f"{listed(table.taskset.regions)}; check -pred and -d, or rename the labels there"
        )
    return regions


def values_of_folder(folder: Path, table: LabelTable) -> MapValues:
    """Return the label values of the maps in a folder; without a `dataset.json` those of the data set."""
    regions = described(folder, table)
    if regions is None:
        values = {index: tuple(table.taskset.region_labels[index]) for index in table.regions}
        return MapValues(values, table.values)
    return MapValues(regions.values, regions.known)


def values_of_tasks(predictions: Path, table: LabelTable) -> dict[str, MapValues]:
    """Return the label values of the maps of single tasks, by task; without a `dataset.json` those of `task_maps`."""
    taskset = table.taskset
    values_by_task = {}
    for label_map in task_maps(taskset, [task.name for task in taskset.tasks], table.dataset_json):
        folder = predictions / label_map.name
        if (folder / "dataset.json").is_file():
            values_by_task[label_map.name] = values_of_folder(folder, table)
        elif folder.is_dir():
            labels = label_map.dataset_json["labels"]
            regions = [index for index in label_map.channels if index in table.regions]
            values = {index: tuple(np.atleast_1d(labels[taskset.regions[index]]).tolist()) for index in regions}
            values_by_task[label_map.name] = MapValues(values, frozenset({0}.union(*values.values())))
    return values_by_task
