"""One network of a model cascade, which predicts a task inside the box around its parent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

from nnunet_mtl.common.messages import listed, shown
from nnunet_mtl.datasets.label_maps import Table, membership
from nnunet_mtl.datasets.per_task.extracted_labels import regions_of
from nnunet_mtl.datasets.per_task.parent_box import CASCADE_KEY, DEFAULT_MARGIN_MM, Box
from nnunet_mtl.datasets.task_maps import LabelMap, task_maps
from nnunet_mtl.inference.case_files import number_of_channels
from nnunet_mtl.inference.predict_options import PredictError
from nnunet_mtl.inference.predictor import MultiTaskPredictor
from nnunet_mtl.tasks import Task, TaskSet

Regions = npt.NDArray[np.bool_]


@dataclass
class Stage:
    """A network of the cascade.

    Attributes:
        task: Name of the task that the network predicts.
        parent: Name of the task around which the box lies; None for the whole image.
        regions: Indices of the task's regions among the regions of the data set.
        parent_regions: Indices of the parent's regions; empty without parent.
        margin_mm: Margin of the box around the parent.
        folder: The model folder.
        predictor: The predictor, with the model loaded.
        map: How the network's channels for these regions become a label map. Other regions of the model are left out,
            because nnU-Net would paint them over these regions.
        values: Which label values of that map lie in which of `regions`, (V, len(regions)).
        passes: Forward passes since the cascade began, mirrored patches and folds included.
    """

    task: str
    parent: str | None
    regions: tuple[int, ...]
    parent_regions: tuple[int, ...]
    margin_mm: float
    folder: Path
    predictor: MultiTaskPredictor
    map: LabelMap
    values: Table
    passes: int = 0

    @classmethod
    def open(
        cls, taskset: TaskSet, task: str, predictor: MultiTaskPredictor, folder: Path, margin_mm: float | None
    ) -> "Stage":
        """Match a loaded model with a task.

        Args:
            taskset: The task set of the data set whose labels are written.
            task: Name of the task.
            predictor: The predictor, with the model loaded.
            folder: The model folder, for messages.
            margin_mm: Margin for a model that was not trained on crops; None for the default.

        Raises:
            PredictError: If the model does not predict the task, or was trained on crops around another parent.
        """
        parent = {one.name: one.parent for one in taskset.tasks}[task]
        place = f"-m {task}={folder}"
        if predictor.configuration_manager.previous_stage_name is not None:
            raise PredictError(f"{place}: is the second stage of nnU-Net's own cascade; give a model of one stage")
        trained = predictor.dataset_json.get(CASCADE_KEY)
        if trained is not None and (trained.get("task"), trained.get("parent")) != (task, parent):
            crops = f"{shown(trained.get('task'))} inside {shown(trained.get('parent'))}"
            here = "in the whole image" if parent is None else f"inside {parent}"
            raise PredictError(f"{place}: was trained on crops for {crops}, and is to predict {task} {here}")
        margin = DEFAULT_MARGIN_MM if margin_mm is None else margin_mm
        regions = regions_of(taskset, [task])
        names = [taskset.regions[region] for region in regions]
        label_map = _map_of(predictor.dataset_json, names, place)
        stage = cls(
            task=task,
            parent=parent,
            regions=regions,
            parent_regions=() if parent is None else regions_of(taskset, [parent]),
            margin_mm=margin if trained is None else float(trained["margin_mm"]),
            folder=folder,
            predictor=predictor,
            map=label_map,
            values=_values(label_map.dataset_json, names),
        )
        predictor.network.register_forward_pre_hook(stage._count)
        return stage

    def _count(self, *_: Any) -> None:
        self.passes += 1

    def place(self, predicted: Regions) -> Regions:
        """Return the voxels in which the task is predicted, (Z, Y, X): those of the parent, or all without parent.

        Args:
            predicted: The regions of the data set that were predicted up to now, (R, Z, Y, X).
        """
        place = np.full(predicted.shape[1:], self.parent is None)
        for region in self.parent_regions:
            place |= predicted[region]
        return place

    def predict(self, image: npt.NDArray[np.float32], properties: Mapping[str, Any], box: Box) -> Regions:
        """Predict inside a box as nnU-Net predicts an image.

        Args:
            image: The image as nnU-Net's reader returns it, (C, Z, Y, X).
            properties: The properties of the image as nnU-Net's reader returns them.
            box: The box, one slice for every spatial axis.

        Returns:
            The task's regions in the box, (regions, *box).

        Raises:
            PredictError: If the network's output is not finite.
        """
        predictor = self.predictor
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        preprocessor = configuration.preprocessor_class(verbose=predictor.verbose_preprocessing)
        data, _, box_properties = preprocessor.run_case_npy(
            image[(slice(None), *box)], None, dict(properties), plans, configuration, predictor.dataset_json
        )
        prepared = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
        logits = predictor.predict_logits_from_preprocessed_data(prepared).cpu()
        if not bool(torch.isfinite(logits).all()):
            raise PredictError(f"{self.task}: the network's output is not finite; look for NaN in image and training")
        labels = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits[list(self.map.channels)],
            plans,
            configuration,
            plans.get_label_manager(dict(self.map.dataset_json)),
            box_properties,
        )
        regions: Regions = np.moveaxis(self.values[labels], -1, 0)
        return regions


def _map_of(dataset_json: Mapping[str, Any], regions: Sequence[str], place: str) -> LabelMap:
    """Return how the channels of these regions become a label map; for a softmax model, its only label map."""
    predicted = TaskSet.from_dataset_json(dataset_json, f"{place}: dataset.json")
    missing = [region for region in regions if region not in predicted.regions]
    if missing:
        raise PredictError(f"{place}: does not predict {listed(missing)}; its labels are {listed(predicted.regions)}")
    if predicted.has_regions:
        others = tuple(region for region in predicted.regions if region not in regions)
        parts = {"wanted": tuple(regions), "others": others}
        predicted = replace(predicted, tasks=tuple(Task(name, part, part) for name, part in parts.items() if part))
    (label_map,) = task_maps(predicted, [predicted.tasks[0].name], dataset_json)
    return label_map


def _values(dataset_json: Mapping[str, Any], regions: Sequence[str]) -> Table:
    painted = TaskSet.from_dataset_json(dataset_json)
    n_values = 1 + max(label for labels in painted.region_labels for label in labels)
    return membership([painted.region_labels[painted.regions.index(region)] for region in regions], n_values)


def refuse_unlike(stages: Sequence[Stage], file_ending: str) -> None:
    """Refuse models that do not read the same images in the same way.

    Raises:
        PredictError: If models differ in file ending, number of channels or reader; the message names a model.
    """
    first = stages[0].predictor
    for stage in stages:
        place = f"-m {stage.task}={stage.folder}"
        of_model = stage.predictor.dataset_json
        if of_model.get("file_ending") != file_ending:
            raise PredictError(f"{place}: reads {of_model.get('file_ending')} files, the data set's are {file_ending}")
        numbers = [number_of_channels(json) for json in (first.dataset_json, of_model)]
        if numbers[0] != numbers[1]:
            raise PredictError(
                f"{place}: reads {numbers[1]} channel(s), the model of {stages[0].task} {numbers[0]}; "
                "train all on the same images"
            )
        readers = [one.plans_manager.image_reader_writer_class.__name__ for one in (first, stage.predictor)]
        if readers[0] != readers[1]:
            raise PredictError(
                f"{place}: was trained with {readers[1]}, the model of {stages[0].task} with {readers[0]}"
            )
