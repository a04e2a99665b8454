"""The encoder of a CTAN-style network: a task masks the shared features, and takes masked features of other tasks.

At stage j, with p, u, Att and E as in `nnunet_mtl.networks.streams.mtan_encoder`, and N tasks with a stream,

    F_i = Att_ij([p_j || b_ij]) u_j,      A_i = F_i + 1/(N-1) sum over k != i of Att_kij([F_i || F_k]) F_k

and A_i goes to stage j+1 and to the decoder of task i. Either every ordered pair of tasks has its own mask, N (N-1) at
every stage, or all pairs share one mask. A shared mask reads F_i and F_k in this order, so that its factors for i from
k still differ from those for k from i. With one task this is the encoder of MTAN.

After Kim, Purdie, McIntosh, Cross-task attention network, 2023 (arXiv:2309.03837), of which we know the abstract alone:
that tasks of pixel and image level exchange information by cross-task attention. Every equation here is our choice.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, cat, nn

from nnunet_mtl.networks.streams.mtan_encoder import AttentionMask, AttentionStreams, Width
from nnunet_mtl.networks.streams.task_streams import EncoderPlan, StageFeatures, StreamTasks

Pairs = Literal["own", "shared"]


class CrossAttentionStreams(AttentionStreams):
    """Masks of every task over the shared features, and masks of every pair of tasks over the masked features.

    Args:
        plan: Numbers and classes of the encoder.
        tasks: Numbers of the tasks with a stream.
        width: Width of all masks, see `AttentionMask`.
        pairs: "own" gives every ordered pair of tasks its own mask at every stage, "shared" one mask for all pairs.
        **options: Arguments of `AttentionStreams`.
    """

    def __init__(
        self,
        plan: EncoderPlan,
        tasks: StreamTasks,
        *,
        width: Width = "quarter",
        pairs: Pairs = "own",
        **options: Any,
    ) -> None:
        super().__init__(plan, tasks, width=width, **options)
        number = tasks.number
        self.shared_pairs = pairs == "shared"
        masks_per_stage = min(1, number - 1) if self.shared_pairs else number * (number - 1)
        self.crossing: Any = nn.ModuleList(
            nn.ModuleList(AttentionMask(plan, 2 * channels, channels, width) for _ in range(masks_per_stage))
            for channels in plan.channels
        )

    def forward(self, stages: Sequence[StageFeatures]) -> list[list[Tensor]]:
        """Return the streams of all tasks: for every task a feature of every stage, full resolution first."""
        tasks = range(self.tasks.number)
        streams: list[list[Tensor]] = [[] for _ in tasks]
        for level, stage in enumerate(stages):
            masked = [
                self.attend(index, level, stage, [self.carried(level, stream[-1])] if level else [])
                for index, stream in enumerate(streams)
            ]
            for index, stream in enumerate(streams):
                stream.append(self.exchange(index, level, masked))
        return streams

    def of_task(self, index: int, shared: Any) -> list[Tensor]:
        """Return the stream of a task: a feature of every stage, full resolution first, (B, C, *spatial)."""
        stream: list[Tensor] = shared[index]
        return stream

    def exchange(self, index: int, level: int, masked: Sequence[Tensor]) -> Tensor:
        """Return A of a task at a stage, (B, C, *spatial), from the masked features F of all tasks."""
        sources = [source for source in range(len(masked)) if source != index]
        if not sources:
            return masked[index]
        masks = [self.mask_of_pair(index, source, level) for source in sources]
        return self.recompute(partial(_exchanged, masks), masked[index], *(masked[source] for source in sources))

    def mask_of_pair(self, index: int, source: int, level: int) -> nn.Module:
        """Return the module that computes the factors for what a task takes from the task `source` at a stage."""
        place = 0 if self.shared_pairs else index * (self.tasks.number - 1) + source - (source > index)
        mask: nn.Module = self.crossing[level][place]
        return mask


def _exchanged(masks: Sequence[nn.Module], feature: Tensor, *others: Tensor) -> Tensor:
    taken = torch.zeros_like(feature)
    for mask, other in zip(masks, others, strict=True):
        taken = taken + mask(cat((feature, other), dim=1)) * other
    return feature + taken / len(others)
