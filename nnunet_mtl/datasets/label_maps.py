"""Label maps of one image, and what they say together, worked out once per combination of their values.

A volume has a hundred million voxels and a few hundred combinations of labels: whatever depends on the labels alone is
a table over the combinations, looked up voxel by voxel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import one_line
from nnunet_mtl.datasets.grid import Grid, grid_difference, grid_of
from nnunet_mtl.datasets.label_files import LabelFileError, read_label_file
from nnunet_mtl.datasets.label_pairs import shown_values

Values = npt.NDArray[np.int64]
Table = npt.NDArray[np.bool_]

_LARGEST_TABLE = 2**24  # entries


class LabelMapError(UserError):
    """Label maps cannot be read or written, or do not belong together; every problem is named."""


class LabelMap(NamedTuple):
    """A label map: (Z, Y, X) integers, one slice for a 2D image, and what nnU-Net's reader says of the grid."""

    labels: npt.NDArray[np.int32]
    properties: dict[str, Any]

    @property
    def grid(self) -> Grid:
        """Where its voxels lie."""
        return grid_of(self.labels.shape, self.properties)


@dataclass
class LabelMapReader:
    """Reads label maps and gathers what is wrong with them.

    Attributes:
        reader: nnU-Net's reader and writer of the data set.
        problems: A line for everything found so far.
    """

    reader: Any
    problems: list[str]

    def read(self, path: Path, n_values: int, like: LabelMap | None = None) -> LabelMap | None:
        """Read a map whose values are 0 to `n_values` - 1.

        Args:
            path: The file.
            n_values: How many values there are.
            like: A map on whose grid it must lie.

        Returns:
            The map, even if a problem was found; None if it cannot be read at all.
        """
        try:
            stored, properties = read_label_file(path, self.reader)
        except LabelFileError as error:
            self.problems.append(str(error))
            return None
        with np.errstate(invalid="ignore"):  # NaN is no integer, and is told below
            labels = stored.astype(np.int32)
        strange = (labels != stored) | (labels < 0) | (labels >= n_values)
        if strange.any():
            values = shown_values(np.unique(stored[strange]))
            self.problems.append(f"{path}: holds {values}, its labels are 0 to {n_values - 1}; correct or predict it")
        found = LabelMap(labels, properties)
        difference = None if like is None else grid_difference(found.grid, like.grid)
        if difference:
            self.problems.append(
                f"{path}: is not on the grid of the case's other maps ({difference.text}); predict from the same image"
            )
        return found

    def write(self, path: Path, labels: npt.NDArray[np.integer[Any]], like: LabelMap) -> None:
        """Write a map on the grid of another one.

        Raises:
            LabelMapError: If that fails.
        """
        try:
            self.reader.write_seg(labels, str(path), like.properties)
        except Exception as error:  # writers raise anything
            raise LabelMapError(f"{path}: cannot be written ({one_line(error)}); check the disk") from error


def refuse(problems: Sequence[str]) -> None:
    """Refuse to go on where anything is wrong.

    Raises:
        LabelMapError: With all problems; a single one is a single line.
    """
    if len(problems) == 1:
        raise LabelMapError(f"{problems[0]}; nothing was written")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise LabelMapError(f"{len(problems)} problems, nothing was written:\n{lines}")


class Combinations(NamedTuple):
    """The combinations of values that M maps of one image have somewhere.

    Attributes:
        values: Of each map in each combination, (N, M).
        voxels: How many voxels have each combination, (N,).
        of_voxel: The combination of each voxel, (Z, Y, X).
    """

    values: Values
    voxels: Values
    of_voxel: npt.NDArray[np.integer[Any]]


def combinations(maps: Sequence[npt.NDArray[np.integer[Any]]]) -> Combinations:
    """Find the combinations of values of maps on one grid.

    Args:
        maps: At least one, (Z, Y, X) each, values from 0 on.
    """
    of_voxel: npt.NDArray[np.integer[Any]] = np.zeros(maps[0].shape, np.int32)
    values = np.zeros((1, 0), np.int64)
    for labels in maps:
        n_values = int(labels.max(initial=0)) + 1
        # a table takes 4 bytes a voxel and no sorting
        if len(values) * n_values <= _LARGEST_TABLE:
            key = of_voxel * np.int32(n_values) + labels
            present = np.zeros(len(values) * n_values, np.bool_)
            present[key] = True
            found = np.flatnonzero(present)
            of_voxel = (np.cumsum(present, dtype=np.int32) - 1)[key]
        else:
            key = of_voxel * np.int64(n_values) + labels
            found, place = np.unique(key, return_inverse=True)
            of_voxel = place.reshape(labels.shape)
        values = np.column_stack((values[found // n_values], found % n_values))
    return Combinations(values, np.bincount(of_voxel.ravel(), minlength=len(values)), of_voxel)


def membership(region_labels: Sequence[Sequence[int]], n_values: int) -> Table:
    """Return which of the values 0, 1, ... lie in which region, (n_values, R)."""
    table = np.zeros((n_values, len(region_labels)), np.bool_)
    for region, labels in enumerate(region_labels):
        table[list(labels), region] = True
    return table


def painted(regions: Table, order: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the value nnU-Net paints where some regions are: each overwrites those before it.

    Args:
        regions: Which regions are there, (N, R).
        order: The value of each region, as in `regions_class_order`.

    Returns:
        (N,)
    """
    values = np.zeros(len(regions), np.int64)
    for there, value in zip(regions.T, order, strict=True):
        values[there] = value
    return values
