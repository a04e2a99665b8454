"""Writes dose phantoms in nnU-Net's raw format: the dose is the last image channel of the training cases.

`imagesTr/CASE_0000.nii.gz` is the image and `imagesTr/CASE_0001.nii.gz` the dose in Gy, zeros where it is not known.
Test cases have the image alone, as everything that is predicted from; their dose is `regressionTs/dose/CASE.nii.gz`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.dose import (
    ORGANS_AT_RISK,
    DoseCase,
    DoseLeaf,
    DoseOptions,
    plan_dose_cases,
    render_dose_case,
)
from nnunet_mtl.lab.phantoms.files import Contents, Geometry, WrittenCase, write_cases
from nnunet_mtl.lab.phantoms.scanner import SCANNERS

__all__ = ["DoseOptions", "write_dose_dataset"]

TASK = "dose"
_REGIONS: dict[str, tuple[int, ...]] = {
    "body": tuple(int(leaf) for leaf in DoseLeaf if leaf != DoseLeaf.OUTSIDE),
    "stomach": (int(DoseLeaf.STOMACH),),
    "kidneys": (int(DoseLeaf.KIDNEYS),),
    "target": (int(DoseLeaf.TARGET),),
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
        options: Options of the phantoms.
        progress: Called with one line per case.
        overwrite: Whether an existing data set in the folder is replaced; other files stay.

    Raises:
        PhantomError: If the folder is not empty and `overwrite` is false.
    """
    cases = plan_dose_cases(options)
    contents = Contents(("CT", "noNorm"), _REGIONS, {"tasks": _TASKS})
    written = (_written(options, case) for case in cases)
    write_cases(folder, contents, written, len(cases), progress, overwrite=overwrite)


def _written(options: DoseOptions, case: DoseCase) -> WrittenCase:
    scan, dose = render_dose_case(options, case)
    scanner = SCANNERS[case.index % len(SCANNERS)].name
    left_out = {"organs": not case.has_organs, TASK: not case.has_dose}
    annotated = [task for task in _TASKS if not left_out.get(task, False)]
    return WrittenCase(
        name=case.name,
        is_test=case.is_test,
        channels=scan.image[None],
        labels=_annotation(scan.leaves, case),
        geometry=Geometry(scan.spacing_mm, scan.origin_mm, scan.direction),
        entry={"annotated": annotated, "patient": case.name, "source": scanner},
        note=f" ({scanner})",
        values={TASK: dose if case.has_dose else np.zeros_like(dose)},
    )


def _annotation(leaves: NDArray[np.uint8], case: DoseCase) -> NDArray[np.uint8]:
    """Return the label map of a case as its annotator drew it, in which an organ that is not annotated is body."""
    if case.has_organs:
        return leaves
    return np.where(np.isin(leaves, ORGANS_AT_RISK), np.uint8(DoseLeaf.BODY), leaves)
