"""From the stock `architecture` block of a plans file to that of the task-guided network; JSON in, JSON out."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_mtl.errors import UserError

_OURS = {
    "PlainConvUNet": "nnunet_mtl.networks.unet.TaskGuidedPlainConvUNet",
    "ResidualEncoderUNet": "nnunet_mtl.networks.unet.TaskGuidedResidualEncoderUNet",
}
_STOCK_PACKAGE = "dynamic_network_architectures.architectures."


class ArchitectureError(UserError):
    """The network a plans file describes cannot be built, or has no task-guided form."""


def multitask_architecture(
    architecture: Mapping[str, Any],
    *,
    task_of_region: Sequence[int],
    slot_of_region: Sequence[int],
    attention: str,
    head: str,
    gates: str,
    questions: Sequence[Mapping[str, Any]] = (),
    classification: str = "nnunet_mtl.networks.classification.NoClassification",
    class_dropout: float = 0.0,
    class_gradient: float = 1.0,
) -> dict[str, Any]:
    """Return the `architecture` block of the task-guided counterpart of a stock network.

    Applied to its own result it only sets the nine values again.

    Args:
        architecture: Block with `network_class_name`, `arch_kwargs` and `_kw_requires_import`; not changed.
        task_of_region: Index of the task that owns each region.
        slot_of_region: Index of the slot of each region.
        attention: Dotted path of the attention class.
        head: Dotted path of the head class.
        gates: "identity" or "faithful".
        questions: What a classification head is asked, each as `nnunet_mtl.networks.classification.Question` says.
        classification: Dotted path of the classification head's class.
        class_dropout: Dropout of the classification head.
        class_gradient: How much of the head's gradient reaches the encoder and decoder, 0 to 1.

    Raises:
        ArchitectureError: If the network class has no task-guided form.
    """
    result: dict[str, Any] = copy.deepcopy(dict(architecture))
    result["network_class_name"] = _counterpart(architecture["network_class_name"])
    result["arch_kwargs"].update(
        task_of_region=list(task_of_region),
        slot_of_region=list(slot_of_region),
        task_attention=attention,
        segmentation_head=head,
        gates=gates,
        questions=[dict(question) for question in questions],
        classification=classification,
        class_dropout=class_dropout,
        class_gradient=class_gradient,
    )
    imported = list(architecture["_kw_requires_import"])
    ours = ("task_attention", "segmentation_head", "classification")
    imported += [name for name in ours if name not in imported]
    result["_kw_requires_import"] = imported
    return result


def _counterpart(network_class: str) -> str:
    if network_class in _OURS.values():
        return network_class
    name = network_class.rpartition(".")[2]
    if network_class.startswith(_STOCK_PACKAGE) and name in _OURS:
        return _OURS[name]
    supported = ", ".join(f"{_STOCK_PACKAGE}unet.{stock}" for stock in _OURS)
    raise ArchitectureError(
        f"plans: network_class_name {network_class!r} has no task-guided form; supported are {supported}: "
        "plan with nnU-Net's own planners"
    )
