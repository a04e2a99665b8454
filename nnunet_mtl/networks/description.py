"""The description of a network: the parts and heads that it has beside the encoder and decoder of nnU-Net's plans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.networks.attention import Gates
from nnunet_mtl.networks.classification import NoClassification, Question
from nnunet_mtl.networks.heads import RegionHead
from nnunet_mtl.networks.insertion_points import PartClass
from nnunet_mtl.networks.layout import Layout

Parts = TypeVar("Parts")
_REGIONS = ("task_of_region", "slot_of_region", "labels_of_region")
_BUILT_FROM = ("layout", "parts")


class ArchitectureError(UserError):
    """The network a plans file describes cannot be built, or has no form for this package's trainers."""


@dataclass(frozen=True)
class NetworkDescription(Generic[Parts]):
    """Everything from which a network of this package is built. The description is checked when it is made.

    Attributes:
        layout: The regions the network predicts.
        parts: Classes of the parts at the insertion points, see `nnunet_mtl.networks.insertion_points`.
        segmentation_head: Class of the segmentation head, see `nnunet_mtl.networks.heads`.
        head_options: Arguments of the segmentation head beside the layout and the channels.
        classification: Class of the classification head, see `nnunet_mtl.networks.classification`.
        questions: Questions about the whole image that the classification head answers.
        class_dropout: Dropout probability of the classification head.
        class_gradient: Share of the classification head's gradient that reaches encoder and decoder, 0 to 1.
        method_options: Numbers that parts are built with, by name.
        regressions: Names of the tasks for which the network predicts a value per voxel.
        gates: How `task_attention` computes its factors, and with which factors it starts.
        bottleneck_size: Spatial size of the encoder's last feature at the planned patch size.

    Raises:
        ArchitectureError: If an argument is missing or does not fit. The message names the argument of the plans.
    """

    layout: Layout
    parts: Parts
    segmentation_head: PartClass = RegionHead
    head_options: Mapping[str, Any] = field(default_factory=dict)
    classification: PartClass = NoClassification
    questions: Sequence[Question] = ()
    class_dropout: float = 0.0
    class_gradient: float = 1.0
    method_options: Mapping[str, Any] = field(default_factory=dict)
    regressions: Sequence[str] = ()
    gates: Gates = "identity"
    bottleneck_size: Sequence[int] = ()

    def __post_init__(self) -> None:
        classes = {
            **vars(self.parts),
            "segmentation_head": self.segmentation_head,
            "classification": self.classification,
        }
        _check_classes(classes)
        _check_questions(self.questions, self.layout.task_of_region)
        if self.gates not in ("identity", "faithful"):
            raise ArchitectureError(f"plans: arch_kwargs.gates={self.gates!r} must be 'identity' or 'faithful'")
        bottleneck = classes.get("bottleneck_conditioning")
        if self.segmentation_head.reads_tokens and not getattr(bottleneck, "gives_tokens", False):
            raise ArchitectureError(
                f"plans: arch_kwargs.segmentation_head={self.segmentation_head.__name__} reads tokens, which no part "
                "of this network gives: name a part with gives_tokens at bottleneck_conditioning, or another head"
            )


def read_description(
    arguments: Mapping[str, Any], num_classes: int, parts_class: type[Parts]
) -> tuple[NetworkDescription[Parts], dict[str, Any]]:
    """Read the description from the arguments that nnU-Net passes to a network.

    Args:
        arguments: Keyword arguments from the plans' `arch_kwargs`, whose dotted paths nnU-Net has replaced by classes;
            a missing argument gets the default of `NetworkDescription` or of `parts_class`. Without arguments about
            regions, one task owns all regions, and every region has a slot and a label value of its own.
        num_classes: R, the number of regions.
        parts_class: One of the classes of `nnunet_mtl.networks.insertion_points`.

    Returns:
        The description, and the remaining arguments, with which nnU-Net's network is built.

    Raises:
        ArchitectureError: If the arguments do not describe a network that can be built.
    """
    others = dict(arguments)
    layout = _layout(num_classes, *(others.pop(name, None) for name in _REGIONS))
    parts = parts_class(**_taken(others, parts_class))
    return NetworkDescription(layout, parts, **_taken(others, NetworkDescription)), others


def _taken(arguments: dict[str, Any], dataclass_type: Any) -> dict[str, Any]:
    """Remove the arguments that are fields of a dataclass from `arguments`, and return them."""
    names = [entry.name for entry in fields(dataclass_type) if entry.name in arguments]
    return {name: arguments.pop(name) for name in names if name not in _BUILT_FROM}


def _layout(
    num_classes: int,
    tasks: Sequence[int] | None,
    slots: Sequence[int] | None,
    labels: Sequence[Sequence[int]] | None,
) -> Layout:
    tasks = tasks or [0] * num_classes
    slots = slots or range(num_classes)
    labels = labels or [[region + 1] for region in range(num_classes)]
    _check_indices("task_of_region", tasks, num_classes)
    _check_indices("slot_of_region", slots, num_classes)
    if len(labels) != num_classes:
        raise ArchitectureError(
            f"plans: arch_kwargs.labels_of_region={list(labels)!r} must hold the label values of each of the "
            f"{num_classes} regions: plan again from dataset.json"
        )
    return Layout(tuple(tasks), tuple(slots), tuple(tuple(values) for values in labels))


def _check_indices(name: str, indices: Sequence[int], num_classes: int) -> None:
    if len(indices) != num_classes or sorted(set(indices)) != list(range(len(set(indices)))):
        raise ArchitectureError(
            f"plans: arch_kwargs.{name}={list(indices)!r} must give each of the {num_classes} regions an index, "
            "counted from 0 without gaps: plan again from dataset.json"
        )


def _check_classes(classes: Mapping[str, Any]) -> None:
    for name, value in classes.items():
        if value is None:
            raise ArchitectureError(
                f"plans: arch_kwargs.{name} names no class (is the dotted path misspelt?); no attention is "
                "nnunet_mtl.networks.off_parts.NoTaskAttention, no classification head "
                "nnunet_mtl.networks.classification.NoClassification"
            )


def _check_questions(questions: Sequence[Question], task_of_region: Sequence[int]) -> None:
    owners = dict(enumerate(task_of_region)) | {-1: -1}
    names = [question["name"] for question in questions]
    for question in questions:
        if owners.get(question["evidence"]) != question["task"] or question["outputs"] < 1:
            raise ArchitectureError(
                f"plans: arch_kwargs.questions: {question!r} must have an output or more, and as evidence a region "
                "and the task that owns it, or -1 and -1 for none: plan again from dataset.json"
            )
    if len(set(names)) < len(names):
        raise ArchitectureError(f"plans: arch_kwargs.questions has a name twice in {names}: plan again")
