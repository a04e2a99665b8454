"""From the stock `architecture` block of a plans file to that of the task-guided network; JSON in, JSON out."""

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.insertion_points import GuidedParts, PyramidParts, StreamedParts, table_of
from nnunet_mtl.networks.layout import Layout

PUBLISHED_NETWORK = "nnunet_mtl.networks.dodnet.residual_unet.PublishedUNet"
"""DoDNet's and TGNet's own network, named by plans of `nnunet_mtl.planning.published`; task-guided as it is."""

_STOCK_PACKAGE = "dynamic_network_architectures.architectures."


class SupervisedOutput(NamedTuple):
    """An output that the loss is computed on.

    Attributes:
        stage: Stage of the encoder whose size its targets have, 0 for full resolution.
        weight: Of its loss.
    """

    stage: int
    weight: float


class Family(NamedTuple):
    """Networks that have the same insertion points, one for each network nnU-Net plans.

    Attributes:
        networks: Dotted path of the counterpart of each stock class, by its name.
        parts_class: Their insertion points and what stands there if a trainer names nothing.
        regresses: Whether they predict values per voxel too.
        outputs: What deep supervision is of, full resolution first; by default nnU-Net's stages and weights.
    """

    networks: Mapping[str, str]
    parts_class: type[Any]
    regresses: bool = False
    outputs: tuple[SupervisedOutput, ...] = ()

    @property
    def points(self) -> dict[str, str]:
        """Dotted path of what stands at each point if a trainer names nothing, by the point's name."""
        off = {one: getattr(self.parts_class, one) for one in table_of(self.parts_class)}
        return {one: f"{part.__module__}.{part.__qualname__}" for one, part in off.items()}


def _counterparts(module: str, prefix: str) -> dict[str, str]:
    return {name: f"nnunet_mtl.networks.{module}.{prefix}{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet")}


GUIDED = Family(_counterparts("unet", "TaskGuided"), GuidedParts)
"""nnU-Net's U-Nets with points at which the task can enter."""

STREAMED = Family(_counterparts("streams.streamed_unet", "Streamed"), StreamedParts, regresses=True)
"""One encoder, of which every task sees a stream, and a decoder for each task."""

PYRAMID = Family(
    _counterparts("mamtln.pyramid_unet", "Pyramid"),
    PyramidParts,
    outputs=(SupervisedOutput(0, 1.0), SupervisedOutput(0, 0.9), SupervisedOutput(0, 0.8)),
)
"""nnU-Net's encoders with the pyramid of MA-MTLN in place of the decoder."""

_FAMILIES = (GUIDED, STREAMED, PYRAMID)


def family_of(network_class: str) -> Family:
    """Return the family of a network by its dotted path; GUIDED, the general one, for what is none of ours."""
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
    """Return the `architecture` block of the task-guided counterpart of a stock network.

    Applied to its own result it only sets the same values again.

    Args:
        architecture: Block with `network_class_name`, `arch_kwargs` and `_kw_requires_import`; not changed.
        layout: The regions.
        patch_size: Of the configuration, in voxels.
        parts: Dotted paths of classes by point of the family; a point that is not named takes the family's.
        family: Which networks.
        method_options: Numbers of the parts, JSON-able.
        regressions: Names of what is predicted as a value per voxel.
        head: Dotted path of the head class.
        head_options: Its own arguments, JSON-able.
        gates: "identity" or "faithful".
        questions: What a classification head is asked, each as `nnunet_mtl.networks.classification.Question` says.
        classification: Dotted path of the classification head's class.
        class_dropout: Dropout of the classification head.
        class_gradient: How much of the head's gradient reaches the encoder and decoder, 0 to 1.

    Raises:
        ArchitectureError: If the network class has no task-guided form, or a point is not known.
    """
    strange = [point for point in parts if point not in family.points]
    if strange:
        raise ArchitectureError(f"parts: no point {strange[0]!r}; known are {', '.join(family.points)}")
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
        each = [stride] * len(size) if isinstance(stride, int) else stride
        size = [-(-edge // step) for edge, step in zip(size, each, strict=True)]
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
