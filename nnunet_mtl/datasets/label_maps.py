"""Reading and writing label maps of one image, and the combinations of label values that several maps share.

A volume has a hundred million voxels but only a few hundred combinations of label values. A result that depends on the
values alone is computed once for every combination and then looked up for every voxel.
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
    """Label maps cannot be read or written, or differ in their grids; the message names every problem."""


class LabelMap(NamedTuple):
    """Integer labels, (Z, Y, X) with one slice for a 2D image, and the grid properties from nnU-Net's reader."""

    labels: npt.NDArray[np.int32]
    properties: dict[str, Any]

    @property
    def grid(self) -> Grid:
        """The voxel grid of the map."""
        return grid_of(self.labels.shape, self.properties)


@dataclass
class LabelMapReader:
    """Reads label maps and collects the problems of all maps.

    Attributes:
        reader: nnU-Net's reader and writer of the data set.
        problems: One line for every problem found so far; `read` appends to the list.
    """

    reader: Any
    problems: list[str]

    def read(self, path: Path, n_values: int, like: LabelMap | None = None) -> LabelMap | None:
        """Read a map with the values 0 to `n_values` - 1.

        Args:
            path: The file.
            n_values: Number of values.
            like: A map that must have the same grid; None for no check.

        Returns:
            The map, also if its values or grid are wrong; None if the file cannot be read.
        """
        try:
            stored, properties = read_label_file(path, self.reader)
        except LabelFileError as error:
            self.problems.append(str(error))
            return None
        with np.errstate(invalid="ignore"):  # NaN is no integer and is reported below
            labels = stored.astype(np.int32)
        strange = (labels != stored) | (labels < 0) | (labels >= n_values)
        if strange.any():
            values = shown_values(np.unique(stored[strange]))
            self.problems.append(f"{path}: holds {values}, its labels are 0 to {n_values - 1}; correct or predict it")
        label_map = LabelMap(labels, properties)
        difference = None if like is None else grid_difference(label_map.grid, like.grid)
        if difference:
            self.problems.append(
                f"{path}: is not on the grid of the case's other maps ({difference.text}); predict from the same image"
            )
        return label_map

    def write(self, path: Path, labels: npt.NDArray[np.integer[Any]], like: LabelMap) -> None:
        """Write labels, (Z, Y, X), with the grid of another map.

        Raises:
            LabelMapError: If the file cannot be written.
        """
        try:
            self.reader.write_seg(labels, str(path), like.properties)
        except Exception as error:  # writers raise any error
            raise LabelMapError(f"{path}: cannot be written ({one_line(error)}); check the disk") from error


def refuse(problems: Sequence[str]) -> None:
    """Raise an error if there is a problem.

    Raises:
        LabelMapError: If there is a problem; the message has one line for every problem.
    """
    if len(problems) == 1:
        raise LabelMapError(f"{problems[0]}; nothing was written")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise LabelMapError(f"{len(problems)} problems, nothing was written:\n{lines}")


class Combinations(NamedTuple):
    """The N combinations of label values that occur in M maps of one image.

    Attributes:
        values: Value of every map in every combination, (N, M).
        voxels: Number of voxels with the combination, (N,).
        of_voxel: Index of every voxel's combination, (Z, Y, X).
    """

    values: Values
    voxels: Values
    of_voxel: npt.NDArray[np.integer[Any]]


def combinations(maps: Sequence[npt.NDArray[np.integer[Any]]]) -> Combinations:
    """Find the combinations of values of maps on one grid.

    Args:
        maps: At least one map of non-negative integers; each is (Z, Y, X).
    """
    of_voxel: npt.NDArray[np.integer[Any]] = np.zeros(maps[0].shape, np.int32)
    values = np.zeros((1, 0), np.int64)
    for labels in maps:
        n_values = int(labels.max(initial=0)) + 1
        # A table needs 4 bytes for every voxel and no sorting.
        if len(values) * n_values <= _LARGEST_TABLE:
            key = of_voxel * np.int32(n_values) + labels
            present = np.zeros(len(values) * n_values, np.bool_)
            present[key] = True
            occurring = np.flatnonzero(present)
            of_voxel = (np.cumsum(present, dtype=np.int32) - 1)[key]
        else:
            key = of_voxel * np.int64(n_values) + labels
            occurring, place = np.unique(key, return_inverse=True)
            of_voxel = place.reshape(labels.shape)
        values = np.column_stack((values[occurring // n_values], occurring % n_values))
    return Combinations(values, np.bincount(of_voxel.ravel(), minlength=len(values)), of_voxel)


def membership(region_labels: Sequence[Sequence[int]], n_values: int) -> Table:
    """Return which of the values 0 to `n_values` - 1 belong to which of the R regions, (n_values, R)."""
    table = np.zeros((n_values, len(region_labels)), np.bool_)
    for region, labels in enumerate(region_labels):
        table[list(labels), region] = True
    return table


def painted(regions: Table, order: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the label value that nnU-Net exports for sets of regions: a later region overwrites earlier ones.

    Args:
        regions: N sets of the R regions, (N, R).
        order: Label value of every region, as in `regions_class_order`.

    Returns:
        Label values, (N,).
    """
    values = np.zeros(len(regions), np.int64)
    for present, value in zip(regions.T, order, strict=True):
        values[present] = value
    return values
