"""Writes phantoms in nnU-Net's raw format: a union of partially labelled data sets whose whole truth is known.

A training label file holds what the annotator of its task would have drawn and nothing else: in a case annotated for
the liver the vessels inside it are liver, and a case annotated for the vessels holds the vessels alone. The test cases
carry every structure.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.anatomy import Leaf
from nnunet_mtl.lab.phantoms.files import Contents, Geometry, WrittenCase, write_cases
from nnunet_mtl.lab.phantoms.organs_cases import (
    CLASSES,
    TASKS,
    PhantomCase,
    PhantomError,
    PhantomOptions,
    class_of,
    plan_cases,
    render,
)
from nnunet_mtl.lab.phantoms.scanner import SCANNERS

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


def write_phantom_dataset(
    folder: Path, options: PhantomOptions, progress: Callable[[str], None], *, overwrite: bool = False
) -> None:
    """Write a data set of phantoms; the same options give the same arrays and the same `dataset.json`.

    Two dimensions are written as two-dimensional NIfTI, which nnU-Net's SimpleITK reader takes for one slice.

    Args:
        folder: The data set's folder, named as nnU-Net expects it (`Dataset900_Phantom`).
        options: Options of the phantoms.
        progress: Called with one line per case.
        overwrite: Whether an existing data set in the folder is replaced; other files stay.

    Raises:
        PhantomError: If the folder is not empty and `overwrite` is false.
    """
    cases = list(plan_cases(options))
    written = (_written(options, case) for case in cases)
    write_cases(folder, _contents(options.tasks), written, len(cases), progress, overwrite=overwrite)


def annotation(leaves: NDArray[np.uint8], case: PhantomCase, tasks: tuple[str, ...] = TASKS) -> NDArray[np.uint8]:
    """Return the label map of a case as its annotator drew it, with the shape of `leaves`.

    Args:
        leaves: `Leaf` of each voxel.
        case: The case of these voxels.
        tasks: Tasks of the data set; label values are numbered without gaps over the structures of these tasks.
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


def _written(options: PhantomOptions, case: PhantomCase) -> WrittenCase:
    scan = render(options, case)
    return WrittenCase(
        name=case.name,
        is_test=case.is_test,
        channels=scan.image[None],
        labels=annotation(scan.leaves, case, options.tasks),
        geometry=Geometry(scan.spacing_mm, scan.origin_mm, scan.direction),
        entry=_entry(options, case, bool(np.any(scan.leaves == Leaf.LIVER_TUMOUR))),
        note=f" ({SCANNERS[case.domain].name})",
    )


def _entry(options: PhantomOptions, case: PhantomCase, has_liver_tumour: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"annotated": [task for task in case.annotated if task in options.tasks]}
    malignancy = class_of(options, case)
    if has_liver_tumour and malignancy is not None:
        entry["classes"] = {"malignancy": malignancy}
    return entry | {"patient": case.patient, "source": SCANNERS[case.domain].name}


def _contents(tasks: tuple[str, ...]) -> Contents:
    values = _label_values(tasks)
    regions = {region: tuple(values[leaf] for leaf in leaves) for region, leaves in _regions(tasks).items()}
    evidence = {"evidence": "liver_tumour"} if "liver_tumour" in regions else {}
    block = {
        "tasks": {task: _task_entry(task, tasks) for task in TASKS if task in tasks},
        "classification": {"malignancy": {"kind": "nominal", "classes": list(CLASSES)} | evidence},
    }
    return Contents(("CT",), regions, block)


def _task_entry(task: str, tasks: tuple[str, ...]) -> dict[str, Any]:
    """Return the entry of a task in the block; its overlaps name tasks of the data set only."""
    entry = dict(_TASK_ENTRIES[task])
    overlaps = [other for other in entry.pop("overlaps", ()) if other in tasks]
    return entry | ({"overlaps": overlaps} if overlaps else {})
