"""What the values of label maps mean: those of a data set, and those of predictions, matched with them by name."""

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
    """Predictions are of other regions than the data set's."""


class LabelTable(NamedTuple):
    """What the values of label maps mean.

    Attributes:
        dataset_json: nnU-Net's description, for the file ending and the reader.
        taskset: Regions and tasks.
    """

    dataset_json: Mapping[str, Any]
    taskset: TaskSet

    @property
    def file_ending(self) -> str:
        """The ending of label maps, with its dot."""
        return str(self.dataset_json["file_ending"])

    @property
    def regions(self) -> tuple[int, ...]:
        """Indices of the regions that are not background, which is an output of its own without regions."""
        return tuple(index for index, labels in enumerate(self.taskset.region_labels) if tuple(labels) != (0,))

    @property
    def values(self) -> frozenset[int]:
        """Every value that a label map may hold, but for the ignore label."""
        return frozenset({0}.union(*self.taskset.region_labels))


class MapValues(NamedTuple):
    """What the values of a folder's predicted label maps mean.

    Attributes:
        of_region: The values of each region that is predicted, by its number in the data set.
        known: Every value that may occur.
    """

    of_region: Mapping[int, tuple[int, ...]]
    known: frozenset[int]


def described(predictions: Path, table: LabelTable) -> DescribedRegions | None:
    """Return what is said of the maps of a folder of predictions; None where nothing is.

    Raises:
        LabelTableError: If they have none of the data set's regions.
    """
    if not (predictions / "dataset.json").is_file():
        return None
    found = described_regions(predictions, table.taskset, table.file_ending)
    if found.unknown and not found.channels:
        raise LabelTableError(
            f"{found.path}: predicts {listed(found.unknown)}, none of the data set's regions "
            f"{listed(table.taskset.regions)}; check -pred and -d, or rename the labels there"
        )
    return found


def values_of_folder(folder: Path, table: LabelTable) -> MapValues:
    """Return what the values of a folder's maps mean; without a description those of the data set."""
    found = described(folder, table)
    if found is None:
        own = {index: tuple(table.taskset.region_labels[index]) for index in table.regions}
        return MapValues(own, table.values)
    return MapValues(found.values, found.known)


def values_of_tasks(predictions: Path, table: LabelTable) -> dict[str, MapValues]:
    """Return what the values of every task's own maps mean; without a description those of `task_maps`."""
    taskset = table.taskset
    found = {}
    for label_map in task_maps(taskset, [task.name for task in taskset.tasks], table.dataset_json):
        folder = predictions / label_map.name
        if (folder / "dataset.json").is_file():
            found[label_map.name] = values_of_folder(folder, table)
        elif folder.is_dir():
            labels = label_map.dataset_json["labels"]
            regions = [index for index in label_map.channels if index in table.regions]
            values = {index: tuple(np.atleast_1d(labels[taskset.regions[index]]).tolist()) for index in regions}
            found[label_map.name] = MapValues(values, frozenset({0}.union(*values.values())))
    return found
