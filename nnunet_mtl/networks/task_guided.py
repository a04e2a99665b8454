"""Base of the networks with the insertion points of `GuidedParts`: builds the parts, runs the decoder and the head."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

from torch import Tensor, nn

from nnunet_mtl.networks.classification import Features
from nnunet_mtl.networks.description import NetworkDescription
from nnunet_mtl.networks.heads import DeepestStage
from nnunet_mtl.networks.insertion_points import GuidedParts
from nnunet_mtl.networks.multitask_network import MultiTaskNetwork
from nnunet_mtl.networks.task_passes import PassResult, Step
from nnunet_mtl.networks.unused_parameters import zero_of


class Decoded(NamedTuple):
    """Result of a decoder.

    Attributes:
        stages: Features of the decoder's stages, coarsest first, (B, C, *spatial).
        deepest: Tensors of the deepest stage that the segmentation head may read.
        features: Features from which answers are computed; None if no answer is read.
    """

    stages: list[Tensor]
    deepest: DeepestStage
    features: Features | None


class GuidedChannels(NamedTuple):
    """Channels of the tensors that parts are called with.

    Attributes:
        encoder_outputs: Channels of the encoder's outputs as the decoder reads them, deepest first.
        skips: For every skip, coarsest first, its channels and the channels of the coarser decoder feature.
        decoder_stages: Channels of the decoder's stages, coarsest first.
    """

    encoder_outputs: Sequence[int]
    skips: Sequence[tuple[int, int]]
    decoder_stages: Sequence[int]


class TaskGuidedNetwork(MultiTaskNetwork):
    """Base of nnU-Net's U-Nets and of DoDNet's network with the points of `GuidedParts`."""

    parts_class: ClassVar[type[GuidedParts]] = GuidedParts
    decoders: nn.Module
    encoder_attention: Any
    decoder_attention: Any

    @staticmethod
    def backbone_channels(description: NetworkDescription[GuidedParts], input_channels: int) -> tuple[int, int]:
        """Return the numbers of the backbone's input channels and of its segmentation layers' output channels."""
        layout = description.layout
        extra = description.parts.input_conditioning.extra_channels(layout.num_tasks)
        return input_channels + extra, description.segmentation_head.channels(layout)

    def build_parts(
        self, description: NetworkDescription[GuidedParts], bottleneck_channels: int, channels: GuidedChannels
    ) -> None:
        """Build the parts at the insertion points.

        Args:
            description: Says which parts the network has.
            bottleneck_channels: Channels of the tensor that `bottleneck_conditioning` is called with.
            channels: Channels of the tensors that the other parts are called with.
        """
        parts, tasks = description.parts, description.layout.num_tasks
        self.input_conditioning = parts.input_conditioning(tasks)
        self.encoder_conditioning = nn.ModuleList(
            parts.encoder_conditioning(stage, tasks) for stage in self.encoder.stages
        )
        self.bottleneck_conditioning = parts.bottleneck_conditioning(
            bottleneck_channels, tasks, description.bottleneck_size
        )
        self.task_attention = nn.ModuleList(
            parts.task_attention(skip, feature, tasks, description.gates) for skip, feature in channels.skips
        )
        self.decoder_conditioning = parts.decoder_conditioning(tasks)
        self.decoders = parts.decoders(self.decoder, tasks)
        options = {"dimensions": len(self.encoder.strides[0]), **description.method_options}
        self.encoder_attention = nn.ModuleList(
            parts.encoder_attention(count, level, **options) for level, count in enumerate(channels.encoder_outputs)
        )
        self.decoder_attention = nn.ModuleList(
            parts.decoder_attention(count, level, **options) for level, count in enumerate(channels.decoder_stages)
        )

    def condition_bottleneck(self, x: Tensor, task: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """Apply the part at the bottleneck to `x`, (B, C, *spatial); return the new feature, and its tokens or None."""
        part = self.bottleneck_conditioning
        result = part(x, *(task if part.conditioned else ()))
        return (result.feature, result.tokens) if part.gives_tokens else (result, None)

    def decoding_steps(self, decode: Callable[..., Decoded], *, conditioned: bool, raw: bool) -> tuple[Step, ...]:
        """Return two steps, decode and segment, or one step for both if every task has its own decoder.

        Args:
            decode: Function of a decoder, the previous step's result and, if `conditioned`, the task indices.
            conditioned: Whether the task enters in the decoder.
            raw: As in `steps`.
        """
        if not self.decoders.conditioned:
            return (
                Step(partial(decode, self.decoder), conditioned),
                Step(partial(self._segment, self.decoder, raw=raw), bool(self.segmentation_head.conditioned)),
            )

        def run(decoder: nn.Module, state: Any, task: Tensor) -> PassResult:
            return self._segment(decoder, decode(decoder, state, task), task, raw=raw)

        return (Step(partial(self.decoders, run, self.decoder), conditioned=True),)

    def _segment(self, decoder: Any, decoded: Decoded, *task: Tensor, raw: bool) -> PassResult:
        stages, deepest, features = decoded
        head = self.segmentation_head
        context = head.context(deepest, *(task if head.conditioned else ()))
        if raw and self.deep_supervision:
            pairs = zip(stages, decoder.seg_layers, strict=True)
            return PassResult([head(stage, layer, context) for stage, layer in pairs][::-1], features)
        logits = head(stages[-1], decoder.seg_layers[-1], context)
        return PassResult(logits + zero_of(decoder.seg_layers[:-1]) if raw else head.regions(logits), features)


def call(part: nn.Module, *arguments: Tensor, task: tuple[Tensor, ...]) -> Tensor:
    """Call a part with the task if it is conditioned; `task` is empty before the task enters."""
    return cast(Tensor, part(*arguments, *(task if part.conditioned else ())))


def widen(convolution: nn.Module, extra: int) -> None:
    """Give a convolution `extra` more input channels, behind the present ones, and initialise its weights anew.

    Args:
        convolution: A convolution or transposed convolution of one group. It is changed in place, so that its name and
            its keys in the state dict stay.
        extra: At least 0; with 0 nothing changes.
    """
    if not extra:
        return
    module = cast(nn.Conv3d, convolution)
    axis = 0 if module.transposed else 1
    shape = list(module.weight.shape)
    shape[axis] += extra
    module.in_channels += extra
    module.weight = nn.Parameter(module.weight.new_empty(shape))
    module.reset_parameters()
