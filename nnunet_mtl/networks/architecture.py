"""From the stock `architecture` block of a plans file to that of the task-guided network; JSON in, JSON out."""

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from nnunet_mtl.errors import UserError
from nnunet_mtl.networks.layout import Layout

_OURS = {
    "PlainConvUNet": "nnunet_mtl.networks.unet.TaskGuidedPlainConvUNet",
    "ResidualEncoderUNet": "nnunet_mtl.networks.unet.TaskGuidedResidualEncoderUNet",
}
PUBLISHED_NETWORK = "nnunet_mtl.networks.published_unet.PublishedUNet"
"""DoDNet's and TGNet's own network, named by plans of `nnunet_mtl.planning.published`; task-guided as it is."""

_STOCK_PACKAGE = "dynamic_network_architectures.architectures."


class ArchitectureError(UserError):
    """The network a plans file describes cannot be built, or has no task-guided form."""


# What stands at each point where the task can enter, if nothing does; see `nnunet_mtl.networks.conditioning`.
OFF_PARTS = {
    "input_conditioning": "nnunet_mtl.networks.conditioning.NoConditioning",
    "encoder_conditioning": "nnunet_mtl.networks.conditioning.NoEncoderConditioning",
    "bottleneck_conditioning": "nnunet_mtl.networks.conditioning.NoBottleneckConditioning",
    "task_attention": "nnunet_mtl.networks.attention.NoTaskAttention",
    "decoder_conditioning": "nnunet_mtl.networks.conditioning.NoConditioning",
    "decoders": "nnunet_mtl.networks.decoders.SharedDecoder",
}


def multitask_architecture(
    architecture: Mapping[str, Any],
    *,
    layout: Layout,
    patch_size: Sequence[int],
    parts: Mapping[str, str],
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
        parts: Dotted paths of classes by point, see `OFF_PARTS`; a point that is not named is off.
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
    strange = [point for point in parts if point not in OFF_PARTS]
    if strange:
        raise ArchitectureError(f"parts: no point {strange[0]!r}; known are {', '.join(OFF_PARTS)}")
    result: dict[str, Any] = copy.deepcopy(dict(architecture))
    result["network_class_name"] = _counterpart(architecture["network_class_name"])
    classes = {**OFF_PARTS, **parts, "segmentation_head": head, "classification": classification}
    result["arch_kwargs"].update(
        classes,
        task_of_region=list(layout.task_of_region),
        slot_of_region=list(layout.slot_of_region),
        labels_of_region=[list(labels) for labels in layout.labels_of_region],
        head_options=dict(head_options),
        gates=gates,
        prompt_size=_bottleneck_size(patch_size, architecture["arch_kwargs"]["strides"]),
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


def _counterpart(network_class: str) -> str:
    if network_class in (*_OURS.values(), PUBLISHED_NETWORK):
        return network_class
    name = network_class.rpartition(".")[2]
    if network_class.startswith(_STOCK_PACKAGE) and name in _OURS:
        return _OURS[name]
    supported = ", ".join(f"{_STOCK_PACKAGE}unet.{stock}" for stock in _OURS)
    raise ArchitectureError(
        f"plans: network_class_name {network_class!r} has no task-guided form; supported are {supported}: "
        "plan with nnU-Net's own planners"
    )
