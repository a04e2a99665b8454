"""Writes phantoms in nnU-Net's raw format: a union of partially labelled data sets whose whole truth is known.

A training label file holds what the annotator of its task would have drawn and nothing else: in a case annotated for
the liver the vessels inside it are liver, and a case annotated for the vessels holds the vessels alone. The test cases
in `imagesTs` carry every structure in `labelsTs`, and `labelsTs/dataset.json` is the data set's file with the table of
the test cases, so that no truth about them stands in the table that training reads.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from nnunet_mtl.datasets.phantom_anatomy import Leaf
from nnunet_mtl.datasets.phantom_cases import (
    CLASSES,
    TASKS,
    PhantomCase,
    PhantomError,
    PhantomOptions,
    class_of,
    plan_cases,
    render,
)
from nnunet_mtl.datasets.phantom_scanner import SCANNERS, Scan
from nnunet_mtl.tasks import TaskSet, write_dataset_json

__all__ = ["PhantomCase", "PhantomError", "PhantomOptions", "annotation", "write_phantom_dataset"]

# The order is nnU-Net's painting order: what lies inside comes after what it lies in.
_REGIONS: dict[str, tuple[Leaf, ...]] = {
    "liver": (Leaf.LIVER, Leaf.VESSEL, Leaf.LIVER_TUMOUR),
    "vessel": (Leaf.VESSEL,),
    "liver_tumour": (Leaf.LIVER_TUMOUR,),
    "kidney_left": (Leaf.KIDNEY_LEFT,),
    "kidney_right": (Leaf.KIDNEY_RIGHT,),
    "spleen": (Leaf.SPLEEN,),
    "pancreas": (Leaf.PANCREAS, Leaf.PANCREAS_TUMOUR),
    "pancreas_tumour": (Leaf.PANCREAS_TUMOUR,),
}
_TASK_ENTRIES: dict[str, dict[str, Any]] = {
    "liver": {"regions": ["liver", "liver_tumour"], "slots": ["organ", "tumour"], "overlaps": ["vessel"]},
    "vessel": {"regions": ["vessel"], "slots": ["vessel"], "overlaps": ["liver"]},
    "kidney": {"regions": ["kidney_left", "kidney_right"], "slots": ["left", "right"]},
    "spleen": {"regions": ["spleen"], "slots": ["organ"]},
    "pancreas": {"regions": ["pancreas", "pancreas_tumour"], "slots": ["organ", "tumour"]},
}
# What the annotator of a task writes for a leaf; leaves that are not named are background to them.
_DRAWN: dict[str, dict[Leaf, Leaf]] = {
    "liver": {Leaf.LIVER: Leaf.LIVER, Leaf.VESSEL: Leaf.LIVER, Leaf.LIVER_TUMOUR: Leaf.LIVER_TUMOUR},
    "vessel": {Leaf.VESSEL: Leaf.VESSEL},
    "kidney": {Leaf.KIDNEY_LEFT: Leaf.KIDNEY_LEFT, Leaf.KIDNEY_RIGHT: Leaf.KIDNEY_RIGHT},
    "spleen": {Leaf.SPLEEN: Leaf.SPLEEN},
    "pancreas": {Leaf.PANCREAS: Leaf.PANCREAS, Leaf.PANCREAS_TUMOUR: Leaf.PANCREAS_TUMOUR},
}
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


def write_phantom_dataset(
    folder: Path, options: PhantomOptions, progress: Callable[[str], None], *, overwrite: bool = False
) -> None:
    """Write a data set of phantoms; the same options give the same arrays and the same `dataset.json`.

    Two dimensions are written as two-dimensional NIfTI, which nnU-Net's SimpleITK reader takes for one slice.

    Args:
        folder: The data set's folder, named as nnU-Net expects it (`Dataset900_Phantom`).
        options: What the phantoms are like.
        progress: Called with one line per case.
        overwrite: Whether to replace a data set that lies there; other files in the folder stay.

    Raises:
        PhantomError: If the folder is not empty and `overwrite` is false.
    """
    _make_folders(folder, overwrite)
    cases = list(plan_cases(options))
    diseased: dict[str, bool] = {}
    for number, case in enumerate(cases, start=1):
        scan = render(options, case)
        part = "Ts" if case.is_test else "Tr"
        _write(scan.image, scan, folder / f"images{part}" / f"{case.name}_0000.nii.gz")
        _write(annotation(scan.leaves, case, options.tasks), scan, folder / f"labels{part}" / f"{case.name}.nii.gz")
        diseased[case.name] = bool(np.any(scan.leaves == Leaf.LIVER_TUMOUR))
        progress(f"{number}/{len(cases)} {case.name} ({SCANNERS[case.domain].name})")
    for is_test, path in ((True, folder / "labelsTs"), (False, folder)):
        chosen = [case for case in cases if case.is_test == is_test]
        table = {case.name: _entry(options, case, diseased[case.name]) for case in chosen}
        # Last, so that a folder that was left half written has none.
        _write_json(path / "dataset.json", folder.name, options, table)


def annotation(leaves: NDArray[np.uint8], case: PhantomCase, tasks: tuple[str, ...] = TASKS) -> NDArray[np.uint8]:
    """Return what the label file of a case holds of its whole anatomy, same shape.

    Args:
        leaves: `Leaf` of each voxel.
        case: Whose they are.
        tasks: Tasks of the data set; without some of them the values of the other structures close ranks.
    """
    values = _label_values(tasks)
    drawn = {leaf: leaf for leaf in values} if case.is_test else _DRAWN[TASKS[case.group]]
    written = np.zeros(len(Leaf), dtype=np.uint8)
    for leaf, drawn_as in drawn.items():
        written[leaf] = values[drawn_as]
    label_map: NDArray[np.uint8] = written[leaves]
    return label_map


def _regions(tasks: tuple[str, ...]) -> dict[str, tuple[Leaf, ...]]:
    """Return the leaves of every region of some tasks, in painting order."""
    names = {region for task in tasks for region in _TASK_ENTRIES[task]["regions"]}
    return {region: leaves for region, leaves in _REGIONS.items() if region in names}


def _label_values(tasks: tuple[str, ...]) -> dict[Leaf, int]:
    """Return the value that stands for each leaf in the files: 1, 2, ... without the gaps that nnU-Net refuses."""
    leaves = sorted({leaf for region in _regions(tasks).values() for leaf in region})
    return {leaf: value for value, leaf in enumerate(leaves, start=1)}


def _entry(options: PhantomOptions, case: PhantomCase, has_liver_tumour: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"annotated": [task for task in case.annotated if task in options.tasks]}
    malignancy = class_of(options, case)
    if has_liver_tumour and malignancy is not None:
        entry["classes"] = {"malignancy": malignancy}
    return entry | {"patient": case.patient, "source": SCANNERS[case.domain].name}


def _write_json(path: Path, name: str, options: PhantomOptions, table: dict[str, dict[str, Any]]) -> None:
    values = _label_values(options.tasks)
    regions = {region: [values[leaf] for leaf in leaves] for region, leaves in _regions(options.tasks).items()}
    order = [written[0] for written in regions.values()]
    if all(len(written) == 1 for written in regions.values()):
        # Without any list of more than one value nnU-Net would not train regions.
        regions = {region: written * 2 for region, written in regions.items()}
    evidence = {"evidence": "liver_tumour"} if "liver_tumour" in regions else {}
    content: dict[str, Any] = {
        "name": name,
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | regions,
        "regions_class_order": order,
        "numTraining": len(table),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "nnunet_mtl": {
            "version": 1,
            "tasks": {task: _task_entry(task, options.tasks) for task in TASKS if task in options.tasks},
            "classification": {"malignancy": {"kind": "nominal", "classes": list(CLASSES)} | evidence},
            "cases": table,
        },
    }
    TaskSet.from_dataset_json(content, str(path))
    write_dataset_json(path, content)


def _task_entry(task: str, tasks: tuple[str, ...]) -> dict[str, Any]:
    """Return what the data set says of a task, whose overlaps name no task that the data set does not have."""
    entry = dict(_TASK_ENTRIES[task])
    overlaps = [other for other in entry.pop("overlaps", ()) if other in tasks]
    return entry | ({"overlaps": overlaps} if overlaps else {})


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
        _remove(folder)
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)


def _remove(folder: Path) -> None:
    parts: Iterable[Path] = (folder / name for name in _FOLDERS)
    (folder / "dataset.json").unlink(missing_ok=True)
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
