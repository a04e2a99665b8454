"""The encoder of a CTAN-style network: what a task masks for itself it also takes from the others.

At stage j, with p, u, Att and E as in `nnunet_mtl.networks.streams.mtan_encoder`, and N tasks with a stream,

    F_i = Att_ij([p_j || b_ij]) u_j,      A_i = F_i + 1/(N-1) sum over k != i of Att_kij([F_i || F_k]) F_k

and A_i goes on to stage j+1 and to the decoder of task i. There is a mask for every ordered pair of tasks, N (N-1) at
every stage, or one for all pairs (then still another factor for i from k than for k from i, for it reads F_i and F_k in
this order). With one task this is the encoder of MTAN.

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
    """Masks of every task over the shared features, and of every pair of tasks over what the one masked.

    Args:
        plan: Of the encoder.
        tasks: How many.
        width: Of all masks.
        pairs: A mask for every ordered pair at every stage ("own"), or one for all pairs of a stage ("shared").
        **options: Of `AttentionStreams`.
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
        of_stage = min(1, number - 1) if self.shared_pairs else number * (number - 1)
        self.crossing: Any = nn.ModuleList(
            nn.ModuleList(AttentionMask(plan, 2 * channels, channels, width) for _ in range(of_stage))
            for channels in plan.channels
        )

    def forward(self, stages: Sequence[StageFeatures]) -> list[list[Tensor]]:
        """Return what every task sees of every stage, full resolution first."""
        tasks = range(self.tasks.number)
        seen: list[list[Tensor]] = [[] for _ in tasks]
        for level, stage in enumerate(stages):
            own = [
                self.attend(index, level, stage, [self.carried(level, each[-1])] if level else [])
                for index, each in enumerate(seen)
            ]
            for index, each in enumerate(seen):
                each.append(self.exchange(index, level, own))
        return seen

    def of_task(self, index: int, shared: Any) -> list[Tensor]:
        """Return what a task sees of every stage, full resolution first, each (B, C, *spatial)."""
        of_task: list[Tensor] = shared[index]
        return of_task

    def exchange(self, index: int, level: int, own: Sequence[Tensor]) -> Tensor:
        """Return what a task sees of a stage, (B, C, *spatial), given what every task masked for itself."""
        sources = [source for source in range(len(own)) if source != index]
        if not sources:
            return own[index]
        masks = [self.mask_of_pair(index, source, level) for source in sources]
        return self.recompute(partial(_exchanged, masks), own[index], *(own[source] for source in sources))

    def mask_of_pair(self, index: int, source: int, level: int) -> nn.Module:
        """Return the module that makes the factors with which a task takes from another one, `source`, at a stage."""
        place = 0 if self.shared_pairs else index * (self.tasks.number - 1) + source - (source > index)
        mask: nn.Module = self.crossing[level][place]
        return mask


def _exchanged(masks: Sequence[nn.Module], own: Tensor, *others: Tensor) -> Tensor:
    taken = torch.zeros_like(own)
    for mask, other in zip(masks, others, strict=True):
        taken = taken + mask(cat((own, other), dim=1)) * other
    return own + taken / len(others)
