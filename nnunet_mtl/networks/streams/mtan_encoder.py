"""MTAN's encoder: every task multiplies the shared features by its own masks.

At stage j of the shared encoder let p be the output of an inner block and u that of the last. For task i

    m_ij = Att_ij([p_j || b_ij]),    a_ij = m_ij u_j,    b_i0 = (),    b_i(j+1) = pool(E_j(a_ij))

Att is two convolutions with kernel 1, each normalised, with a ReLU between them and a sigmoid at the end: a factor
between 0 and 1 for every channel and voxel. All tasks share E_j, which gives the attended features the channels of the
next stage; pool is the maximum over windows of the planned stride. There are two forms. As in the paper's SegNet, p is
the output of the first block, and E_j is a convolution with kernel 3, normalisation and ReLU. As in the released code's
ResNet, p is the output of the last block but one, E_j is a residual bottleneck with a projected skip, and Att has a
quarter of the channels inside.

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
    """Att: computes factors between 0 and 1, (B, C, *spatial), from features (B, C_in, *spatial).

    Args:
        plan: Numbers and classes of the encoder.
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
        plan: Numbers and classes of the encoder.
        tasks: Numbers of the tasks with a stream.
        width: Width of the masks, see `AttentionMask`.
        recompute: "none" keeps all tensors; any other value computes the masked features again in the backward pass.
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
        """Return E of a stage, which has as many output channels as the next stage."""
        return plan.block(plan.channels[stage], plan.channels[stage + 1], stage)

    def of_task(self, index: int, shared: Any) -> list[Tensor]:
        """Return the stream of a task: a masked feature of every stage, full resolution first, (B, C, *spatial).

        Args:
            index: Index of the task.
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
            index: Index of the task.
            level: Index of the stage, 0 at full resolution.
            stage: Features of the stage.
            carried: Return value of the method `carried` in a list; an empty list at full resolution.
        """
        mask = self.masks[index][level]

        def masked(seen: Tensor, inner: Tensor, *before: Tensor) -> Tensor:
            factors: Tensor = mask(cat((inner, *before), dim=1))
            return factors * seen

        seen = self.deepest(index, stage) if level == len(self.carry) else stage.last
        return self.recompute(masked, seen, stage.inner, *carried)

    def carried(self, level: int, attended: Tensor) -> Tensor:
        """Return b, which the masks of stage `level` read, from the attended features of the stage before."""
        before = self.carry[level - 1]
        return self.recompute(lambda x: self.plan.pooled(before(x), level), attended)


class ResidualAttentionStreams(AttentionStreams):
    """The form for residual networks: narrow masks on a stage's last block, and a residual bottleneck for E.

    Args:
        plan: Numbers and classes of the encoder.
        tasks: Numbers of the tasks with a stream.
        **options: Arguments of `AttentionStreams`; `width` is ignored.
    """

    def __init__(self, plan: EncoderPlan, tasks: StreamTasks, **options: Any) -> None:
        super().__init__(plan, tasks, **{**options, "width": "quarter"})

    @staticmethod
    def inner_blocks(blocks: int) -> int:
        """Return after how many of a stage's `blocks` the masks read the feature: after the last block but one."""
        return max(blocks - 1, 1)

    @staticmethod
    def carrying(plan: EncoderPlan, stage: int) -> nn.Module:
        """Return E of a stage: a bottleneck with a quarter of the next stage's channels inside."""
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
        # The library's block projects its skip only if the number of channels changes.
        block.skip = nn.Sequential(plan.conv_op(before, channels, 1, bias=False), plan.norm(channels))
        made: nn.Module = block
        return made
