"""Preprocessed cases as the input of a network that is not being trained."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunet_mtl.common.messages import listed
from nnunet_mtl.inference.case_files import number_of_channels
from nnunet_mtl.inference.model_folder import TrainedModel
from nnunet_mtl.lab.probe.folds import ProbeError


class Images:
    """Iterates over preprocessed cases: the name of a case and the network's input, (C, *spatial).

    Args:
        model: The model, with the configuration and the labels of the cases.
        preprocessed: The data set's folder in `nnUNet_preprocessed`.
        cases: Names of the cases.

    Raises:
        ProbeError: If a case is not preprocessed, or the previous stage of a cascade has not predicted it.
    """

    def __init__(self, model: TrainedModel, preprocessed: Path, cases: Sequence[str]) -> None:
        manager = PlansManager(model.plans)
        configuration = manager.get_configuration(model.configuration)
        folder = preprocessed / configuration.data_identifier
        identifiers = _identifiers(folder)
        missing = [case for case in cases if case not in identifiers]
        if missing:
            raise ProbeError(
                f"{folder}: {len(missing)} of {len(cases)} labelled cases are not preprocessed: {listed(missing)}; run "
                f"nnUNetv2_preprocess -d {preprocessed.name} -plans_name {manager.plans_name} -c {model.configuration}"
            )
        self._n_channels = number_of_channels(model.dataset_json)
        self._foreground = manager.get_label_manager(model.dataset_json).foreground_labels
        previous = configuration.previous_stage_name
        predicted = None
        if previous is not None:
            trainer, plans, _ = model.folder.name.split("__")
            predicted = (
                model.folder.parent / f"{trainer}__{plans}__{previous}" / "predicted_next_stage" / model.configuration
            )
            if not predicted.is_dir():
                raise ProbeError(
                    f"{predicted}: no such folder; validate {previous} first, its predictions are an input"
                )
        self.cases = tuple(cases)
        self._data = infer_dataset_class(str(folder))(
            str(folder), list(cases), folder_with_segs_from_previous_stage=None if predicted is None else str(predicted)
        )

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for case in self.cases:
            data, _, previous, _ = self._data.load_case(case)
            image = np.array(data[: self._n_channels])  # regression targets lie behind the image
            if previous is not None:
                one_hot = convert_labelmap_to_one_hot(previous[:], self._foreground, output_dtype=image.dtype)
                image = np.vstack((image, one_hot))
            yield case, torch.from_numpy(image)


def _identifiers(folder: Path) -> set[str]:
    try:
        return set(infer_dataset_class(str(folder)).get_identifiers(str(folder)))
    except (OSError, AssertionError, KeyError):  # the folder is missing, or holds no files of nnU-Net
        return set()
