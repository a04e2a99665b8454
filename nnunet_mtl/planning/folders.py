"""The folders and plans of a data set, found by nnU-Net's rules; what is missing is refused in one line."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets, maybe_convert_to_dataset_name

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, listed, shown
from nnunet_mtl.common.names import name_problem


class PlanningError(UserError):
    """Plans, splits or the copy of the task block cannot be read or written."""


def raw_folder(dataset: str | int) -> Path:
    """Return `$nnUNet_raw/DatasetXXX_Name` of a data set given by its id or its name.

    Raises:
        PlanningError: If the variable is not set, or the data set or its `dataset.json` does not exist.
    """
    return _dataset_folder(dataset, nnUNet_raw, "nnUNet_raw", "give the id or the name of a folder that is there")


def preprocessed_folder(dataset: str | int) -> Path:
    """Return `$nnUNet_preprocessed/DatasetXXX_Name` of a data set given by its id or its name.

    Raises:
        PlanningError: If the variable is not set, or the data set has not been planned.
    """
    remedy = f"run nnUNetv2_plan_and_preprocess -d {dataset} first"
    return _dataset_folder(dataset, nnUNet_preprocessed, "nnUNet_preprocessed", remedy)


def new_raw_folder(dataset_id: int, name: str) -> Path:
    """Return `$nnUNet_raw/DatasetXXX_name` for a new data set; the folder is not made.

    Raises:
        PlanningError: If the variable is not set, the id is out of range or taken by another data set, or the name
            cannot be the name of a folder.
    """
    if not nnUNet_raw.is_set():
        raise PlanningError("nnUNet_raw is not set; set it to the folder that nnU-Net keeps its data in")
    if not 1 <= dataset_id <= 999:
        raise PlanningError(f"data set id {dataset_id}: must lie between 1 and 999")
    if problem := name_problem(name):
        raise PlanningError(f"--name {shown(name)}: the name of a data set {problem}; give another")
    folder = Path(nnUNet_raw) / f"Dataset{dataset_id:03d}_{name}"
    others = [other.name for other in Path(nnUNet_raw).glob(f"Dataset{dataset_id:03d}_*") if other != folder]
    if others:
        raise PlanningError(f"data set id {dataset_id}: taken by {', '.join(others)}; give another -d")
    return folder


def read_plans(path: Path) -> dict[str, Any]:
    """Read a plans file.

    Raises:
        PlanningError: If the file does not exist or is not a plans file.
    """
    if not path.is_file():
        known = _plans_among(path.parent.glob("*.json"))
        raise PlanningError(
            f"{path}: no such plans{did_you_mean(path.stem, known)}; there are {', '.join(known) or 'none'}: "
            "run nnUNetv2_plan_experiment"
        )
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PlanningError(f"{path}: not a JSON file ({error}); run nnUNetv2_plan_experiment again") from None
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise PlanningError(
            f"{path}: not a plans file: it has no 'configurations'; give the name of one that nnU-Net wrote"
        )
    return plans


def only_plans(name: str) -> Path:
    """Return the path of the plans of that name, if exactly one preprocessed data set has such plans.

    Raises:
        PlanningError: If the variable is not set, or no data set or several data sets have such plans.
    """
    if not nnUNet_preprocessed.is_set():
        raise PlanningError("nnUNet_preprocessed is not set; set it to the folder that nnU-Net keeps its data in")
    paths = sorted(Path(nnUNet_preprocessed).glob(f"Dataset*/{name}.json"))
    if len(paths) != 1:
        having = ", ".join(path.parent.name for path in paths) or "none"
        similar = "" if paths else did_you_mean(name, _plans_among(Path(nnUNet_preprocessed).glob("Dataset*/*.json")))
        raise PlanningError(f"plans {name!r}{similar}: data sets that have them: {having}; give one with -d")
    return paths[0]


def _dataset_folder(dataset: str | int, root: Any, variable: str, remedy: str) -> Path:
    if not root.is_set():
        raise PlanningError(f"{variable} is not set; set it to the folder that nnU-Net keeps its data in")
    try:
        name = maybe_convert_to_dataset_name(dataset)
    except (RuntimeError, ValueError):
        # nnU-Net's own message has many lines, and is the same for none and for several folders.
        names = [str(name) for name in find_candidate_datasets(int(dataset))] if str(dataset).isdigit() else []
        if len(names) > 1:
            reason = f"has several names in nnU-Net's folders: {listed(names)}; rename or remove all but one"
        else:
            known = listed(_datasets(root)) or "none"
            similar = did_you_mean(str(dataset), _datasets(root))
            reason = f"none of that id in {variable}={root}{similar}, there are {known}; {remedy}"
        raise PlanningError(f"data set {dataset!r}: {reason}") from None
    folder = Path(root) / str(name)
    if not (folder / "dataset.json").is_file():
        missing = f"{folder / 'dataset.json'} is not there"
        raise PlanningError(f"data set {dataset!r}: {missing}{did_you_mean(str(dataset), _datasets(root))}; {remedy}")
    return folder


def _plans_among(paths: Iterable[Path]) -> list[str]:
    others = ("dataset", "dataset_fingerprint", "splits_final")
    return sorted({path.stem for path in paths if path.stem not in others})


def _datasets(root: Any) -> list[str]:
    return sorted(path.parent.name for path in Path(root).glob("Dataset*/dataset.json"))
