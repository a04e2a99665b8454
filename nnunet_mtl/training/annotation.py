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
        seed: Of the task drawing; differs between ranks.
    """

    def __init__(self, tasks: TaskSet, seed: int | None = None) -> None:
        self.tasks = tasks
        self._random = np.random.default_rng(seed)
        n_tasks = len(tasks.tasks)
        self._regions_of_task = torch.arange(n_tasks)[:, None] == torch.tensor(tasks.task_of_region)  # (K, R)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.tasks.cases)} cases)"

    def annotated(self, keys: Iterable[str]) -> Tensor:
        """Which regions are annotated in which sample, (B, R) bool, on the CPU."""
        return torch.tensor([self.tasks.annotated(str(key)) for key in keys], dtype=torch.bool)

    def draw_tasks(self, keys: Sequence[str], target: Tensor) -> Tensor:
        """Draw one annotated task for each sample, preferring tasks with foreground in the patch.

        Args:
            keys: Case identifiers of the batch, B of them.
            target: Region targets, (B, R or more, *spatial), bool; channels of un-annotated regions are not read.

        Returns:
            Task index, (B,), long, on the CPU; 0 for a sample with nothing annotated, whose loss is masked anyway.
        """
        return torch.tensor([self._draw(str(key), sample) for key, sample in zip(keys, target, strict=True)])

    def _draw(self, key: str, sample: Tensor) -> int:
        candidates = self.tasks.annotated_tasks(key)
        if not candidates:
            return 0
        if len(candidates) > 1:
            annotated = self.tasks.annotated(key)
            present = {
                task
                for region, task in enumerate(self.tasks.task_of_region)
                if annotated[region] and bool(sample[region].any())
            }
            candidates = tuple(task for task in candidates if task in present) or candidates
        return int(candidates[self._random.integers(len(candidates))])

    def restrict(self, annotated: Tensor, task: Tensor) -> Tensor:
        """Leave only the regions of each sample's own task, (B, R) and (B,) -> (B, R)."""
        return annotated & self._regions_of_task[task]
