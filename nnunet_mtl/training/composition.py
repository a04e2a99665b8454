"""What network a trainer trains: the parts its leaf names, put into the plans' architecture block."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from nnunetv2.paths import nnUNet_results
from torch import nn

from nnunet_mtl.datasets.region_postprocessing import fitted_on_restricted_maps
from nnunet_mtl.networks.architecture import GUIDED, Family, multitask_architecture
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings, SettingsError
from nnunet_mtl.training.image_level import questions_of
from nnunet_mtl.training.monitoring import MonitoredTrainer

NO_CLASSIFICATION = "nnunet_mtl.networks.classification.NoClassification"
# Defaults of trainers whose own classification head reads no evidence: none is hidden from it, for the same patch would
# weigh now by the annotation, now by the network's own; and questions are terms like others from the first epoch.
NO_EVIDENCE = {"class_weight": 1.0, "class_gradient": 1.0, "class_warmup": 0.0, "own_evidence": 0.0}
REGION_HEAD = "nnunet_mtl.networks.heads.RegionHead"
_HEADS = {
    "regions": REGION_HEAD,
    "slots": "nnunet_mtl.networks.heads.SlotHead",
}


class ComposedTrainer(MonitoredTrainer):
    """A trainer whose network is composed of named parts.

    Attributes:
        parts: Dotted paths of a method's parts by insertion point, see `nnunet_mtl.networks.insertion_points`.
        heads: Dotted paths of the heads a trainer offers, by the value of the setting `head`. In every trainer
            "regions" is `RegionHead` and "slots" is `SlotHead`; the head that a method brings is "own".
        variants: By the name of a setting and its value, what differs then: parts, or the head (`segmentation_head`).
        class_heads: Dotted paths of the classification heads a trainer offers, by the value of the setting
            `class_head`. In every trainer "evidence" is `EvidenceHead` and "bottleneck" is `BottleneckHead`; the one
            that a method brings is "own".
        family: Which networks it trains.
    """

    parts: ClassVar[Mapping[str, str]] = {}
    heads: ClassVar[Mapping[str, str]] = _HEADS
    variants: ClassVar[Mapping[str, Mapping[Any, Mapping[str, str]]]] = {}
    class_heads: ClassVar[Mapping[str, str]] = {
        "evidence": "nnunet_mtl.networks.classification.EvidenceHead",
        "bottleneck": "nnunet_mtl.networks.classification.BottleneckHead",
    }
    family: ClassVar[Family] = GUIDED

    @classmethod
    def architecture(
        cls, stock: dict[str, Any], patch_size: Sequence[int], tasks: TaskSet, settings: Settings
    ) -> dict[str, Any]:
        """Return the plans' architecture block of this trainer's network, from the stock one."""
        parts = {"segmentation_head": cls.segmentation_head(settings, tasks), **cls.parts}
        for setting, of_value in cls.variants.items():
            parts |= of_value[getattr(settings, setting)]
        return multitask_architecture(
            stock,
            layout=Layout.from_tasks(tasks),
            patch_size=patch_size,
            head=parts.pop("segmentation_head"),
            parts=parts,
            family=cls.family,
            method_options=cls.method_options(settings),
            regressions=[task.name for task in tasks.regressions if cls.family.regresses],
            head_options=cls.head_options(settings, tasks),
            gates=settings.gates,
            questions=questions_of(tasks, with_evidence=cls.segments),
            classification=cls._class_head(settings) if tasks.classification else NO_CLASSIFICATION,
            class_dropout=settings.class_dropout,
            class_gradient=settings.class_gradient if cls.segments else 1.0,
        )

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network as nnU-Net does.

        Without deep supervision nnU-Net is about to predict. Of the folder it predicts from it says nothing here; what
        is looked at is the folder of this trainer and these plans in `nnUNet_results`.

        Args:
            plans_manager: nnU-Net's.
            configuration_manager: nnU-Net's.
            num_input_channels: Of the image.
            num_output_channels: Of the network.
            enable_deep_supervision: Whether the network gives several scales.
        """
        if not enable_deep_supervision:
            _warn_of_postprocessing(plans_manager.plans, cls.__name__)
        network: nn.Module = super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        return network

    @classmethod
    def method_options(cls, settings: Settings) -> dict[str, Any]:
        """Return the numbers of the method's parts, JSON-able; a hook for leaves."""
        return {}

    @classmethod
    def head_options(cls, settings: Settings, tasks: TaskSet) -> dict[str, Any]:
        """Return the arguments of the head beside layout and channels, JSON-able; a hook for leaves."""
        return {}

    @classmethod
    def _class_head(cls, settings: Settings) -> str:
        if settings.class_head not in cls.class_heads:
            raise SettingsError(
                f"plans: nnunet_mtl.settings: class_head={settings.class_head!r} is not a classification head of "
                f"{cls.__name__}, which offers {', '.join(cls.class_heads)}: "
                f"nnunet_mtl plan --set class_head={next(iter(cls.class_heads))}"
            )
        return cls.class_heads[settings.class_head]

    @classmethod
    def segmentation_head(cls, settings: Settings, tasks: TaskSet) -> str:
        """Return the dotted path of the head that the setting `head` names; a hook for leaves.

        Raises:
            SettingsError: If the trainer does not offer it.
        """
        if settings.head not in cls.heads:
            raise SettingsError(
                f"plans: nnunet_mtl.settings: head={settings.head!r} is not a head of {cls.__name__}, which offers "
                f"{', '.join(cls.heads)}: nnunet_mtl plan --set head={next(iter(cls.heads))}"
            )
        return cls.heads[settings.head]


def _warn_of_postprocessing(plans: Mapping[str, Any], trainer: str) -> None:
    if not nnUNet_results.is_set() or len(plans.get("nnunet_mtl", {}).get("tasks", ())) < 2:
        return
    model = f"{trainer}__{plans['plans_name']}__*"
    for fitted in fitted_on_restricted_maps(Path(nnUNet_results, plans["dataset_name"]), model):
        warnings.warn(
            f"{fitted} was fitted on maps that hold only each case's annotated tasks: do not apply it to these "
            f"predictions; nnunet_mtl find-best {plans['dataset_name']} fits another",
            stacklevel=2,
        )
