"""Folds for partially labelled data: no patient is in both parts, and every validation part has every region.

The classes of the questions are spread over the folds as evenly as possible. nnU-Net draws its folds over cases alone,
so a fold of nnU-Net may validate a task on no case at all.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder

from nnunet_mtl.common.files import write_json
from nnunet_mtl.common.messages import one_line
from nnunet_mtl.planning.folders import PlanningError, preprocessed_folder, raw_folder
from nnunet_mtl.planning.folds import assign_folds
from nnunet_mtl.tasks import TaskSet, read_dataset_json

_FILE = "splits_final.json"


def make_splits(dataset: str | int, *, n_folds: int = 5, seed: int = 12345, overwrite: bool = False) -> str:
    """Write `splits_final.json` into the preprocessed folder, where every trainer reads it.

    The folds are the same for the same cases, block, `n_folds` and `seed`.

    Args:
        dataset: Id or name of the data set.
        n_folds: Number of folds, at least 2.
        seed: Seed of the first of the random draws that are compared.
        overwrite: Whether existing folds are replaced.

    Returns:
        Text for the user: the path of the file, and a table with the number of annotated validation cases for every
        fold (rows) and every region and class (columns).

    Raises:
        PlanningError: If a region cannot be annotated in every validation part, or other folds exist.
        TaskSetError: If the block is refused, or a training case is not in the block.
    """
    raw, target = raw_folder(dataset), preprocessed_folder(dataset) / _FILE
    dataset_json = read_dataset_json(raw / "dataset.json")
    tasks = TaskSet.from_dataset_json(dataset_json, str(raw / "dataset.json"))
    cases = _training_cases(raw, dataset_json)
    tasks.require_cases(cases)
    names = (*tasks.regions, *(task.name for task in tasks.regressions))
    annotated = np.array([(*tasks.annotated(case), *tasks.regressed(case)) for case in cases], dtype=bool)
    classes, labels = _labels(tasks, cases)
    folds = assign_folds(annotated, patients_of(tasks, cases), names, n_folds, seed, labels)
    splits = [
        {
            "train": [case for case, held_out in zip(cases, folds != fold, strict=True) if held_out],
            "val": [case for case, held_out in zip(cases, folds == fold, strict=True) if held_out],
        }
        for fold in range(n_folds)
    ]
    _refuse_other(raw / _FILE, splits, "nnU-Net compares it at the next planning; delete it first")
    if not overwrite:
        _refuse_other(target, splits, "runs may already use it; --overwrite replaces it")
    write_json(target, splits)
    columns = np.hstack((annotated.reshape(len(cases), -1), labels))
    return f"{target}\n{_table(columns, folds, (*names, *classes))}"


def _training_cases(raw: Path, dataset_json: dict[str, Any]) -> list[str]:
    # A data set may list its files in dataset.json instead of keeping them in imagesTr.
    if "dataset" in dataset_json:
        listed = dataset_json["dataset"]
        if not isinstance(listed, dict):
            raise PlanningError(
                f'{raw / "dataset.json"}: dataset: must be {{case: {{"images": [file, ...], "label": file}}}}'
            )
        return sorted(map(str, listed))
    ending, images = dataset_json.get("file_ending"), raw / "imagesTr"
    if not isinstance(ending, str):
        raise PlanningError(f'{raw / "dataset.json"}: file_ending: must be given, such as ".nii.gz"')
    if not images.is_dir():
        raise PlanningError(f"{images}: there is no such folder; nnU-Net expects the training images there")
    # macOS leaves "._CASE_0000.nii.gz" beside every image, and nnU-Net takes that file for an image
    every = get_identifiers_from_splitted_dataset_folder(str(images), ending)
    cases = sorted(str(case) for case in every if not str(case).startswith("."))
    if not cases:
        raise PlanningError(f"{images}: holds no image named CASE_0000{ending}; check the folder")
    return cases


def patients_of(tasks: TaskSet, cases: Sequence[str]) -> list[str]:
    """Return the patient of every case. A case without a patient counts as a patient of its own."""
    names = (tasks.cases[case].patient if case in tasks.cases else None for case in cases)
    return [f"case {case}" if name is None else f"patient {name}" for case, name in zip(cases, names, strict=True)]


def _labels(tasks: TaskSet, cases: Sequence[str]) -> tuple[list[str], npt.NDArray[np.bool_]]:
    """Return the L classes of all questions as QUESTION=CLASS, and which class holds in which case, (cases, L) bool."""
    classes = [(question.name, name) for question in tasks.classification for name in question.classes]
    held = np.zeros((len(cases), len(classes)), dtype=bool)
    for row, case in enumerate(cases if classes else ()):
        for column, (question, name) in enumerate(classes):
            label = tasks.cases[case].classes.get(question, ())
            held[row, column] = name in ((label,) if isinstance(label, str) else label)
    return [f"{question}={name}" for question, name in classes], held


def _refuse_other(path: Path, splits: list[dict[str, list[str]]], remedy: str) -> None:
    if not path.is_file():
        return
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PlanningError(f"{path}: is no list of folds ({one_line(error)}); {remedy}") from None
    if existing != splits:
        raise PlanningError(f"{path}: other folds are there; {remedy}")


def _table(annotated: npt.NDArray[np.bool_], folds: npt.NDArray[np.int_], regions: Sequence[str]) -> str:
    header = ["fold", "train", "val", *regions]
    rows = [header, *_rows(annotated, folds)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


def _rows(annotated: npt.NDArray[np.bool_], folds: npt.NDArray[np.int_]) -> Iterator[list[str]]:
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        counts = [(~held_out).sum(), held_out.sum(), *annotated[held_out].sum(0)]
        yield [str(fold), *map(str, counts)]


def read_splits(path: Path) -> list[dict[str, list[str]]]:
    """Read `splits_final.json`.

    Raises:
        PlanningError: If the file does not exist or is not what nnU-Net writes.
    """
    if not path.is_file():
        raise PlanningError(f"{path}: no such file; train a fold, or write the folds with `nnunet_mtl make-splits`")
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanningError(f"{path}: cannot be read ({' '.join(str(error).split())}); write it again") from None
    if not isinstance(splits, list) or not all(_is_split(split) for split in splits):
        raise PlanningError(f"{path}: must be a list of folds, each with its cases under train and val; write it again")
    return splits


def _is_split(split: object) -> bool:
    return isinstance(split, dict) and all(isinstance(split.get(part), list) for part in ("train", "val"))
