"""Looks up by case identifier which regions are annotated, and draws the task for which a sample is trained."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from nnunet_mtl.tasks import TaskSet


class CaseAnnotations:
    """Looks up the annotated regions of the cases of a batch, and draws a task for every sample.

    The repr names no case, because nnU-Net writes the repr of every attribute of a trainer into `debug.json`.

    Args:
        tasks: The task set with its case table; kept as the attribute `tasks`.
        seed: Seed for drawing tasks, different on every rank; None for a random seed.
        label_share: How often an annotated case trains an un-annotated task for a class label, 0 to 1. Such a sample
            teaches no segmentation.
    """

    def __init__(self, tasks: TaskSet, seed: int | None = None, *, label_share: float = 0.1) -> None:
        self.tasks = tasks
        self._label_share = label_share
        self._random = np.random.default_rng(seed)
        n_tasks = len(tasks.tasks)
        self._regions_of_task = torch.arange(n_tasks)[:, None] == torch.tensor(tasks.task_of_region)  # (K, R)
        self._task_of_question = {
            question.name: tasks.task_of_region[tasks.regions.index(question.evidence)]
            for question in tasks.classification
            if question.evidence is not None
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.tasks.cases)} cases)"

    def annotated(self, keys: Iterable[str]) -> Tensor:
        """Return the annotated regions of every sample, (B, R) bool, on the CPU."""
        return torch.tensor([self.tasks.annotated(str(key)) for key in keys], dtype=torch.bool)

    def label_tasks(self, key: str) -> tuple[int, ...]:
        """Return the indices, ascending, of the tasks that own the evidence of a question the case has a label for."""
        if not self._task_of_question:
            return ()
        answered = self.tasks.cases[key].classes
        return tuple(sorted({task for question, task in self._task_of_question.items() if question in answered}))

    def draw_tasks(self, keys: Sequence[str], target: Tensor) -> Tensor:
        """Draw a task for every sample: an annotated task, or a task in `label_tasks` of its case.

        If the patch holds foreground of annotated tasks, only these annotated tasks can be drawn. An un-annotated task
        is drawn with probability `label_share`, and always if no task of the case is annotated.

        Args:
            keys: Case identifiers of the batch, B of them.
            target: Region targets, (B, R or more, *spatial) bool; channels of un-annotated regions are not read.

        Returns:
            Task indices, (B,) long, on the CPU; 0 for a sample without annotation and label, whose loss is masked.
        """
        return torch.tensor([self._draw(str(key), sample) for key, sample in zip(keys, target, strict=True)])

    def _draw(self, key: str, sample: Tensor) -> int:
        annotated = self.tasks.annotated_tasks(key)
        unknown = tuple(task for task in self.label_tasks(key) if task not in annotated)
        if unknown and (not annotated or self._random.random() < self._label_share):
            candidates = unknown
        elif len(annotated) > 1:
            present = self._tasks_in(key, sample)
            candidates = tuple(task for task in annotated if task in present) or annotated
        else:
            candidates = annotated
        return int(candidates[self._random.integers(len(candidates))]) if candidates else 0

    def _tasks_in(self, key: str, sample: Tensor) -> set[int]:
        """Return the tasks with foreground of an annotated region in a patch, (R or more, *spatial)."""
        regions = zip(self.tasks.task_of_region, self.tasks.annotated(key), strict=True)
        return {task for region, (task, known) in enumerate(regions) if known and bool(sample[region].any())}

    def restrict(self, annotated: Tensor, task: Tensor) -> Tensor:
        """Return the mask without regions of other tasks than the sample's, from (B, R) and (B,) to (B, R)."""
        return annotated & self._regions_of_task[task]
