"""Checks for `--continue_prediction`: whether an earlier run had the same options, and which of its cases are whole."""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.file_integrity import file_problem
from nnunet_mtl.datasets.task_maps import LabelMap
from nnunet_mtl.inference.answers import read_case_answers
from nnunet_mtl.inference.case_stages import Model
from nnunet_mtl.inference.case_workers import Failure, attempt
from nnunet_mtl.inference.voxel_values import FOLDER
from nnunet_mtl.tasks import ClassificationTask

ARGUMENTS = "predict_from_raw_data_args.json"
_OURS = "nnunet_mtl"


class OtherPredictionError(UserError):
    """The output folder holds predictions of another model or with other options."""


def refuse_other_predictions(folder: Path, made_by: Mapping[str, Any]) -> None:
    """Refuse to continue a prediction of another model or with other options. Files of stock nnU-Net are not refused.

    Raises:
        OtherPredictionError: If an option differs; the message names all that differ.
    """
    try:
        before = json.loads((folder / ARGUMENTS).read_text(encoding="utf-8"))[_OURS]
        different = [name for name, value in json.loads(json.dumps(made_by)).items() if before[name] != value]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if different:
        texts = [f"{name} {before[name]!r} against {made_by[name]!r}" for name in different]
        raise OtherPredictionError(
            f"{folder}: holds predictions made with other options ({'; '.join(texts)}); "
            "give another -o, or leave --continue_prediction out"
        )


def unfinished(
    model: Model,
    folder: Path,
    case: str,
    *,
    save_probabilities: bool,
    task_maps: tuple[LabelMap, ...],
    questions: tuple[ClassificationTask, ...],
    values: Iterable[str] = (),
) -> str:
    """Return in words why a case has to be predicted (again); empty if all its files exist and are undamaged."""
    ending = str(model.dataset_json["file_ending"])
    folders = [folder, *(folder / task.name for task in task_maps), *(folder / FOLDER / task for task in values)]
    maps = [place / f"{case}{ending}" for place in folders]
    others = [folder / f"{case}{extra}" for extra in (".npz", ".pkl")] if save_probabilities else []
    missing = [path.name for path in (*maps, *others) if not path.is_file()]
    if missing:
        return f"{listed(missing)} not there yet"
    if questions and read_case_answers(folder, case, questions) is None:
        return "no image-level answers yet"
    return next(_damages(model, maps, others), "")


def _damages(model: Model, maps: list[Path], others: list[Path]) -> Iterator[str]:
    reader = model.plans_manager.image_reader_writer_class()
    for path in (*maps, *others):
        if problem := file_problem(path):
            yield f"{path}: {problem}"
    for path in maps:
        if isinstance(failure := attempt(reader.read_seg, str(path)), Failure):
            yield f"{path}: {failure.message}"
    for path in others:
        if path.suffix == ".npz" and attempt(_damaged_member, path) is not None:
            yield f"{path}: the archive is damaged"


def _damaged_member(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()
