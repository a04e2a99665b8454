"""nnU-Net's U-Nets with one encoder for all tasks, and for every task a stream of its features and a decoder.

The encoder and the decoder of the first task are those of nnU-Net's classes, with their names and state-dict keys. The
encoder runs once for all tasks. For streams see `nnunet_mtl.networks.streams.task_streams`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, cast

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, cat

from nnunet_mtl.networks.classification import Features, KnownEvidence
from nnunet_mtl.networks.description import NetworkDescription
from nnunet_mtl.networks.gradient import scale_gradient
from nnunet_mtl.networks.insertion_points import StreamedParts
from nnunet_mtl.networks.multitask_network import MultiTaskNetwork
from nnunet_mtl.networks.pre_norm import run_blocks, stage_blocks
from nnunet_mtl.networks.streams.task_streams import EncoderPlan, StageFeatures, StreamTasks, each_of
from nnunet_mtl.networks.task_passes import PassResult, Step
from nnunet_mtl.networks.unused_parameters import zero_of


class _Encoded(NamedTuple):
    stages: list[StageFeatures]  # full resolution first
    before_norm: list[Tensor]  # of every stage, where answers are to be read


class _StreamedUNet(MultiTaskNetwork):
    """Base of both U-Nets. Among the bases of a U-Net it comes before nnU-Net's class.

    Without arguments for the insertion points the network is hard parameter sharing; with one task, nnU-Net's own.
    """

    parts_class: ClassVar[type[StreamedParts]] = StreamedParts
    gives_attended: ClassVar[bool] = False
    place_of_region: Tensor

    @staticmethod
    def backbone_channels(description: NetworkDescription[StreamedParts], input_channels: int) -> tuple[int, int]:
        """Return the number of the backbone's input channels, and the number of the first task's regions."""
        return input_channels, description.layout.task_of_region.count(0)

    def build(self, description: NetworkDescription[StreamedParts]) -> None:
        """Build the heads, the streams, and the decoders; the first task uses the backbone's decoder."""
        layout, parts, options = description.layout, description.parts, description.method_options
        outputs = [layout.task_of_region.count(task) for task in range(layout.num_tasks)]
        plan = EncoderPlan.of(self.encoder)
        self.build_heads(description, plan.channels, plan.channels[-2::-1])
        questions = self.classification.questions if self.classification.reads_streams else ()
        tasks = StreamTasks(len(outputs) + len(self.regressions), len(questions))
        self.streams: Any = parts.streams(plan, tasks, **options)
        self.stream_bottleneck: Any = parts.stream_bottleneck(plan.channels[-1], tasks.number, **options)
        self.decoders: Any = parts.stream_decoders(self.decoder, plan, outputs, len(self.regressions), **options)
        # Position of every region's channel when the channels of all tasks are concatenated in the order of the tasks.
        place = torch.argsort(self.passes.region_order)
        self.register_buffer("place_of_region", place, persistent=False)

    def steps(self, *, raw: bool, keep_features: bool) -> tuple[Step, ...]:
        """Return two steps, encode and decode, into neither of which the task enters."""
        return (
            Step(partial(self._encode, keep_features=keep_features), conditioned=False),
            Step(partial(self._decode, raw=raw, keep_features=keep_features), conditioned=False),
        )

    def _encode(self, x: Tensor, *, keep_features: bool) -> _Encoded:
        encoder = cast(Any, self.encoder)
        stem = getattr(encoder, "stem", None)
        x = x if stem is None else stem(x)
        stages, before_norm = [], []
        for stage in encoder.stages:
            pooling, blocks = stage_blocks(stage)
            split = self.streams.inner_blocks(len(blocks))
            inner, feature = run_blocks([*pooling, *blocks[:split]], x)
            x, feature = run_blocks(blocks[split:], inner) if blocks[split:] else (inner, feature)
            stages.append(StageFeatures(inner, x, feature))
            before_norm += [feature] if keep_features else []
        return _Encoded(stages, before_norm)

    def _decode(self, encoded: _Encoded, *, raw: bool, keep_features: bool) -> PassResult:
        stages = encoded.stages
        seen = each_of(self.streams, self.stream_bottleneck, self.streams(stages))
        shared = self.decoders(self.decoder, [stage.last for stage in stages])
        scales: list[dict[int, Tensor]] = [{} for _ in (stages[1:] if raw and self.deep_supervision else stages[:1])]
        coarsest: dict[int, Tensor] = {}
        for index in range(self.passes.num_tasks) if raw else self.passes.selected:
            coarsest[index], answers = self._of_task(index, seen(index), shared, len(scales))
            for scale, answer in zip(scales, answers, strict=True):
                scale[index] = answer
        logits = [self._of_regions(scale) for scale in scales]
        if raw and not self.deep_supervision:
            layers = (self.decoders.layers(self.decoder, index)[:-1] for index in range(self.passes.num_tasks))
            logits = [logits[0] + zero_of(layer for task_layers in layers for layer in task_layers)]
        return PassResult(
            logits if raw and self.deep_supervision else logits[0],
            self._features(encoded.before_norm, coarsest, seen) if keep_features else None,
            self._regression(seen, shared) if keep_features else None,
        )

    def _of_task(self, index: int, skips: list[Tensor], shared: Any, scales: int) -> tuple[Tensor, list[Tensor]]:
        """Return a task's coarsest decoder feature before normalisation, and its logits at the finest `scales`."""
        before_norm, stages = self.decoders.of_task(self.decoder, index, skips, shared)
        layers = self.decoders.layers(self.decoder, index)
        pairs = zip(stages[: -scales - 1 : -1], layers[: -scales - 1 : -1], strict=True)
        return before_norm, [self.segmentation_head(feature, layer) for feature, layer in pairs]

    def _of_regions(self, task_logits: Mapping[int, Tensor]) -> Tensor:
        """Put the channels of all tasks in the order of the regions; tasks that were not decoded get zeros."""
        like = next(iter(task_logits.values()))
        bounds = pairwise(self.passes.bounds)
        channels = [
            task_logits[index] if index in task_logits else like.new_zeros(len(like), end - start, *like.shape[2:])
            for index, (start, end) in enumerate(bounds)
        ]
        return cat(channels, dim=1).index_select(1, self.place_of_region)

    def _regression(self, seen: Callable[[int], list[Tensor]], shared: Any) -> dict[str, Tensor]:
        first = self.passes.num_tasks
        return {
            name: self._of_task(index, seen(index), shared, 1)[1][0]
            for index, name in enumerate(self.regressions, start=first)
        }

    def _features(
        self, before_norm: list[Tensor], coarsest: Mapping[int, Tensor], seen: Callable[[int], list[Tensor]]
    ) -> list[Features]:
        """Return the features of every question; a question about a task that was not decoded will not be answered."""
        tasks = self.streams.tasks
        factor = self.class_gradient
        first = next(iter(coarsest.values()))
        encoder = [scale_gradient(feature, factor) for feature in before_norm]
        # Only the question trains its stream. With a factor of 0 the stream's weights still need a gradient, of 0.
        streams = [scale_gradient(seen(tasks.pixel + q)[-1], factor, attached=True) for q in range(tasks.image)]
        return [
            Features(encoder, scale_gradient(coarsest.get(question["task"], first), factor), None, streams)
            for question in self.classification.questions
        ]

    def _answer(
        self, index: int, known: KnownEvidence | None, raw: bool, result: PassResult
    ) -> tuple[Tensor, Tensor | None]:
        return super()._answer(index, known, raw, result._replace(features=result.features[index]))


class StreamedPlainConvUNet(_StreamedUNet, PlainConvUNet):
    """nnU-Net's default U-Net with a stream and a decoder for every task."""


class StreamedResidualEncoderUNet(_StreamedUNet, ResidualEncoderUNet):
    """nnU-Net's U-Net with a residual encoder, and with a stream and a decoder for every task."""
