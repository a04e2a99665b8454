"""The arguments of every network of this package: what stands where nothing is named, and what is refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_mtl.networks.architecture import ArchitectureError
from nnunet_mtl.networks.attention import NoTaskAttention
from nnunet_mtl.networks.classification import NoClassification, Question
from nnunet_mtl.networks.decoders import SharedDecoder
from nnunet_mtl.networks.heads import RegionHead
from nnunet_mtl.networks.insertion_points import NoBottleneckConditioning, NoConditioning, NoEncoderConditioning
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.stage_attention import NoStageAttention

POINTS: Mapping[str, Any] = {
    "input_conditioning": NoConditioning,
    "encoder_conditioning": NoEncoderConditioning,
    "bottleneck_conditioning": NoBottleneckConditioning,
    "task_attention": NoTaskAttention,
    "decoder_conditioning": NoConditioning,
    "decoders": SharedDecoder,
    "encoder_attention": NoStageAttention,
    "decoder_attention": NoStageAttention,
}
_OWN: Mapping[str, Any] = {
    "method_options": {},
    "regressions": (),
    "gates": "identity",
    "prompt_size": (),
    "segmentation_head": RegionHead,
    "head_options": {},
    "questions": (),
    "classification": NoClassification,
    "class_dropout": 0.0,
    "class_gradient": 1.0,
}


def part_arguments(
    num_classes: int, arguments: Mapping[str, Any], points: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[Layout, dict[str, Any], dict[str, Any]]:
    """Check the arguments that are ours and part them from the others.

    Args:
        num_classes: R.
        arguments: Every other argument.
        points: What stands at each point of the network if nothing is named.
        defaults: Of a network whose parts are not off by default.

    Returns:
        The regions; our arguments, complete; and what is left, which is the architecture's.

    Raises:
        ArchitectureError: If they cannot be built.
    """
    architecture = dict(arguments)
    every: dict[str, Any] = {
        "task_of_region": [0] * num_classes,
        "slot_of_region": range(num_classes),
        "labels_of_region": [[region + 1] for region in range(num_classes)],
    }
    indices: dict[str, Any] = {name: architecture.pop(name, None) or default for name, default in every.items()}
    own: dict[str, Any] = {
        name: architecture.pop(name, default) for name, default in {**points, **_OWN, **defaults}.items()
    }
    for name in ("task_of_region", "slot_of_region"):
        _check_indices(name, indices[name], num_classes)
    if len(indices["labels_of_region"]) != num_classes:
        raise ArchitectureError(
            f"plans: arch_kwargs.labels_of_region={list(indices['labels_of_region'])!r} must hold the label values "
            f"of each of the {num_classes} regions: plan again from dataset.json"
        )
    _check_classes({name: own[name] for name in (*points, "segmentation_head", "classification")})
    _check_questions(own["questions"], indices["task_of_region"])
    if own["gates"] not in ("identity", "faithful"):
        raise ArchitectureError(f"plans: arch_kwargs.gates={own['gates']!r} must be 'identity' or 'faithful'")
    layout = Layout(
        tuple(indices["task_of_region"]),
        tuple(indices["slot_of_region"]),
        tuple(tuple(labels) for labels in indices["labels_of_region"]),
    )
    return layout, own, architecture


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
                "nnunet_mtl.networks.attention.NoTaskAttention, no classification head "
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
