"""Turns the `architecture` block of nnU-Net's plans into the block of a network of this package; JSON in, JSON out."""

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.insertion_points import GuidedParts, PyramidParts, StreamedParts, table_of
from nnunet_mtl.networks.layout import Layout

PUBLISHED_NETWORK = "nnunet_mtl.networks.dodnet.residual_unet.PublishedUNet"
"""DoDNet's and TGNet's own network, which plans of `nnunet_mtl.planning.published` name. It has insertion points
already, so that its class name stays."""

_STOCK_PACKAGE = "dynamic_network_architectures.architectures."


class SupervisedOutput(NamedTuple):
    """An output that the loss is computed on.

    Attributes:
        stage: Stage of the encoder that has the spatial size of the output's targets, 0 for full resolution.
        weight: Weight of the output in the loss.
    """

    stage: int
    weight: float


class Family(NamedTuple):
    """Networks that have the same insertion points, one for every network that nnU-Net plans.

    Attributes:
        networks: Dotted path of this package's network by the name of nnU-Net's class.
        parts_class: The insertion points, with the part that stands at each point if a trainer names none.
        regresses: Whether the networks can predict values per voxel too.
        outputs: Outputs of deep supervision, full resolution first; by default nnU-Net's stages and weights.
    """

    networks: Mapping[str, str]
    parts_class: type[Any]
    regresses: bool = False
    outputs: tuple[SupervisedOutput, ...] = ()

    @property
    def points(self) -> dict[str, str]:
        """Dotted path of the part that stands at a point if a trainer names none, by the name of the point."""
        defaults = {point: getattr(self.parts_class, point) for point in table_of(self.parts_class)}
        return {point: f"{part.__module__}.{part.__qualname__}" for point, part in defaults.items()}


def _counterparts(module: str, prefix: str) -> dict[str, str]:
    return {name: f"nnunet_mtl.networks.{module}.{prefix}{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet")}


GUIDED = Family(_counterparts("unet", "TaskGuided"), GuidedParts)
"""nnU-Net's U-Nets with insertion points at which the task can enter."""

STREAMED = Family(_counterparts("streams.streamed_unet", "Streamed"), StreamedParts, regresses=True)
"""nnU-Net's U-Nets with one encoder for all tasks, and a stream of its features and a decoder for every task."""

PYRAMID = Family(
    _counterparts("mamtln.pyramid_unet", "Pyramid"),
    PyramidParts,
    outputs=(SupervisedOutput(0, 1.0), SupervisedOutput(0, 0.9), SupervisedOutput(0, 0.8)),
)
"""nnU-Net's encoders with the pyramid of MA-MTLN in place of the decoder."""

_FAMILIES = (GUIDED, STREAMED, PYRAMID)


def family_of(network_class: str) -> Family:
    """Return the family of a network, given by its dotted path; GUIDED if the network is none of this package."""
    return next((family for family in _FAMILIES if network_class in family.networks.values()), GUIDED)


def multitask_architecture(
    architecture: Mapping[str, Any],
    *,
    layout: Layout,
    patch_size: Sequence[int],
    parts: Mapping[str, str],
    family: Family = GUIDED,
    method_options: Mapping[str, Any] = MappingProxyType({}),
    regressions: Sequence[str] = (),
    head: str = "nnunet_mtl.networks.heads.RegionHead",
    head_options: Mapping[str, Any] = MappingProxyType({}),
    gates: str = "identity",
    questions: Sequence[Mapping[str, Any]] = (),
    classification: str = "nnunet_mtl.networks.classification.NoClassification",
    class_dropout: float = 0.0,
    class_gradient: float = 1.0,
) -> dict[str, Any]:
    """Return the `architecture` block of this package's network in the place of nnU-Net's.

    The function may also be applied to a block that it returned.

    Args:
        architecture: Block with `network_class_name`, `arch_kwargs` and `_kw_requires_import`; not changed.
        layout: The regions that the network predicts.
        patch_size: Patch size of the configuration, in voxels.
        parts: Dotted paths of the parts, by insertion point; a point that is missing here gets the default part.
        family: The family from which the network is taken.
        method_options: Numbers with which the parts are built, in types that JSON has.
        regressions: Names of the tasks for which the network predicts a value per voxel.
        head: Dotted path of the segmentation head's class.
        head_options: Arguments of the segmentation head, in types that JSON has.
        gates: "identity" or "faithful", see `nnunet_mtl.networks.attention`.
        questions: Questions of the classification head, see `nnunet_mtl.networks.classification.Question`.
        classification: Dotted path of the classification head's class.
        class_dropout: Dropout probability of the classification head.
        class_gradient: Share of the classification head's gradient that reaches encoder and decoder, 0 to 1.

    Raises:
        ArchitectureError: If the family has no network in the place of this one, or has no such insertion point.
    """
    unknown = [point for point in parts if point not in family.points]
    if unknown:
        raise ArchitectureError(f"parts: no point {unknown[0]!r}; known are {', '.join(family.points)}")
    result: dict[str, Any] = copy.deepcopy(dict(architecture))
    result["network_class_name"] = _counterpart(architecture["network_class_name"], family)
    classes = {**family.points, **parts, "segmentation_head": head, "classification": classification}
    result["arch_kwargs"].update(
        classes,
        task_of_region=list(layout.task_of_region),
        slot_of_region=list(layout.slot_of_region),
        labels_of_region=[list(labels) for labels in layout.labels_of_region],
        head_options=dict(head_options),
        method_options=dict(method_options),
        regressions=list(regressions),
        gates=gates,
        bottleneck_size=_bottleneck_size(patch_size, architecture["arch_kwargs"]["strides"]),
        questions=[dict(question) for question in questions],
        class_dropout=class_dropout,
        class_gradient=class_gradient,
    )
    imported = list(architecture["_kw_requires_import"])
    result["_kw_requires_import"] = imported + [name for name in classes if name not in imported]
    return result


def _bottleneck_size(patch_size: Sequence[int], strides: Sequence[int | Sequence[int]]) -> list[int]:
    """Return the spatial size of the encoder's last feature; a stride rounds up."""
    size = [int(edge) for edge in patch_size]
    for stride in strides:
        steps = [stride] * len(size) if isinstance(stride, int) else stride
        size = [-(-edge // step) for edge, step in zip(size, steps, strict=True)]
    return size


def _counterpart(network_class: str, family: Family) -> str:
    if network_class == PUBLISHED_NETWORK and family is GUIDED:
        return network_class
    name = network_class.rpartition(".")[2]
    for stock in family.networks:
        ours = [other.networks[stock] for other in _FAMILIES]
        if network_class in ours or (network_class.startswith(_STOCK_PACKAGE) and name == stock):
            return family.networks[stock]
    supported = ", ".join(f"{_STOCK_PACKAGE}unet.{stock}" for stock in family.networks)
    raise ArchitectureError(
        f"plans: network_class_name {network_class!r} has no form for this trainer; supported are {supported}: "
        "plan with nnU-Net's own planners"
    )
