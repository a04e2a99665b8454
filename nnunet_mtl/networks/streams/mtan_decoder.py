"""MTAN's decoder: one decoder for all tasks, which every task looks at through masks of its own.

At a stage of the shared decoder let p be the upsampled feature of the stage below and u the stage's output. For task i,
with a the task's attended feature of the stage below (of the encoder's deepest stage at first) and s what the task sees
of the encoder's stage of this size,

    b = D([up(a) || s]),    m = Att_i([p || b]),    a' = m u

D, a convolution with normalisation and ReLU, is shared by all tasks; up is linear interpolation with the corners
aligned, as in the released code. At every scale a convolution with kernel 1 makes the task's answer of a'; at full
resolution one with kernel 3 comes before it.

Source: as of `nnunet_mtl.networks.streams.mtan_encoder`. The paper's SegNet has no skips: s is ours, and so are the
normalisation of the plans and the answers at lower scales.
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
        decoder: The network's own, of nnU-Net's; its last layers are exchanged.
        plan: Of the encoder.
        outputs: Output channels of each segmentation task.
        regressions: Number of regression tasks, which have one output channel, at full resolution alone.
        width: Of the masks.
        recompute: What is computed anew in the backward pass; nothing with "none".
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
        # Under the name that says where the weights of an answer are: nnU-Net reads and skips them by it.
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
            decoder: The network's own.
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
            decoder: The network's own.
            index: Of the task among the pixel-level ones.
            skips: What it sees of every stage of the encoder, full resolution first.
            shared: What `forward` returned.
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
        """Return a task's last layer at every scale at which it answers, coarsest first."""
        return [of_scale[index] for of_scale in decoder.seg_layers if index < len(of_scale)]
