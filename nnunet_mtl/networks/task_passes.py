"""Runs a network for one task or for all tasks: steps that do not depend on the task run once, the rest once per task.

A network is an ordered list of steps. Every step says whether the task enters there. The first step at which the task
enters decides what a patch costs for all K tasks: one pass if there is no such step, one encoder pass and K decoders or
heads if the task enters late, K whole passes if it enters at the input. An answer is a value that is read from a pass
beside the logits. Every answer is read once, in the pass of the task that it belongs to.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

OFF = -100.0
"""Logit of the regions of tasks that were not selected: it means "absent", and half precision can hold sums of it."""


class Step(NamedTuple):
    """One part of a network.

    Attributes:
        run: Function of the previous step's result (for the first step: of the image). A conditioned step also gets the
            task indices, (B,), as its second argument.
        conditioned: Whether the task enters at this step.
    """

    run: Callable[..., Any]
    conditioned: bool


class PassResult(NamedTuple):
    """What the last step returns.

    Attributes:
        logits: (B, R, *spatial), or a list of such tensors if every sample has one task.
        features: Features from which answers are computed; None if no answer is read.
        regression: Values per voxel by the name of the task, (B, 1, *spatial); None if the network predicts none.
    """

    logits: Any
    features: Any = None
    regression: Any = None


class Answer(NamedTuple):
    """A value that is read from a pass beside its logits.

    Attributes:
        read: Function that computes the value from the result of a pass.
        task: Index of the task in whose pass the value is read; -1 if the value is the same in every pass.
    """

    read: Callable[[PassResult], Any]
    task: int


class TaskPasses(nn.Module):
    """Runs steps for one task per sample, or for all selected tasks with the task-free prefix shared.

    Tasks run one after the other and are not stacked into the batch. All tasks therefore need the memory of one task
    plus that of the result.

    Args:
        task_of_region: For every one of the R regions the index of the task that owns the region. Every index from 0 to
            K-1 occurs.

    Attributes:
        selected: Indices of the tasks that run if `forward` is given no task, ascending. At first all tasks.
    """

    region_order: Tensor

    def __init__(self, task_of_region: Sequence[int]) -> None:
        super().__init__()
        owners = torch.tensor(task_of_region, dtype=torch.long, device="cpu")
        # Regions sorted by task: those of task k are the entries from bounds[k] to bounds[k + 1].
        self.register_buffer("region_order", torch.sort(owners, stable=True).indices, persistent=False)
        self.bounds: list[int] = [0, *torch.bincount(owners).cumsum(0).tolist()]
        self.selected = list(range(self.num_tasks))

    @property
    def num_tasks(self) -> int:
        """Number of tasks, K."""
        return len(self.bounds) - 1

    def select(self, tasks: Sequence[int]) -> None:
        """Choose the tasks that run if `forward` is given no task.

        Args:
            tasks: One or more task indices, in any order.

        Raises:
            ValueError: If `tasks` is empty, or holds a number that is not the index of a task.
        """
        if not tasks or not set(tasks) <= set(range(self.num_tasks)):
            raise ValueError(f"expected one or more task indices between 0 and {self.num_tasks - 1}, got {list(tasks)}")
        self.selected = sorted(set(tasks))

    def forward(
        self,
        steps: Sequence[Step],
        image: Tensor,
        task: Tensor | None = None,
        answers: Mapping[str, Answer] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Run the steps and read the answers.

        Args:
            steps: The steps of the network in order; the last step returns a `PassResult`.
            image: (B, C, *spatial).
            task: Task index of every sample, (B,) long; the samples may have different tasks. None runs all selected
                tasks.
            answers: The answers to read, by name.

        Returns:
            The logits and the answers by name. If `task` is given, both come from one pass. If not, the logits are a
            new contiguous tensor (B, R, *spatial): the channel of a region comes from the pass of the task that owns
            the region, and is `OFF` if that task is not selected. Answers of tasks that are not selected are left out.
        """
        answers = answers or {}
        if task is not None:
            result = _run(steps, image, task)
            return result.logits, {name: answer.read(result) for name, answer in answers.items()}
        shared = list(takewhile(lambda step: not step.conditioned, steps))
        state = _run(shared, image, None)
        if len(shared) == len(steps):
            wanted = (-1, *self.selected)
            read = {name: answer.read(state) for name, answer in answers.items() if answer.task in wanted}
            return self._only_selected(state.logits.contiguous()), read
        return self._assemble(steps[len(shared) :], state, image, answers)

    def _assemble(
        self, steps: Sequence[Step], state: Any, image: Tensor, answers: Mapping[str, Answer]
    ) -> tuple[Tensor, dict[str, Any]]:
        logits: Tensor | None = None
        read: dict[str, Any] = {}
        for index in self.selected:
            # Answers that do not depend on the task are the same in every pass, so the first pass gives them.
            wanted = (index, -1) if logits is None else (index,)
            task = torch.full((image.shape[0],), index, dtype=torch.long, device=image.device)
            task_logits, answered = _read(steps, state, task, {n: a for n, a in answers.items() if a.task in wanted})
            if logits is None:
                logits = torch.full_like(task_logits, OFF, memory_format=torch.contiguous_format)
            regions = self._regions(index)
            logits.index_copy_(1, regions, task_logits.index_select(1, regions))
            read |= answered
        assert logits is not None  # at least one task is selected
        return logits, {name: read[name] for name in answers if name in read}

    def _only_selected(self, logits: Tensor) -> Tensor:
        for index in range(self.num_tasks):
            if index not in self.selected:
                logits = logits.index_fill(1, self._regions(index), OFF)
        return logits

    def _regions(self, task: int) -> Tensor:
        return self.region_order[self.bounds[task] : self.bounds[task + 1]]


def _run(steps: Sequence[Step], state: Any, task: Tensor | None) -> Any:
    for step in steps:
        state = step.run(state, task) if step.conditioned else step.run(state)
    return state


def _read(steps: Sequence[Step], state: Any, task: Tensor, answers: Mapping[str, Answer]) -> tuple[Tensor, Any]:
    """Return logits and answers of one pass. As a function, so that the features are freed before the next pass."""
    result = _run(steps, state, task)
    return result.logits, {name: answer.read(result) for name, answer in answers.items()}
