"""The work on a case before and after the network. It runs in worker processes, so all arguments are picklable."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
    export_prediction_from_logits,
)
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

from nnunet_mtl.datasets.spacing import with_thickness
from nnunet_mtl.datasets.task_maps import LabelMap, region_map
from nnunet_mtl.inference.answers import CaseAnswer, write_case_answers
from nnunet_mtl.inference.case_files import CaseFiles, number_of_channels
from nnunet_mtl.inference.voxel_values import FOLDER, on_original_grid, write_values


@dataclass(frozen=True)
class Model:
    """nnU-Net's description of a model, without the weights."""

    plans_manager: Any
    configuration_manager: Any
    dataset_json: Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A preprocessed case: the network's input, (C, *spatial), and the properties that nnU-Net's export needs."""

    data: npt.NDArray[np.float32]
    properties: dict[str, Any]


@dataclass(frozen=True)
class Export:
    """What is written for a case.

    Attributes:
        case: Name of the case.
        folder: The output folder.
        save_probabilities: Whether nnU-Net's `.npz` and `.pkl` are written too.
        task_maps: The maps of single tasks; every map is written into a folder of the task's name.
        answers: Answer by question, without the evidence volume, which `export` adds.
        evidence: Channel of the evidence region by question; questions without evidence region are absent.
        values: Values per voxel at the network's spacing, in the unit of the target, by regression task.
    """

    case: str
    folder: Path
    save_probabilities: bool
    task_maps: tuple[LabelMap, ...]
    answers: Mapping[str, CaseAnswer]
    evidence: Mapping[str, int]
    values: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


def prepare(model: Model, verbose: bool, case: CaseFiles) -> Prepared:
    """Read and preprocess a case exactly as `nnUNetv2_predict` does.

    Raises:
        InputError: If a file is missing or damaged, or there are too few or too many channels.
        Exception: Any error of nnU-Net's reader.
    """
    reader = model.plans_manager.image_reader_writer_class()
    image, of_image = case.read(reader, number_of_channels(model.dataset_json))
    previous = None if case.previous_stage is None else reader.read_seg(str(case.previous_stage))[0]
    preprocessor = model.configuration_manager.preprocessor_class(verbose=verbose)
    data, segmentation, properties = preprocessor.run_case_npy(
        image, previous, of_image, model.plans_manager, model.configuration_manager, model.dataset_json
    )
    if previous is not None:
        labels = model.plans_manager.get_label_manager(model.dataset_json).foreground_labels
        data = np.vstack((data, convert_labelmap_to_one_hot(segmentation[0], labels, data.dtype)))
    return Prepared(np.ascontiguousarray(data, dtype=np.float32), properties)


def export(model: Model, logits: npt.NDArray[np.floating[Any]], properties: dict[str, Any], job: Export) -> None:
    """Write all files of a case into a temporary folder, then move them to their places, the label map last.

    If the label map of a case exists, its other files therefore exist too.

    Args:
        model: Description of the model.
        logits: Output of the network for all regions, (R, *spatial).
        properties: The properties of the case from `prepare`.
        job: What to write and where.
    """
    aside = job.folder / f".{job.case}.writing"
    shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed
    try:
        aside.mkdir(parents=True)
        _export(model, logits, properties, model.dataset_json, aside / job.case, job.save_probabilities)
        for task in job.task_maps:
            (aside / task.name).mkdir()
            _export(model, logits[list(task.channels)], properties, task.dataset_json, aside / task.name / job.case)
        _export_values(model, properties, job, aside)
        volumes = {channel: _volume(model, logits, properties, channel) for channel in set(job.evidence.values())}
        answers = {
            name: replace(answer, evidence_volume_mm3=volumes[job.evidence[name]]) if name in job.evidence else answer
            for name, answer in job.answers.items()
        }
        _publish(aside, job, str(model.dataset_json["file_ending"]), answers)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _export(
    model: Model,
    logits: Any,
    properties: Any,
    dataset_json: Mapping[str, Any],
    target: Path,
    probabilities: bool = False,
) -> None:
    export_prediction_from_logits(
        logits,
        properties,
        model.configuration_manager,
        model.plans_manager,
        dataset_json,
        str(target),
        probabilities,
    )


def _export_values(model: Model, properties: Any, job: Export, aside: Path) -> None:
    ending = str(model.dataset_json["file_ending"])
    for task, values in job.values.items():
        (aside / FOLDER / task).mkdir(parents=True)
        (whole,) = on_original_grid(values[None], model.plans_manager, model.configuration_manager, properties)
        write_values(whole, aside / FOLDER / task / f"{job.case}{ending}", aside / f"{job.case}{ending}")


def _volume(model: Model, logits: Any, properties: Any, channel: int) -> float:
    """Return the volume of a predicted region in mm3."""
    description = region_map(channel)
    mask = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits[list(description.channels)],
        model.plans_manager,
        model.configuration_manager,
        model.plans_manager.get_label_manager(description.dataset_json),
        properties,
    )
    return np.count_nonzero(mask) * voxel_volume(properties["spacing"])


def voxel_volume(spacing_mm: Sequence[float]) -> float:
    """Return the volume of a voxel in mm3; a slice without a thickness counts as 1 mm thick.

    Args:
        spacing_mm: Spacing along three axes, as nnU-Net's readers return it for 2D images too.
    """
    return prod(with_thickness(spacing_mm))


def _publish(aside: Path, job: Export, ending: str, answers: Mapping[str, CaseAnswer]) -> None:
    for path in [*aside.glob("*/*"), *aside.glob("*/*/*")]:
        if path.is_file():
            path.replace(job.folder / path.relative_to(aside))
    for extra in (".npz", ".pkl"):
        if job.save_probabilities:
            (aside / f"{job.case}{extra}").replace(job.folder / f"{job.case}{extra}")
    if answers:
        write_case_answers(job.folder, job.case, answers)
    (aside / f"{job.case}{ending}").replace(job.folder / f"{job.case}{ending}")
