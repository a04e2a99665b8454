"""Networks in which the task can enter at any point of a U-Net: the points, and how decoder and head are run."""

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
    """What a decoder makes of a batch.

    Attributes:
        stages: Features of its stages, coarsest first, (B, C, *spatial) each.
        deepest: What the segmentation head may read of the deepest stage.
        features: What answers are read from; None if there are none to read.
    """

    stages: list[Tensor]
    deepest: DeepestStage
    features: Features | None


class GuidedChannels(NamedTuple):
    """Channels of the tensors that parts are called with.

    Attributes:
        encoder_outputs: Channels of the encoder's outputs as the decoder reads them, deepest first.
        skips: Channels of every skip and of the decoder feature it meets, coarsest first.
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
        """Return how many channels the backbone reads, and how many its segmentation layers make."""
        layout = description.layout
        extra = description.parts.input_conditioning.extra_channels(layout.num_tasks)
        return input_channels + extra, description.segmentation_head.channels(layout)

    def build_parts(
        self, description: NetworkDescription[GuidedParts], bottleneck_channels: int, channels: GuidedChannels
    ) -> None:
        """Build what stands at the insertion points.

        Args:
            description: That of the network.
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
        """Return what the part at the bottleneck makes of `x`, (B, C, *spatial), and its tokens, if it gives any."""
        part = self.bottleneck_conditioning
        made = part(x, *(task if part.conditioned else ()))
        return (made.feature, made.tokens) if part.gives_tokens else (made, None)

    def decoding_steps(self, decode: Callable[..., Decoded], *, conditioned: bool, raw: bool) -> tuple[Step, ...]:
        """Return decoding and segmenting, as one where every task has a decoder of its own.

        Args:
            decode: Called with a decoder, the previous step's result and the task if the step is conditioned.
            conditioned: Whether decoding is.
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
    """Let a convolution read `extra` more channels, appended to those it reads; it is then initialised anew.

    Args:
        convolution: A convolution or transposed convolution of one group, changed in place, so that its name and its
            keys in the state dict stay.
        extra: At least 0.
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
