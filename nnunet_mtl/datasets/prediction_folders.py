"""Folders of predictions of networks that each know some regions of a data set, matched to it by name."""

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
    """The label maps `nnUNetv2_predict` wrote into one folder.

    Attributes:
        folder: Where they are.
        taskset: What their values mean, from the `dataset.json` nnU-Net puts beside them.
        channels: The network's output channel of each region, by the region's number in the data set.
    """

    folder: Path
    taskset: TaskSet
    channels: Mapping[int, int]

    @cached_property
    def n_values(self) -> int:
        """How many values its maps have, background included."""
        return 1 + max(label for labels in self.taskset.region_labels for label in labels)

    @cached_property
    def _membership(self) -> Table:
        return membership(self.taskset.region_labels, self.n_values)

    def regions(self, values: Values, n_regions: int) -> Table:
        """Return which regions of the data set some values of its maps stand for.

        Args:
            values: (N,)
            n_regions: Of the data set, R.

        Returns:
            (N, R), false for regions it does not predict.
        """
        found = np.zeros((len(values), n_regions), np.bool_)
        for region, channel in self.channels.items():
            found[:, region] = self._membership[values, channel]
        return found


def open_folders(
    folders: Sequence[Path], taskset: TaskSet, file_ending: str, problems: list[str]
) -> list[PredictionFolder]:
    """Match the regions of folders of predictions with those of a data set.

    Args:
        folders: What `nnUNetv2_predict` wrote.
        taskset: Of the data set.
        file_ending: Of its label maps.
        problems: Gets a line for everything that is wrong.

    Returns:
        The folders that can be used.
    """
    opened = [found for folder in folders if (found := _open(folder, taskset, file_ending, problems)) is not None]
    for number, region in enumerate(taskset.regions):
        by = [str(found.folder) for found in opened if number in found.channels]
        if len(by) > 1:
            problems.append(f"region {region}: predicted by {' and '.join(by)}; give one of them")
    return opened


def _open(folder: Path, taskset: TaskSet, file_ending: str, problems: list[str]) -> PredictionFolder | None:
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder; check -i")
        return None
    try:
        found = described_regions(folder, taskset, file_ending)
    except DescribedRegionsError as error:
        problems.append(str(error))
        return None
    except UserError as error:
        problems.append(f"{error} (nnUNetv2_predict puts it beside its predictions)")
        return None
    if found.unknown:
        problems.append(
            f"{found.path}: predicts {listed(found.unknown)}, which the data set does not have"
            f"{did_you_mean(found.unknown[0], taskset.regions)}; it has {listed(taskset.regions)}"
        )
        return None
    return PredictionFolder(folder, found.taskset, found.channels)
