"""The table of insertion points: every place in a network at which a method can put a part of its own.

Every field of the three classes below is an insertion point. The fields stand in the order of a pass through the
network. The default of a field is the part that the network gets if a trainer names none. A trainer names a part by its
dotted path in `parts` or `variants`. If the class attribute `conditioned` of a part is true, the part is called with
the task index of every sample, (B,) long, after its other arguments. The tensors have a floating dtype and the shape
(B, C, *spatial) if the table gives no other shape.

A method can also bring two heads: a segmentation head (`nnunet_mtl.networks.heads`), which may read tokens from the
part at the bottleneck, and a classification head (`nnunet_mtl.networks.classification`).
"""

from dataclasses import dataclass, field, fields
from typing import Any

from nnunet_mtl.networks.decoders import SharedDecoder
from nnunet_mtl.networks.mamtln.adaptive_attention import NoAdaptiveAttention
from nnunet_mtl.networks.mamtln.aware_branches import NoClassificationAwareness, NoSegmentationAwareness
from nnunet_mtl.networks.mamtln.visual_attention import NoVisualAttention
from nnunet_mtl.networks.off_parts import (
    NoBottleneckConditioning,
    NoConditioning,
    NoEncoderConditioning,
    NoStageAttention,
    NoTaskAttention,
)
from nnunet_mtl.networks.streams.stream_decoders import OwnDecoders
from nnunet_mtl.networks.streams.task_streams import NoStreamBottleneck, SharedStreams

PartClass = type[Any]


@dataclass(frozen=True)
class InsertionPoint:
    """A row of the table.

    Attributes:
        place: Where in the network the point lies, in one or two words; tables of methods show these words.
        built_with: Names of the constructor's arguments.
        called_with: Names of the arguments of the call, without the task.
        tensors: Shapes of these arguments, whether they were normalised, and what the part returns.
        hands_on: What other parts may get from this part beside its return value.
    """

    place: str
    built_with: str
    called_with: str
    tensors: str
    hands_on: str = "nothing"


def row(place: str, **columns: str) -> dict[str, InsertionPoint]:
    """Return the metadata of a point's field; arguments as in `InsertionPoint`."""
    return {"point": InsertionPoint(place, **columns)}


def table_of(parts_class: type[Any]) -> dict[str, InsertionPoint]:
    """Return the rows of a class of parts, by the names of its points."""
    return {point.name: point.metadata["point"] for point in fields(parts_class)}


@dataclass(frozen=True)
class GuidedParts:
    """Points of nnU-Net's U-Nets (`nnunet_mtl.networks.unet`) and of DoDNet's network (`dodnet.residual_unet`)."""

    input_conditioning: PartClass = field(
        default=NoConditioning,
        metadata=row(
            "input",
            built_with="num_tasks",
            called_with="x",
            tensors="x: the patch as the data loader gives it. Returns it with `extra_channels(num_tasks)` "
            "more channels.",
        ),
    )
    encoder_conditioning: PartClass = field(
        default=NoEncoderConditioning,
        metadata=row(
            "encoder",
            built_with="stage, num_tasks",
            called_with="stage, x",
            tensors="Built once per stage of the encoder; its method `run` is called. x: what the stage "
            "reads, normalised but in the first stage, and never in DoDNet's network. Returns the "
            "stage's output and the input of the stage's last normalisation.",
            hands_on="the second tensor it returns, of every stage, to the heads",
        ),
    )
    encoder_attention: PartClass = field(
        default=NoStageAttention,
        metadata=row(
            "encoder",
            built_with="channels, level, dimensions, **options",
            called_with="x",
            tensors="Built once per output of the encoder, deepest first (level 0). x: that output, "
            "normalised; in DoDNet's network not normalised, the deepest behind the fusion. Returns "
            "the same shape to the decoder alone: the next stage of the encoder and the heads read "
            "what the part has not changed.",
        ),
    )
    bottleneck_conditioning: PartClass = field(
        default=NoBottleneckConditioning,
        metadata=row(
            "bottleneck",
            built_with="channels, num_tasks, bottleneck_size",
            called_with="x",
            tensors="x: the bottleneck, which the decoder starts from, normalised and activated; in DoDNet's "
            "network what the convolution of the fusion reads. bottleneck_size is its spatial size at"
            " the planned patch size. Returns it with `extra_channels()` more channels, or with "
            "`gives_tokens` a `FeatureWithTokens`.",
            hands_on="tokens (B, T, D) to the segmentation head, in `DeepestStage.tokens`",
        ),
    )
    task_attention: PartClass = field(
        default=NoTaskAttention,
        metadata=row(
            "skips",
            built_with="skip_channels, feature_channels, num_tasks, gates",
            called_with="skip, feature, upsampled",
            tensors="Built once per skip, coarsest first. skip: the encoder's output (B, C, *spatial). "
            "feature: the coarser decoder feature (B, C', *coarser spatial) before its normalisation,"
            " at the coarsest skip the encoder's last output. upsampled: what the skip is merged "
            "with, (B, C, *spatial), from a normalised feature; in DoDNet's network nothing is "
            "normalised. Returns the skip's shape.",
        ),
    )
    decoder_conditioning: PartClass = field(
        default=NoConditioning,
        metadata=row(
            "decoder",
            built_with="num_tasks",
            called_with="x",
            tensors="Built once, called for every stage of the decoder. x: upsampled feature and skip, "
            "concatenated; in DoDNet's network their sum, normalised and activated. Returns it with "
            "`extra_channels(num_tasks)` more.",
        ),
    )
    decoders: PartClass = field(
        default=SharedDecoder,
        metadata=row(
            "decoder",
            built_with="decoder, num_tasks",
            called_with="run, decoder, tensors",
            tensors="Called only if conditioned, and then in place of decoder and segmentation head: "
            "run(decoder, tensors, task) is one pass of both. tensors: what the encoder made, in "
            "tuples and lists. Returns what `run` returns.",
        ),
    )
    decoder_attention: PartClass = field(
        default=NoStageAttention,
        metadata=row(
            "decoder",
            built_with="channels, level, dimensions, **options",
            called_with="x",
            tensors="Built once per stage of the decoder, coarsest first (level 0). x: the stage's output, "
            "normalised; in DoDNet's network not. Returns the same shape to the next stage and to the"
            " head.",
            hands_on="what it returns at level 0 to the classification head, in `Features.attended`; not in "
            "DoDNet's network",
        ),
    )


@dataclass(frozen=True)
class StreamedParts:
    """Points of the U-Nets with a decoder for every task (`streams.streamed_unet`); no part gets a task index."""

    streams: PartClass = field(
        default=SharedStreams,
        metadata=row(
            "encoder",
            built_with="plan, tasks, **options",
            called_with="stages",
            tensors="stages: `StageFeatures` of every stage of the encoder, full resolution first. What is "
            "returned is given to the part's `of_task`, which returns what a task sees of every "
            "stage.",
            hands_on="what a question sees of the deepest stage to the classification head, in `Features.streams`",
        ),
    )
    stream_bottleneck: PartClass = field(
        default=NoStreamBottleneck,
        metadata=row(
            "bottleneck",
            built_with="channels, tasks, **options",
            called_with="streams",
            tensors="streams: what each task sees of the deepest stage, normalised; a question before "
            "normalisation. Returns as many tensors of the same shapes.",
        ),
    )
    stream_decoders: PartClass = field(
        default=OwnDecoders,
        metadata=row(
            "decoder",
            built_with="decoder, plan, outputs, regressions, recompute, **options",
            called_with="decoder, skips",
            tensors="skips: the shared output of every stage, normalised, full resolution first. What is "
            "returned is given to the part's `of_task`, which returns a task's decoder features.",
        ),
    )


@dataclass(frozen=True)
class PyramidParts:
    """Points of MA-MTLN's networks (`mamtln.pyramid_unet`), which have a pyramid of L levels for a decoder."""

    visual_attention: PartClass = field(
        default=NoVisualAttention,
        metadata=row(
            "decoder",
            built_with="shape, level",
            called_with="x",
            tensors="Built once per level, finest first (level 0). x: the level's feature (B, W, *spatial), "
            "normalised by GroupNorm. Returns the same shape.",
        ),
    )
    adaptive_attention: PartClass = field(
        default=NoAdaptiveAttention,
        metadata=row(
            "decoder",
            built_with="shape, level, output",
            called_with="feature, fused",
            tensors="Built once per level. feature: the level's, (B, W, *spatial). fused: the fusion of all "
            "levels (B, W, *finest spatial), None if no part has `reads_fused`. Returns the shape of "
            "`feature`.",
        ),
    )
    segmentation_aware: PartClass = field(
        default=NoSegmentationAwareness,
        metadata=row(
            "decoder",
            built_with="shape",
            called_with="levels, fused",
            tensors="levels: the shared features, finest first. fused: their fusion, None if the part does "
            "not read it. Returns what is segmented, (B, W, *finest spatial).",
        ),
    )
    classification_aware: PartClass = field(
        default=NoClassificationAwareness,
        metadata=row(
            "decoder",
            built_with="shape",
            called_with="levels",
            tensors="levels: the shared features, finest first. Returns the descriptor of the patch, (B, 2 "
            "W), float32.",
            hands_on="the descriptor to the classification head, in `Features.attended`",
        ),
    )
