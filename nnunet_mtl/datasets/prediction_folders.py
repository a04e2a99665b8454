"""Folders of predictions of several networks, whose regions are matched by name with the regions of a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, listed
from nnunet_mtl.datasets.described_regions import DescribedRegionsError, described_regions
from nnunet_mtl.datasets.label_maps import Table, Values, membership
from nnunet_mtl.tasks import TaskSet


@dataclass(frozen=True)
class PredictionFolder:
    """The label maps that `nnUNetv2_predict` wrote into one folder.

    Attributes:
        folder: Path of the folder.
        taskset: Regions of the label values, from the `dataset.json` that nnU-Net writes beside its predictions.
        channels: Output channel of a region, by the region's index in the data set.
    """

    folder: Path
    taskset: TaskSet
    channels: Mapping[int, int]

    @cached_property
    def n_values(self) -> int:
        """Number of label values of the maps, with background."""
        return 1 + max(label for labels in self.taskset.region_labels for label in labels)

    @cached_property
    def _membership(self) -> Table:
        return membership(self.taskset.region_labels, self.n_values)

    def regions(self, values: Values, n_regions: int) -> Table:
        """Return to which of the R regions of the data set label values belong.

        Args:
            values: N label values of the maps, (N,).
            n_regions: Number of regions of the data set, R.

        Returns:
            Membership, (N, R); false for regions that the maps do not have.
        """
        members = np.zeros((len(values), n_regions), np.bool_)
        for region, channel in self.channels.items():
            members[:, region] = self._membership[values, channel]
        return members


def open_folders(
    folders: Sequence[Path], taskset: TaskSet, file_ending: str, problems: list[str]
) -> list[PredictionFolder]:
    """Match the regions of folders of predictions with those of a data set.

    Args:
        folders: Folders that `nnUNetv2_predict` wrote.
        taskset: Task set of the data set.
        file_ending: File ending of the data set's label maps.
        problems: One line for every problem is appended to this list.

    Returns:
        The folders without a problem of their own.
    """
    candidates = [_open(folder, taskset, file_ending, problems) for folder in folders]
    opened = [candidate for candidate in candidates if candidate is not None]
    for number, region in enumerate(taskset.regions):
        paths = [str(candidate.folder) for candidate in opened if number in candidate.channels]
        if len(paths) > 1:
            problems.append(f"region {region}: predicted by {' and '.join(paths)}; give one of them")
    return opened


def _open(folder: Path, taskset: TaskSet, file_ending: str, problems: list[str]) -> PredictionFolder | None:
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder; check -i")
        return None
    try:
        regions = described_regions(folder, taskset, file_ending)
    except DescribedRegionsError as error:
        problems.append(str(error))
        return None
    except UserError as error:
        problems.append(f"{error} (nnUNetv2_predict puts it beside its predictions)")
        return None
    if regions.unknown:
        problems.append(
            f"{regions.path}: predicts {listed(regions.unknown)}, which the data set does not have"
            f"{did_you_mean(regions.unknown[0], taskset.regions)}; it has {listed(taskset.regions)}"
        )
        return None
    return PredictionFolder(folder, regions.taskset, regions.channels)
