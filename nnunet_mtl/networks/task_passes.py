"""How many passes a patch costs: what does not depend on the task runs once, the rest once per task.

A network is an ordered list of steps. Each says whether the task enters there, and that alone decides the cost of all
K tasks: one pass where it enters nowhere, K heads or K decoders on one encoder pass where it enters late, K whole
passes where it enters at the input. Answers are read off the passes: each once, from the pass of its own task.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

OFF = -100.0
"""Logit of the regions of tasks that were not selected: absent, and in the range of half precision when summed."""


class Step(NamedTuple):
    """One part of a network.

    Attributes:
        run: Called with the previous step's result (the image at first) and, if `conditioned`, with the task index
            (B,) as second argument. A step that is not conditioned is never shown the task.
        conditioned: Whether the task enters here.
    """

    run: Callable[..., Any]
    conditioned: bool


class PassResult(NamedTuple):
    """What the last step returns.

    Attributes:
        logits: (B, R, *spatial); for one task per sample also a list of them.
        features: What answers are read from; None if there are none to read.
        regression: Values per voxel by task, each (B, 1, *spatial); None of networks that predict none.
    """

    logits: Any
    features: Any = None
    regression: Any = None


class Answer(NamedTuple):
    """Something read off a pass beside its logits.

    Attributes:
        read: Called with the pass's result.
        task: Index of the task whose pass it is read from; -1 if it reads nothing that depends on the task.
    """

    read: Callable[[PassResult], Any]
    task: int


class TaskPasses(nn.Module):
    """Runs steps for one task per sample, or for all selected tasks with the task-free prefix shared.

    Tasks are looped over, not stacked into the batch: the peak memory of all tasks is that of one, plus the result.

    Args:
        task_of_region: Index of the task that owns each of the R regions, 0 to K-1, each at least once.

    Attributes:
        selected: Indices of the tasks that are run where no task is given, ascending; all of them at first.
    """

    region_order: Tensor

    def __init__(self, task_of_region: Sequence[int]) -> None:
        super().__init__()
        owners = torch.tensor(task_of_region, dtype=torch.long, device="cpu")
        # Regions sorted by owner: task k owns the entries between its bound and the next.
        self.register_buffer("region_order", torch.sort(owners, stable=True).indices, persistent=False)
        self.bounds: list[int] = [0, *torch.bincount(owners).cumsum(0).tolist()]
        self.selected = list(range(self.num_tasks))

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.bounds) - 1

    def select(self, tasks: Sequence[int]) -> None:
        """Choose the tasks that are run where no task is given.

        Args:
            tasks: Indices, at least one, in any order.

        Raises:
            ValueError: If there is none, or one is not an index of a task.
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
            steps: The network's parts in order; the last one returns a `PassResult`.
            image: (B, C, *spatial).
            task: Task index of each sample, (B,) long, tasks mixed freely; None for all selected tasks.
            answers: What to read, by name.

        Returns:
            Logits and answers. With `task` both are those of the one pass. Else the logits are a fresh contiguous
            tensor (B, R, *spatial) in which every region's channel is that of its own task's pass, or `OFF` if that
            task is not selected; and every answer is read once, in its own task's pass, but left out if that task is
            not selected.
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
            # What is free of the task is the same in every pass: the first one answers it.
            wanted = (index, -1) if logits is None else (index,)
            task = torch.full((image.shape[0],), index, dtype=torch.long, device=image.device)
            of_task, answered = _read(steps, state, task, {n: a for n, a in answers.items() if a.task in wanted})
            if logits is None:
                logits = torch.full_like(of_task, OFF, memory_format=torch.contiguous_format)
            regions = self._regions(index)
            logits.index_copy_(1, regions, of_task.index_select(1, regions))
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
    """Return logits and answers of one pass; its features are freed before the next pass begins."""
    result = _run(steps, state, task)
    return result.logits, {name: answer.read(result) for name, answer in answers.items()}
