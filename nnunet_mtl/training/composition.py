"""Composes the network of a trainer: writes the parts that its leaf names into the plans' architecture block."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_results

from nnunet_mtl.datasets.region_postprocessing import fitted_on_restricted_maps
from nnunet_mtl.networks.architecture import multitask_architecture
from nnunet_mtl.networks.clip_driven.region_embedding_head import RegionEmbeddingHead
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings, SettingsError
from nnunet_mtl.training.image_level import questions_of
from nnunet_mtl.training.region_embedding import read_region_embedding
from nnunet_mtl.training.segmentation_loss import LossMode

NO_CLASSIFICATION = "nnunet_mtl.networks.classification.NoClassification"
# Defaults of trainers whose classification head reads no evidence. Evidence is not hidden, because hiding would only
# change the weight of a patch from step to step. Questions have their full weight from the first epoch.
NO_EVIDENCE = {"class_weight": 1.0, "class_gradient": 1.0, "class_warmup": 0.0, "own_evidence": 0.0}
REGION_HEAD = "nnunet_mtl.networks.heads.RegionHead"
HEADS = {
    "regions": REGION_HEAD,
    "slots": "nnunet_mtl.networks.heads.SlotHead",
}
CLASS_HEADS = {
    "evidence": "nnunet_mtl.networks.classification.EvidenceHead",
    "bottleneck": "nnunet_mtl.networks.classification.BottleneckHead",
}


def switched(**parts: str) -> dict[str, dict[bool, dict[str, str]]]:
    """Return `variants` for parts that settings switch on and off.

    Args:
        **parts: Dotted path of a part by the name of its setting, which is also the name of its insertion point.
    """
    return {point: {True: {point: part}, False: {}} for point, part in parts.items()}


def composed_architecture(
    trainer: Any, stock: dict[str, Any], patch_size: Sequence[int], tasks: TaskSet, settings: Settings
) -> dict[str, Any]:
    """Return the plans' architecture block of a trainer's network.

    Args:
        trainer: A subclass of `MultiTaskTrainer`, whose class attributes name the parts.
        stock: nnU-Net's architecture block of the configuration.
        patch_size: Patch size in voxels, one number per axis.
        tasks: The tasks of `dataset.json`.
        settings: Settings of the run.

    Raises:
        SettingsError: If the trainer does not offer the head or the classification head that the settings name.
        ArchitectureError: If this package has no counterpart of the stock network.
    """
    parts = {"segmentation_head": trainer.segmentation_head(settings, tasks), **trainer.parts}
    for setting, parts_of_value in trainer.variants.items():
        parts |= parts_of_value[getattr(settings, setting)]
    return multitask_architecture(
        stock,
        layout=Layout.from_tasks(tasks),
        patch_size=patch_size,
        head=parts.pop("segmentation_head"),
        parts=parts,
        family=trainer.family,
        method_options=trainer.method_options(settings),
        regressions=[task.name for task in tasks.regressions if trainer.family.regresses],
        head_options=trainer.head_options(settings, tasks),
        gates=settings.gates,
        questions=questions_of(tasks, with_evidence=trainer.segments),
        classification=_class_head(trainer, settings) if tasks.classification else NO_CLASSIFICATION,
        class_dropout=settings.class_dropout,
        class_gradient=settings.class_gradient if trainer.segments else 1.0,
    )


def load_region_embeddings(network: Any, settings: Settings, tasks: TaskSet) -> None:
    """Copy the region embeddings of a file into the head of a network if `region_embedding` is "file".

    Args:
        network: The network without the wrappers of DistributedDataParallel and torch.compile.
        settings: Settings of the run.
        tasks: The task set, whose regions are looked up in the file.

    Raises:
        EmbeddingError: If the file lacks the embedding of a region.
    """
    head = network.segmentation_head
    if isinstance(head, RegionEmbeddingHead) and settings.region_embedding == "file":
        head.load_embedding(read_region_embedding(settings.region_embedding_file, tasks.regions))


def warn_of_postprocessing(plans: Mapping[str, Any], trainer: str) -> None:
    """Warn of every `postprocessing.pkl` that nnU-Net fitted on maps restricted to annotated regions.

    nnU-Net does not tell the model folder at this point, so the function searches `nnUNet_results` for folders of the
    trainer and the plans.

    Args:
        plans: Content of the model's plans.
        trainer: Name of the trainer.
    """
    if not nnUNet_results.is_set() or len(plans.get("nnunet_mtl", {}).get("tasks", ())) < 2:
        return
    model = f"{trainer}__{plans['plans_name']}__*"
    for fitted in fitted_on_restricted_maps(Path(nnUNet_results, plans["dataset_name"]), model):
        warnings.warn(
            f"{fitted} was fitted on maps that hold only each case's annotated tasks: do not apply it to these "
            f"predictions; nnunet_mtl find-best {plans['dataset_name']} fits another",
            stacklevel=2,
        )


def chosen_loss(trainer: Any, settings: Settings) -> LossMode:
    """Return the kind of segmentation loss of a run.

    Args:
        trainer: A subclass of `MultiTaskTrainer`, whose class attributes name its losses.
        settings: Settings of the run.
    """
    mode: LossMode = trainer.loss_mode
    published: LossMode = trainer.published_loss
    return published if mode == "masked" and settings.loss == "published" else mode


def offered_head(trainer: Any, settings: Settings) -> str:
    """Return the dotted path of the segmentation head that the setting `head` names.

    Raises:
        SettingsError: If the trainer, a subclass of `MultiTaskTrainer`, does not offer the head.
    """
    if settings.head not in trainer.heads:
        raise SettingsError(
            f"plans: nnunet_mtl.settings: head={settings.head!r} is not a head of {trainer.__name__}, which offers "
            f"{', '.join(trainer.heads)}: nnunet_mtl plan --set head={next(iter(trainer.heads))}"
        )
    return str(trainer.heads[settings.head])


def _class_head(trainer: Any, settings: Settings) -> str:
    if settings.class_head not in trainer.class_heads:
        raise SettingsError(
            f"plans: nnunet_mtl.settings: class_head={settings.class_head!r} is not a classification head of "
            f"{trainer.__name__}, which offers {', '.join(trainer.class_heads)}: "
            f"nnunet_mtl plan --set class_head={next(iter(trainer.class_heads))}"
        )
    return str(trainer.class_heads[settings.class_head])
