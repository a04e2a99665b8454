"""MTAN's encoder: every task looks at the shared features through masks of its own.

At stage j of the shared encoder let p be the output of an inner block and u that of the last. For task i

    m_ij = Att_ij([p_j || b_ij]),    a_ij = m_ij u_j,    b_i0 = (),    b_i(j+1) = pool(E_j(a_ij))

Att is two convolutions with kernel 1, each normalised, with a ReLU between them and a sigmoid at the end: a factor
between 0 and 1 for every channel and voxel. E_j, which makes the next stage's channels of the attended features, is
shared by all tasks; pool is the maximum over windows of the planned stride. In the form of the paper's SegNet p is what
the first block made, and E_j a convolution with kernel 3, normalisation and ReLU. In that of the released code's ResNet
p is what the last block but one made, E_j a residual bottleneck whose skip is projected, and Att has a quarter of the
channels inside.

Source: Liu, Johns, Davison, End-to-end multi-task learning with attention, CVPR 2019 (arXiv:1803.10704), and its
released code, re-implemented from equations. Ours are the normalisation of the plans, and p of a stage with one block:
u itself.
"""

from typing import Any, Literal

from dynamic_network_architectures.building_blocks.residual import BottleneckD
from torch import Tensor, cat, nn

from nnunet_mtl.networks.streams.task_streams import EncoderPlan, Recompute, SharedStreams, StageFeatures, StreamTasks

Width = Literal["full", "quarter"]
_LEAST_WIDTH = 8


class AttentionMask(nn.Sequential):
    """Att: factors between 0 and 1, (B, C, *spatial), of features (B, C_in, *spatial).

    Args:
        plan: Of the encoder; its normalisation is used.
        channels_in: C_in.
        channels: C.
        width: Channels inside: C ("full"), or a quarter of that but at least 8 ("quarter").
    """

    def __init__(self, plan: EncoderPlan, channels_in: int, channels: int, width: Width) -> None:
        hidden = channels if width == "full" else max(channels // 4, _LEAST_WIDTH)
        super().__init__(
            plan.layer(channels_in, hidden),
            plan.norm(hidden),
            nn.ReLU(inplace=True),
            plan.layer(hidden, channels),
            plan.norm(channels),
            nn.Sigmoid(),
        )


class AttentionStreams(SharedStreams):
    """Masks of every task over the shared features of every stage of the encoder.

    Args:
        plan: Of the encoder.
        tasks: How many.
        width: Of the masks.
        recompute: What is computed anew in the backward pass; nothing with "none".
        **options: Not used.
    """

    def __init__(
        self,
        plan: EncoderPlan,
        tasks: StreamTasks,
        *,
        width: Width = "full",
        recompute: str = "attention",
        **options: Any,
    ) -> None:
        super().__init__(plan, tasks)
        self.plan = plan
        self.masks: Any = nn.ModuleList(
            nn.ModuleList(
                AttentionMask(plan, channels * (1 if stage == 0 else 2), channels, width)
                for stage, channels in enumerate(plan.channels)
            )
            for _ in range(tasks.number)
        )
        self.carry = nn.ModuleList(self.carrying(plan, stage) for stage in range(len(plan.channels) - 1))
        self.recompute = Recompute(self, wanted=recompute != "none")

    @staticmethod
    def carrying(plan: EncoderPlan, stage: int) -> nn.Module:
        """Return E of a stage, which gives its output the channels of the next."""
        return plan.block(plan.channels[stage], plan.channels[stage + 1], stage)

    def of_task(self, index: int, shared: Any) -> list[Tensor]:
        """Return what a task sees of every stage, full resolution first, each (B, C, *spatial).

        Args:
            index: Of the task.
            shared: The features of the encoder's stages.
        """
        attended: list[Tensor] = []
        for level, stage in enumerate(shared):
            carried = [self.carried(level, attended[-1])] if level else []
            attended.append(self.attend(index, level, stage, carried))
        return attended

    def attend(self, index: int, level: int, stage: StageFeatures, carried: list[Tensor]) -> Tensor:
        """Return the features of a stage, masked for a task, (B, C, *spatial).

        Args:
            index: Of the task.
            level: Of the stage, 0 at full resolution.
            stage: Its features.
            carried: What `carried` returned, in a list; none at full resolution.
        """
        mask = self.masks[index][level]

        def masked(seen: Tensor, inner: Tensor, *before: Tensor) -> Tensor:
            factors: Tensor = mask(cat((inner, *before), dim=1))
            return factors * seen

        seen = self.deepest(index, stage) if level == len(self.carry) else stage.last
        return self.recompute(masked, seen, stage.inner, *carried)

    def carried(self, level: int, attended: Tensor) -> Tensor:
        """Return what a stage's masks read of the attended features of the stage before, in the stage's size."""
        before = self.carry[level - 1]
        return self.recompute(lambda x: self.plan.pooled(before(x), level), attended)


class ResidualAttentionStreams(AttentionStreams):
    """The form for residual networks: narrow masks over a stage's last block, and a residual bottleneck for E.

    Args:
        plan: Of the encoder.
        tasks: How many.
        **options: Of `AttentionStreams`, of which `width` is not used.
    """

    def __init__(self, plan: EncoderPlan, tasks: StreamTasks, **options: Any) -> None:
        super().__init__(plan, tasks, **{**options, "width": "quarter"})

    @staticmethod
    def inner_blocks(blocks: int) -> int:
        """As of the base: behind the last block but one."""
        return max(blocks - 1, 1)

    @staticmethod
    def carrying(plan: EncoderPlan, stage: int) -> nn.Module:
        """Return E of a stage: to a quarter of the next stage's channels, a spatial convolution, to all of them."""
        before, channels = plan.channels[stage], plan.channels[stage + 1]
        block: Any = BottleneckD(
            plan.conv_op,
            before,
            max(channels // 4, _LEAST_WIDTH),
            channels,
            plan.kernel_sizes[stage],
            1,
            norm_op=plan.norm_op,
            norm_op_kwargs=dict(plan.norm_op_kwargs),
            nonlin=nn.ReLU,
            nonlin_kwargs={"inplace": True},
        )
        # the library's block has this only where the number of channels changes
        block.skip = nn.Sequential(plan.conv_op(before, channels, 1, bias=False), plan.norm(channels))
        made: nn.Module = block
        return made
