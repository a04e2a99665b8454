"""Describes whole cases with a frozen network: descriptors of nnU-Net's patches, averaged by the evidence in them.

The evidence is the network's predicted probability and never the annotation, which a new image does not have.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunet_mtl.common.messages import listed, shown
from nnunet_mtl.inference.model_folder import TrainedModel, build_network
from nnunet_mtl.inference.patch_answers import Combination, PatchAnswers
from nnunet_mtl.lab.probe.folds import Fold, ProbeError
from nnunet_mtl.lab.probe.images import Images
from nnunet_mtl.networks.classification import evidence_mask
from nnunet_mtl.networks.multitask_network import MultiTaskNetwork
from nnunet_mtl.networks.pre_norm import run_encoder
from nnunet_mtl.networks.probe_head import patch_descriptor
from nnunet_mtl.tasks import ClassificationTask, TaskSet


@dataclass(frozen=True)
class Source:
    """A trained model as a probe sees it.

    Attributes:
        model: Content of the model folder.
        network: Network of the model; the weights of different folds are loaded into it one after another.
        outputs: The labels of the model's output channels.
        ours: Whether the network is a network of this package.
        questions: The questions to probe.
        channels: Output channels whose probabilities add up to the evidence, by question; only for questions with
            evidence and models that segment.
    """

    model: TrainedModel
    network: Any
    outputs: TaskSet
    ours: bool
    questions: tuple[ClassificationTask, ...]
    channels: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Described:
    """Descriptors of the cases for one question, from one network.

    Attributes:
        descriptors: Descriptor of each case, (N, D).
        evidence: Largest number of evidence voxels in a patch of each case, (N,); None for questions without evidence.
    """

    descriptors: npt.NDArray[np.float64]
    evidence: npt.NDArray[np.float64] | None


def quiet() -> AbstractContextManager[Any]:
    """Suppress nnU-Net's long output about where it searches for a trainer and about computing on a CPU."""
    return redirect_stdout(StringIO())


def open_source(model: TrainedModel, tasks: TaskSet, questions: Sequence[ClassificationTask]) -> Source:
    """Build the model's network and find the evidence of the questions among its outputs.

    Args:
        model: The model.
        tasks: Tasks of the data set that has the questions; its labels may have other names than the model's labels,
            but have the same values.
        questions: Questions of the data set.

    Raises:
        UserError: If the network cannot be built or read, or does not predict the evidence of a question.
    """
    with quiet():
        network = build_network(model)
        trainer = recursive_find_trainer_class_by_name(model.trainer_name)
    if not isinstance(network, PlainConvUNet | ResidualEncoderUNet):
        raise ProbeError(
            f"{model.folder}: its network, {type(network).__name__}, is none that a probe can read; "
            "it reads PlainConvUNet and ResidualEncoderUNet"
        )
    ours = isinstance(network, MultiTaskNetwork)
    named = str(model.folder / "dataset.json")
    outputs = TaskSet.from_dataset_json(model.dataset_json, named)
    segments = getattr(trainer, "segments", True)
    channels = {
        question.name: _channels(question, tasks, outputs, named)
        for question in questions
        if segments and question.evidence is not None
    }
    return Source(model, network, outputs, ours, tuple(questions), channels)


def _channels(question: ClassificationTask, tasks: TaskSet, outputs: TaskSet, source: str) -> tuple[int, ...]:
    """Return the output channels whose probabilities add up to the probability of the evidence."""
    wanted = tasks.region_labels[tasks.regions.index(str(question.evidence))]
    same = [index for index, labels in enumerate(outputs.region_labels) if labels == wanted]
    parts = [index for index, labels in enumerate(outputs.region_labels) if set(labels) <= set(wanted)]
    if same:
        return (same[0],)
    if not outputs.has_regions and len(parts) == len(wanted):
        return tuple(parts)
    raise ProbeError(
        f"{source}: labels: none of {listed(outputs.regions)} has the values {shown(list(wanted))} of "
        f"{question.evidence}, the evidence of question {shown(question.name)}; probe a model that segments it"
    )


class Describer:
    """Describes patches and cases with the network of one fold.

    Args:
        source: The model, into whose network the weights of the fold are loaded.
        fold: The fold whose weights are used.
        device: Device of the computation.
    """

    def __init__(self, source: Source, fold: Fold, device: torch.device) -> None:
        model = source.model
        self._source, self._device = source, device
        self._network: Any = source.network
        self._network.load_state_dict(model.weights[model.folds.index(fold)])
        self._network.to(device)
        self._network.eval()
        if source.ours and source.channels:
            owners = source.outputs.task_of_region
            self._network.select_tasks(sorted({owners[index] for (index,) in source.channels.values()}))
        self._combination = Combination("mean", 1)
        with quiet():
            self._window = nnUNetPredictor(perform_everything_on_device=False, device=device, allow_tqdm=False)
        self._window.configuration_manager = PlansManager(model.plans).get_configuration(model.configuration)

    @torch.inference_mode()
    def describe(self, image: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return the descriptor (D,) of a case and the largest number of evidence voxels in a patch (), by question.

        Args:
            image: Preprocessed, (C, *spatial).
        """
        patch_size = self._window.configuration_manager.patch_size
        padded, _ = pad_nd_image(image, patch_size, "constant", {"value": 0}, True, None)
        slicers = self._window._internal_get_sliding_window_slicers(padded.shape[1:])
        patches = [self.describe_patch(padded[slicer][None].to(self._device)).cpu() for slicer in slicers]
        result = {}
        for question in self._source.questions:
            volumes = [patch.evidence[question.name] for patch in patches if question.name in patch.evidence]
            most = torch.cat(volumes).max() if volumes else None
            result[question.name] = self._combination.case_logits(patches, question), most
        return result

    def describe_patch(self, patch: Tensor) -> PatchAnswers:
        """Return the descriptor of a patch (1, C, *spatial) in place of a head's logits, and its evidence."""
        source = self._source
        with torch.autocast("cuda") if self._device.type == "cuda" else nullcontext():
            skips, before_norm = run_encoder(self._network.encoder, patch)
            logits = self._logits(patch, skips) if source.channels else patch
        masks = {
            channels: _evidence(logits, channels, source.outputs.has_regions) for channels in source.channels.values()
        }
        described = {channels: patch_descriptor(before_norm, mask) for channels, mask in masks.items()}
        if len(source.channels) < len(source.questions):
            described[()] = patch_descriptor(before_norm, None)
        return PatchAnswers(
            {question.name: described[source.channels.get(question.name, ())] for question in source.questions},
            {name: masks[channels].flatten(1).sum(1) for name, channels in source.channels.items()},
        )

    def _logits(self, patch: Tensor, skips: list[Tensor]) -> Tensor:
        # our networks decode once per task, and do that by themselves
        logits: Tensor = self._network(patch) if self._source.ours else self._network.decoder(skips)
        return logits


def _evidence(logits: Tensor, channels: Sequence[int], has_regions: bool) -> Tensor:
    """Return the evidence in a patch, (B, 1, *spatial)."""
    if has_regions:
        return evidence_mask(logits[:, channels[0]])
    others = [index for index in range(logits.shape[1]) if index not in channels]
    logits = logits.float()
    return evidence_mask(logits[:, list(channels)].logsumexp(1) - logits[:, others].logsumexp(1))


def describe_cases(source: Source, fold: Fold, images: Images, device: torch.device) -> dict[str, Described]:
    """Describe cases with the network of one fold, by question.

    Raises:
        ProbeError: If a case cannot be read, or its descriptor is not finite.
    """
    describer = Describer(source, fold, device)
    rows: dict[str, list[tuple[Tensor, Tensor | None]]] = {question.name: [] for question in source.questions}
    for case, image in images:
        for name, row in describer.describe(image).items():
            if not row[0].isfinite().all():
                raise ProbeError(f"case {shown(case)}: its features are not finite in fold {fold}; look for NaN in it")
            rows[name].append(row)
    return {
        name: Described(
            torch.stack([descriptor for descriptor, _ in question_rows]).double().numpy(),
            np.array([float(volume) for _, volume in question_rows if volume is not None])
            if name in source.channels
            else None,
        )
        for name, question_rows in rows.items()
    }
