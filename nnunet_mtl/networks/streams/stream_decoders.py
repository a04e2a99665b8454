"""The decoders of task streams: what a pixel-level task makes of the features it sees."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, cat, nn

from nnunet_mtl.networks.pre_norm import run_stage
from nnunet_mtl.networks.streams.task_streams import EncoderPlan, Recompute


class TaskStages(NamedTuple):
    """What a decoder makes of a task's features.

    Attributes:
        before_norm: What the last normalisation of its coarsest stage reads, (B, C, *spatial).
        stages: Its features, coarsest first, each (B, C, *spatial).
    """

    before_norm: Tensor
    stages: list[Tensor]


class OwnDecoders(nn.Module):
    """A U-Net decoder for every pixel-level task, and what other decoders of streams derive from.

    The first task's is the network's own. Decoders know nothing of each other: no task's loss moves another's.

    Args:
        decoder: The network's own, of nnU-Net's; changed in place where it has to be.
        plan: Of the encoder.
        outputs: Output channels of each segmentation task.
        regressions: Number of regression tasks, which have one output channel, at full resolution alone.
        recompute: "all" to compute stages anew in the backward pass.
        **options: Not used.
    """

    conditioned: ClassVar[bool] = False

    def __init__(
        self,
        decoder: Any,
        plan: EncoderPlan,
        outputs: Sequence[int],
        regressions: int,
        *,
        recompute: str = "attention",
        **options: Any,
    ) -> None:
        super().__init__()
        # The stock decoder refers to the encoder, which is not to be copied.
        encoder = {id(decoder.encoder): None}
        others = [copy.deepcopy(decoder, dict(encoder)) for _ in range(len(outputs) - 1 + regressions)]
        for other, count in zip(others, (*outputs[1:], *[1] * regressions), strict=True):
            other.seg_layers = nn.ModuleList(plan.layer(layer.in_channels, count) for layer in other.seg_layers)
        for other in others[len(outputs) - 1 :]:
            other.seg_layers = other.seg_layers[-1:]
        self.others = nn.ModuleList(others)
        self.recompute = Recompute(decoder.stages, decoder.transpconvs, wanted=recompute == "all")

    def forward(self, decoder: Any, skips: Sequence[Tensor]) -> Any:
        """Return what the tasks' decoders have in common, computed once; here nothing.

        Args:
            decoder: The network's own.
            skips: The shared features of the encoder's stages, full resolution first.
        """
        return None

    def of_task(self, decoder: Any, index: int, skips: Sequence[Tensor], shared: Any) -> TaskStages:
        """Decode the features of one task.

        Args:
            decoder: The network's own.
            index: Of the task among the pixel-level ones.
            skips: What it sees of every stage of the encoder, full resolution first.
            shared: What `forward` returned.
        """
        of_task = self._decoder(decoder, index)
        x, coarsest, stages = skips[-1], skips[-1], []
        for level, parts in enumerate(zip(of_task.transpconvs, of_task.stages, strict=True)):
            x, before_norm = self.recompute(partial(_run, *parts), x, skips[-(level + 2)])
            coarsest = coarsest if level else before_norm
            stages.append(x)
        return TaskStages(coarsest, stages)

    def layers(self, decoder: Any, index: int) -> Sequence[nn.Module]:
        """Return a task's last layer at every scale at which it answers, coarsest first."""
        layers: Sequence[nn.Module] = self._decoder(decoder, index).seg_layers
        return layers

    def _decoder(self, decoder: Any, index: int) -> Any:
        return decoder if index == 0 else self.others[index - 1]


def _run(upsample: nn.Module, stage: nn.Module, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    return run_stage(stage, cat((upsample(x), skip), dim=1))
