"""nnU-Net's U-Nets with insertion points at which the task can enter.

The encoder, the decoder, their attribute names and their state-dict keys are those of nnU-Net's classes. The parts at
the insertion points are attributes beside them.
"""

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, cat

from nnunet_mtl.networks.classification import Features
from nnunet_mtl.networks.description import NetworkDescription
from nnunet_mtl.networks.gradient import scale_gradient
from nnunet_mtl.networks.heads import DeepestStage
from nnunet_mtl.networks.insertion_points import GuidedParts
from nnunet_mtl.networks.pre_norm import run_stage
from nnunet_mtl.networks.task_guided import Decoded, GuidedChannels, TaskGuidedNetwork, call, widen
from nnunet_mtl.networks.task_passes import Step


class _Encoded(NamedTuple):
    outputs: list[Tensor]  # of every stage as the decoder reads them, full resolution first; the last is the bottleneck
    before_norm: list[Tensor] | None  # of every stage; None unless answers are read
    deepest_before_norm: Tensor | None  # None unless the segmentation head reads it


class _TaskGuidedUNet(TaskGuidedNetwork):
    """Base of both U-Nets. Among the bases of a U-Net it comes before nnU-Net's class.

    Without arguments for the insertion points the network is nnU-Net's own, with one task that owns every region.
    nnU-Net's planner builds the network like this to estimate its memory.
    """

    def build(self, description: NetworkDescription[GuidedParts]) -> None:
        """Build parts and heads, and widen the convolutions that read the channels which parts append."""
        parts, tasks = description.parts, description.layout.num_tasks
        channels = list(self.encoder.output_channels)
        widen(self.decoder.transpconvs[0], parts.bottleneck_conditioning.extra_channels())
        for stage in self.decoder.stages:
            widen(stage.convs[0].conv, parts.decoder_conditioning.extra_channels(tasks))
        skips = [(skip, coarser) for coarser, skip in pairwise(channels[::-1])]
        self.build_parts(description, channels[-1], GuidedChannels(channels[::-1], skips, channels[-2::-1]))
        self.build_heads(description, channels, channels[-2::-1])

    def steps(self, *, raw: bool, keep_features: bool) -> tuple[Step, ...]:
        """Return three steps: encode, decode, segment; the last two are one step if every task has its own decoder."""
        encoder_parts = (self.input_conditioning, *self.encoder_conditioning)
        decoder_parts = (self.bottleneck_conditioning, *self.task_attention, self.decoder_conditioning)
        encode = Step(partial(self._encode, keep_features=keep_features), any(p.conditioned for p in encoder_parts))
        conditioned = any(part.conditioned for part in decoder_parts)
        return encode, *self.decoding_steps(self._decode, conditioned=conditioned, raw=raw)

    def _encode(self, x: Tensor, *task: Tensor, keep_features: bool) -> _Encoded:
        encoder = cast(Any, self.encoder)
        x = call(self.input_conditioning, x, task=task)
        stem = getattr(encoder, "stem", None)
        x = x if stem is None else stem(x)
        skips, before_norm = [], []
        for stage, part in zip(encoder.stages, self.encoder_conditioning, strict=True):
            x, feature = cast(Any, part).run(stage, x, *(task if part.conditioned else ()))
            skips.append(x)
            if keep_features:
                before_norm.append(feature)
        outputs = [part(skip) for part, skip in zip(reversed(self.encoder_attention), skips, strict=True)]
        return _Encoded(
            outputs,
            before_norm if keep_features else None,
            feature if self.segmentation_head.reads_deepest else None,
        )

    def _decode(self, decoder: Any, encoded: _Encoded, *task: Tensor) -> Decoded:
        *skips, bottleneck = encoded.outputs
        x, tokens = self.condition_bottleneck(bottleneck, task)
        feature = bottleneck
        stages, features = [], None
        for level, (upsample, stage) in enumerate(zip(decoder.transpconvs, decoder.stages, strict=True)):
            upsampled = upsample(x)
            skip = call(self.task_attention[level], skips[-(level + 1)], feature, upsampled, task=task)
            merged = call(self.decoder_conditioning, cat((upsampled, skip), dim=1), task=task)
            x, feature = run_stage(stage, merged)
            x = self.decoder_attention[level](x)
            stages.append(x)
            if level == 0 and encoded.before_norm is not None:
                *shared, decoded, attended = (
                    scale_gradient(tensor, self.class_gradient) for tensor in (*encoded.before_norm, feature, x)
                )
                features = Features(shared, decoded, attended)
        return Decoded(stages, DeepestStage(encoded.deepest_before_norm, tokens), features)


class TaskGuidedPlainConvUNet(_TaskGuidedUNet, PlainConvUNet):
    """Task-guided form of nnU-Net's default U-Net."""


class TaskGuidedResidualEncoderUNet(_TaskGuidedUNet, ResidualEncoderUNet):
    """Task-guided form of nnU-Net's U-Net with a residual encoder."""
