"""The decoders of task streams: a decoder turns the stream of a pixel-level task into decoder features."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, cat, nn

from nnunet_mtl.networks.pre_norm import run_stage
from nnunet_mtl.networks.streams.task_streams import EncoderPlan, Recompute


class TaskStages(NamedTuple):
    """Features of the decoder for one task.

    Attributes:
        before_norm: Input of the last normalisation of the coarsest decoder stage, (B, C, *spatial).
        stages: Outputs of the decoder's stages, coarsest first, (B, C, *spatial).
    """

    before_norm: Tensor
    stages: list[Tensor]


class OwnDecoders(nn.Module):
    """A U-Net decoder for every pixel-level task.

    The first task uses the network's own decoder. The decoders share no weights, so that the loss of a task changes no
    decoder of another task.

    Args:
        decoder: The network's own decoder, one of nnU-Net's.
        plan: Numbers and classes of the encoder.
        outputs: Output channels of every segmentation task.
        regressions: Number of regression tasks, which have one output channel at full resolution only.
        recompute: "all" computes the stages again in the backward pass.
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
        # nnU-Net's decoder refers to the encoder, which must not be copied.
        encoder = {id(decoder.encoder): None}
        others = [copy.deepcopy(decoder, dict(encoder)) for _ in range(len(outputs) - 1 + regressions)]
        for other, count in zip(others, (*outputs[1:], *[1] * regressions), strict=True):
            other.seg_layers = nn.ModuleList(plan.layer(layer.in_channels, count) for layer in other.seg_layers)
        for other in others[len(outputs) - 1 :]:
            other.seg_layers = other.seg_layers[-1:]
        self.others = nn.ModuleList(others)
        self.recompute = Recompute(decoder.stages, decoder.transpconvs, wanted=recompute == "all")

    def forward(self, decoder: Any, skips: Sequence[Tensor]) -> Any:
        """Compute once what the decoders of all tasks share, and return it; here None.

        Args:
            decoder: The network's own decoder.
            skips: The shared features of the encoder's stages, full resolution first.
        """
        return None

    def of_task(self, decoder: Any, index: int, skips: Sequence[Tensor], shared: Any) -> TaskStages:
        """Decode the features of one task.

        Args:
            decoder: The network's own decoder.
            index: Index of the task among the pixel-level tasks.
            skips: The stream of the task, full resolution first.
            shared: Return value of `forward`.
        """
        task_decoder = self._decoder(decoder, index)
        x, coarsest, stages = skips[-1], skips[-1], []
        for level, parts in enumerate(zip(task_decoder.transpconvs, task_decoder.stages, strict=True)):
            x, before_norm = self.recompute(partial(_run, *parts), x, skips[-(level + 2)])
            coarsest = coarsest if level else before_norm
            stages.append(x)
        return TaskStages(coarsest, stages)

    def layers(self, decoder: Any, index: int) -> Sequence[nn.Module]:
        """Return the segmentation layers of a task at every scale at which the task has logits, coarsest first."""
        layers: Sequence[nn.Module] = self._decoder(decoder, index).seg_layers
        return layers

    def _decoder(self, decoder: Any, index: int) -> Any:
        return decoder if index == 0 else self.others[index - 1]


def _run(upsample: nn.Module, stage: nn.Module, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    return run_stage(stage, cat((upsample(x), skip), dim=1))
