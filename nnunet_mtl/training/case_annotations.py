"""From the case identifiers of a batch to what the loss may read, and to the task each sample is trained for."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from nnunet_mtl.tasks import TaskSet


class CaseAnnotations:
    """Looks up what is annotated in the cases of a batch.

    Its textual form names no case: nnU-Net writes the text of every attribute of a trainer into `debug.json`.

    Args:
        tasks: The task set with its case table; kept as the attribute `tasks`.
        seed: Seed of the drawing of tasks, other on every rank; None for a new one.
        label_share: Share of the samples of a case in which something is annotated that are drawn for a class label
            about a task that is not annotated: such a sample teaches no segmentation.
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
        """Which regions are annotated in which sample, (B, R) bool, on the CPU."""
        return torch.tensor([self.tasks.annotated(str(key)) for key in keys], dtype=torch.bool)

    def label_tasks(self, key: str) -> tuple[int, ...]:
        """Return the indices of the tasks whose regions a case has a class label about, ascending."""
        if not self._task_of_question:
            return ()
        answered = self.tasks.cases[key].classes
        return tuple(sorted({task for question, task in self._task_of_question.items() if question in answered}))

    def draw_tasks(self, keys: Sequence[str], target: Tensor) -> Tensor:
        """Draw one task for each sample: one that is annotated, or that a class label of its case is about.

        Where the patch holds foreground of some annotated tasks, the other annotated ones are not drawn. A task that is
        not annotated is drawn for its label in `label_share` of the samples, and always where nothing is annotated.

        Args:
            keys: Case identifiers of the batch, B of them.
            target: Region targets, (B, R or more, *spatial), bool; channels of un-annotated regions are not read.

        Returns:
            Task index, (B,), long, on the CPU; 0 for a sample with nothing known, whose loss is masked anyway.
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
        """Which tasks have foreground of an annotated region in a patch, (R or more, *spatial)."""
        regions = zip(self.tasks.task_of_region, self.tasks.annotated(key), strict=True)
        return {task for region, (task, known) in enumerate(regions) if known and bool(sample[region].any())}

    def restrict(self, annotated: Tensor, task: Tensor) -> Tensor:
        """Leave only the regions of each sample's own task, (B, R) and (B,) -> (B, R)."""
        return annotated & self._regions_of_task[task]
