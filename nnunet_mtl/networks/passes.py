"""How many passes a patch costs: what does not depend on the task runs once, the rest once per task.

A network is an ordered list of steps. Each says whether the task enters there, and that alone decides the cost of all
K tasks: one pass where it enters nowhere, K heads or K decoders on one encoder pass where it enters late, K whole
passes where it enters at the input.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Step(NamedTuple):
    """One part of a network.

    Attributes:
        run: Called with the previous step's result (the image at first) and, if `conditioned`, with the task index
            (B,) as second argument. A step that is not conditioned is never shown the task.
        conditioned: Whether the task enters here.
    """

    run: Callable[..., Any]
    conditioned: bool


class TaskPasses(nn.Module):
    """Runs steps for one task per sample, or for all tasks with the task-free prefix shared.

    Tasks are looped over, not stacked into the batch: the peak memory of all tasks is that of one, plus the result.

    Args:
        task_of_region: Index of the task that owns each of the R regions, 0 to K-1, each at least once.
    """

    region_order: Tensor

    def __init__(self, task_of_region: Sequence[int]) -> None:
        super().__init__()
        owners = torch.tensor(task_of_region, dtype=torch.long, device="cpu")
        # Regions sorted by owner: task k owns the entries between its bound and the next.
        self.register_buffer("region_order", torch.sort(owners, stable=True).indices, persistent=False)
        self.regions_per_task: list[int] = torch.bincount(owners).tolist()

    def forward(self, steps: Sequence[Step], image: Tensor, task: Tensor | None = None) -> Any:
        """Run the steps.

        Args:
            steps: The network's parts in order. Without `task`, the last one's result must be logits (B, R, *spatial).
            image: (B, C, *spatial).
            task: Task index of each sample, (B,) long, tasks mixed freely; None for all tasks.

        Returns:
            With `task` what the last step returns, else a fresh contiguous tensor (B, R, *spatial) in which every
            region's channel is that of its own task's pass.
        """
        if task is not None:
            return _run(steps, image, task)
        shared = list(takewhile(lambda step: not step.conditioned, steps))
        state = _run(shared, image, None)
        if len(shared) == len(steps):
            return state.contiguous()
        return self._assemble(steps[len(shared) :], state, image)

    def _assemble(self, steps: Sequence[Step], state: Any, image: Tensor) -> Tensor:
        logits: Tensor | None = None
        start = 0
        for index, count in enumerate(self.regions_per_task):
            task = torch.full((image.shape[0],), index, dtype=torch.long, device=image.device)
            of_task = _run(steps, state, task)
            if logits is None:
                logits = of_task.new_empty(of_task.shape)
            regions = self.region_order[start : start + count]
            logits.index_copy_(1, regions, of_task.index_select(1, regions))
            start += count
        assert logits is not None  # there is at least one task
        return logits


def _run(steps: Sequence[Step], state: Any, task: Tensor | None) -> Any:
    for step in steps:
        state = step.run(state, task) if step.conditioned else step.run(state)
    return state
