"""Writes phantoms of any kind as a data set in nnU-Net's raw format.

Training cases go to `imagesTr` and, as their annotator drew them, to `labelsTr`. Test cases go to `imagesTs` and, fully
annotated, to `labelsTs`. Values per voxel are the last channels of training images. Values of test cases have a folder
of their own, because a network predicts from the other channels. `labelsTs.json` is a copy of `dataset.json` with the
table of the test cases, so that the table that training reads has no truth about test cases.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from nnunet_mtl.common.files import references_table
from nnunet_mtl.lab.phantoms.options import PhantomError
from nnunet_mtl.tasks import TaskSet, write_dataset_json

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
VALUES = "regressionTs"


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of an image lie, axes in the order of SimpleITK (x first).

    Attributes:
        spacing_mm: Distance of voxels along each axis.
        origin_mm: Place of the first voxel; None puts it at 0.
        direction: Direction cosines, row-major; None for the identity.
    """

    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None


@dataclass(frozen=True)
class WrittenCase:
    """One case as it is written.

    Attributes:
        name: Case identifier.
        is_test: Whether the case goes to the test folders.
        channels: The image, (C, Y, X) or (C, Z, Y, X).
        labels: Label map as the annotator drew it, (Y, X) or (Z, Y, X); of a test case every structure.
        geometry: Geometry of image and labels.
        entry: Entry of the case in the `nnunet_mtl` block.
        note: Text at the end of the case's line of progress.
        values: Values of the voxels by regression task, with the shape of `labels`; zeros if unknown.
    """

    name: str
    is_test: bool
    channels: NDArray[Any]
    labels: NDArray[np.uint8]
    geometry: Geometry
    entry: Mapping[str, Any]
    note: str = ""
    values: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """The content of `dataset.json` without the cases.

    Attributes:
        channel_names: Names in the order of the channels.
        labels: Regions and their label values in painting order, without the background. Lists of one value are
            written so that nnU-Net trains regions nevertheless.
        block: The `nnunet_mtl` block without version and cases; None for a data set of stock nnU-Net.
    """

    channel_names: tuple[str, ...]
    labels: Mapping[str, tuple[int, ...]]
    block: Mapping[str, Any] | None


def write_cases(
    folder: Path,
    contents: Contents,
    cases: Iterable[WrittenCase],
    count: int,
    progress: Callable[[str], None],
    *,
    overwrite: bool,
) -> None:
    """Write a data set of phantoms; two dimensions as two-dimensional NIfTI, which nnU-Net takes for one slice.

    Args:
        folder: The data set's folder, named as nnU-Net expects it (`Dataset900_Phantom`).
        contents: Content of `dataset.json` without the cases.
        cases: The cases, drawn one after the other: one image is in memory at a time.
        count: Number of cases, for the progress.
        progress: Called with one line per case.
        overwrite: Whether an existing data set in the folder is replaced; other files stay.

    Raises:
        PhantomError: If the folder is not empty and `overwrite` is false.
    """
    make_folders(folder, overwrite)
    tables: dict[bool, dict[str, Mapping[str, Any]]] = {True: {}, False: {}}
    for number, case in enumerate(cases, start=1):
        part = "Ts" if case.is_test else "Tr"
        for channel, values in enumerate([*case.channels, *([] if case.is_test else case.values.values())]):
            write_image(values, case.geometry, folder / f"images{part}" / f"{case.name}_{channel:04d}.nii.gz")
        write_image(case.labels, case.geometry, folder / f"labels{part}" / f"{case.name}.nii.gz")
        for task, values in case.values.items() if case.is_test else ():
            (folder / VALUES / task).mkdir(parents=True, exist_ok=True)
            write_image(values, case.geometry, folder / VALUES / task / f"{case.name}.nii.gz")
        tables[case.is_test][case.name] = case.entry
        progress(f"{number}/{count} {case.name}{case.note}")
    # Written last, so that an incomplete folder has no dataset.json.
    _write_json(references_table(folder / "labelsTs"), folder.name, contents, tables[True])
    _write_json(folder / "dataset.json", folder.name, contents, tables[False])


def make_folders(folder: Path, overwrite: bool) -> None:
    """Make the folders of a new data set, and remove the files of an older data set in them.

    Raises:
        PhantomError: If the folder is not empty and `overwrite` is false, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite or not folder.is_dir():
            raise PhantomError(f"{folder}: exists already; choose another data set id or name, or allow overwriting it")
        for path in (folder / "dataset.json", references_table(folder / "labelsTs")):
            path.unlink(missing_ok=True)
        for name in (*FOLDERS, VALUES):
            shutil.rmtree(folder / name, ignore_errors=True)
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)


def write_image(values: NDArray[Any], geometry: Geometry, path: Path) -> None:
    """Write an array (Y, X) or (Z, Y, X) as compressed NIfTI."""
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(geometry.spacing_mm)
    if geometry.origin_mm is not None:
        image.SetOrigin(geometry.origin_mm)
    if geometry.direction is not None:
        image.SetDirection(geometry.direction)
    SimpleITK.WriteImage(image, str(path), True)


def _write_json(path: Path, name: str, contents: Contents, table: Mapping[str, Mapping[str, Any]]) -> None:
    regions = {region: list(values) for region, values in contents.labels.items()}
    order = [values[0] for values in regions.values()]
    if all(len(values) == 1 for values in regions.values()):
        # Without any list of more than one value nnU-Net would not train regions.
        regions = {region: values * 2 for region, values in regions.items()}
    block = {} if contents.block is None else {"nnunet_mtl": {"version": 1, **contents.block, "cases": dict(table)}}
    content: dict[str, Any] = {
        "name": name,
        "channel_names": {str(number): channel for number, channel in enumerate(contents.channel_names)},
        "labels": {"background": 0} | regions,
        "regions_class_order": order,
        "numTraining": len(table),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        **block,
    }
    TaskSet.from_dataset_json(content, str(path))
    write_dataset_json(path, content)
