"""MTAN's decoder: one decoder for all tasks, whose features every task multiplies by its own masks.

At a stage of the shared decoder let p be the upsampled feature of the stage below and u the stage's output. For task i
let a be the task's attended feature of the stage below (at first of the encoder's deepest stage) and s the feature of
this size in the task's stream. Then

    b = D([up(a) || s]),    m = Att_i([p || b]),    a' = m u

D, a convolution with normalisation and ReLU, is shared by all tasks; up is linear interpolation with the corners
aligned, as in the released code. At every scale a convolution with kernel 1 computes the task's logits from a'; at full
resolution a convolution with kernel 3 comes before it.

Source: that of `nnunet_mtl.networks.streams.mtan_encoder`. The paper's SegNet has no skips: s is ours, and so are the
normalisation of the plans and the logits at lower scales.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, cat, nn
from torch.nn import functional

from nnunet_mtl.networks.pre_norm import run_stage
from nnunet_mtl.networks.streams.mtan_encoder import AttentionMask, Width
from nnunet_mtl.networks.streams.stream_decoders import TaskStages
from nnunet_mtl.networks.streams.task_streams import EncoderPlan, Recompute


class AttentionDecoders(nn.Module):
    """Masks of every pixel-level task over the features of one decoder.

    Args:
        decoder: The network's own decoder, one of nnU-Net's; its segmentation layers are replaced.
        plan: Numbers and classes of the encoder.
        outputs: Output channels of every segmentation task.
        regressions: Number of regression tasks, which have one output channel at full resolution only.
        width: Width of the masks, see `AttentionMask`.
        recompute: "none" keeps all tensors; any other value computes the masked features again in the backward pass.
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
        width: Width = "full",
        recompute: str = "attention",
        **options: Any,
    ) -> None:
        super().__init__()
        channels = plan.channels[-2::-1]
        self.masks: Any = nn.ModuleList(
            nn.ModuleList(AttentionMask(plan, 2 * count, count, width) for count in channels)
            for _ in range(len(outputs) + regressions)
        )
        self.carry = nn.ModuleList(
            plan.block(below + count, count, stage)
            for count, below, stage in zip(channels, plan.channels[::-1], reversed(range(len(channels))), strict=False)
        )
        self.up = "bilinear" if plan.dimensions == 2 else "trilinear"
        self.recompute = Recompute(self, wanted=recompute != "none")
        # These layers keep the name `seg_layers`, by which nnU-Net finds and skips the weights of output layers.
        decoder.seg_layers = nn.ModuleList(
            nn.ModuleList(plan.layer(count, output) for output in outputs) for count in channels
        )
        full = channels[-1]
        decoder.seg_layers[-1] = nn.ModuleList(
            nn.Sequential(plan.spatial(full, full, 0), plan.layer(full, output))
            for output in (*outputs, *[1] * regressions)
        )

    def forward(self, decoder: Any, skips: Sequence[Tensor]) -> Any:
        """Return the shared decoder's features: upsampled, output and last normalisation's input of every stage.

        Args:
            decoder: The network's own decoder.
            skips: The shared features of the encoder's stages, full resolution first.
        """
        x, stages = skips[-1], []
        for level, (upsample, stage) in enumerate(zip(decoder.transpconvs, decoder.stages, strict=True)):
            upsampled = upsample(x)
            x, before_norm = run_stage(stage, cat((upsampled, skips[-(level + 2)]), dim=1))
            stages.append((upsampled, x, before_norm))
        return stages

    def of_task(self, decoder: Any, index: int, skips: Sequence[Tensor], shared: Any) -> TaskStages:
        """Decode the features of one task.

        Args:
            decoder: The network's own decoder.
            index: Index of the task among the pixel-level tasks.
            skips: The stream of the task, full resolution first.
            shared: Return value of `forward`.
        """
        attended, stages = skips[-1], []
        for level, (upsampled, last, _) in enumerate(shared):
            carry, mask = self.carry[level], self.masks[index][level]

            def masked(x: Tensor, skip: Tensor, p: Tensor, u: Tensor, carry: Any = carry, mask: Any = mask) -> Tensor:
                grown = functional.interpolate(x, size=skip.shape[2:], mode=self.up, align_corners=True)
                factors: Tensor = mask(cat((p, carry(cat((grown, skip), dim=1))), dim=1))
                return factors * u

            attended = self.recompute(masked, attended, skips[-(level + 2)], upsampled, last)
            stages.append(attended)
        return TaskStages(shared[0][2], stages)

    def layers(self, decoder: Any, index: int) -> Sequence[nn.Module]:
        """Return the segmentation layers of a task at every scale at which the task has logits, coarsest first."""
        return [scale_layers[index] for scale_layers in decoder.seg_layers if index < len(scale_layers)]
