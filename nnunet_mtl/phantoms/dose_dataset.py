"""Writes dose phantoms in nnU-Net's raw format: the dose is the last image channel of the training cases.

`imagesTr/CASE_0000.nii.gz` is the image and `imagesTr/CASE_0001.nii.gz` the dose in Gy, zeros where it is not known.
Test cases have the image alone, as everything that is predicted from; their dose is `regressionTs/dose/CASE.nii.gz`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from nnunet_mtl.phantoms.dose import (
    ORGANS_AT_RISK,
    DoseCase,
    DoseLeaf,
    DoseOptions,
    plan_dose_cases,
    render_dose_case,
)
from nnunet_mtl.phantoms.organs_cases import PhantomError
from nnunet_mtl.phantoms.scanner import SCANNERS, Scan
from nnunet_mtl.tasks import TaskSet, write_dataset_json

__all__ = ["DoseOptions", "write_dose_dataset"]

TASK = "dose"
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "regressionTs")
_LABELS = {
    "background": 0,
    "body": [int(leaf) for leaf in DoseLeaf if leaf != DoseLeaf.OUTSIDE],
    "stomach": int(DoseLeaf.STOMACH),
    "kidneys": int(DoseLeaf.KIDNEYS),
    "target": int(DoseLeaf.TARGET),
}
_TASKS: dict[str, dict[str, Any]] = {
    "body": {"regions": ["body"]},
    "organs": {"regions": ["stomach", "kidneys"], "overlaps": ["body"]},
    "target": {"regions": ["target"], "overlaps": ["body"]},
    TASK: {"type": "regression", "channel": 1, "inside": "body"},
}


def write_dose_dataset(
    folder: Path, options: DoseOptions, progress: Callable[[str], None], *, overwrite: bool = False
) -> None:
    """Write a data set of dose phantoms; the same options give the same arrays and the same `dataset.json`.

    Args:
        folder: The data set's folder, named as nnU-Net expects it (`Dataset903_Dose`).
        options: What the phantoms are like.
        progress: Called with one line per case.
        overwrite: Whether to replace a data set that lies there; other files in the folder stay.

    Raises:
        PhantomError: If the folder is not empty and `overwrite` is false.
    """
    _make_folders(folder, overwrite)
    cases = plan_dose_cases(options)
    for number, case in enumerate(cases, start=1):
        scan, dose = render_dose_case(options, case)
        _write_case(folder, case, scan, dose)
        progress(f"{number}/{len(cases)} {case.name} ({SCANNERS[case.index % len(SCANNERS)].name})")
    for is_test, path in ((True, folder / "labelsTs"), (False, folder)):
        table = {case.name: _entry(case) for case in cases if case.is_test == is_test}
        # Last, so that a folder that was left half written has none.
        _write_json(path / "dataset.json", folder.name, table)


def _write_case(folder: Path, case: DoseCase, scan: Scan, dose: NDArray[np.float32]) -> None:
    part = "Ts" if case.is_test else "Tr"
    _write(scan.image, scan, folder / f"images{part}" / f"{case.name}_0000.nii.gz")
    _write(_annotation(scan.leaves, case), scan, folder / f"labels{part}" / f"{case.name}.nii.gz")
    known = dose if case.has_dose else np.zeros_like(dose)
    where = folder / "regressionTs" / TASK if case.is_test else folder / "imagesTr"
    _write(known, scan, where / f"{case.name}{'' if case.is_test else '_0001'}.nii.gz")


def _annotation(leaves: NDArray[np.uint8], case: DoseCase) -> NDArray[np.uint8]:
    """Return what the label file of a case holds: an organ that nobody annotated is body."""
    if case.has_organs:
        return leaves
    return np.where(np.isin(leaves, ORGANS_AT_RISK), np.uint8(DoseLeaf.BODY), leaves)


def _entry(case: DoseCase) -> dict[str, Any]:
    left_out = {"organs": not case.has_organs, TASK: not case.has_dose}
    annotated = [task for task in _TASKS if not left_out.get(task, False)]
    return {"annotated": annotated, "patient": case.name, "source": SCANNERS[case.index % len(SCANNERS)].name}


def _write_json(path: Path, name: str, table: dict[str, dict[str, Any]]) -> None:
    content: dict[str, Any] = {
        "name": name,
        "channel_names": {"0": "CT", "1": "noNorm"},
        "labels": _LABELS,
        "regions_class_order": [int(leaf) for leaf in DoseLeaf if leaf != DoseLeaf.OUTSIDE],
        "numTraining": len(table),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "nnunet_mtl": {"version": 1, "tasks": _TASKS, "cases": table},
    }
    TaskSet.from_dataset_json(content, str(path))
    write_dataset_json(path, content)


def _write(values: NDArray[Any], scan: Scan, path: Path) -> None:
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(scan.spacing_mm)
    image.SetOrigin(scan.origin_mm)
    image.SetDirection(scan.direction)
    SimpleITK.WriteImage(image, str(path), True)


def _make_folders(folder: Path, overwrite: bool) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite or not folder.is_dir():
            raise PhantomError(f"{folder}: exists already; choose another data set id or name, or allow overwriting it")
        (folder / "dataset.json").unlink(missing_ok=True)
        for name in _FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
    for name in (*_FOLDERS, f"regressionTs/{TASK}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
