"""Which samples teach which nested task: those of its own pool, and others that show enough of what is around it.

After the online training-data transfer of OM-Net (Zhou et al., IEEE TIP 2020), and its released code, re-implemented
from what it does.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.omnet.nested_tasks import ancestors, parents

OUTERMOST = -1
"""The pool of the tasks that lie in no other: nnU-Net's own drawing."""


class Taught(NamedTuple):
    """Which samples of a batch teach which of K tasks.

    Attributes:
        tasks: (B, K) bool.
        moved: Which of them come from another task's pool and are annotated for this one, (B, K) bool.
        voxels: Foreground of the task's parent in the sample, (B, K) long; 0 for a task without one.
    """

    tasks: Tensor
    moved: Tensor
    voxels: Tensor


class Transfer:
    """Decides for every sample and task whether the one teaches the other.

    A pool is known by the task in whose foreground its patches are centred: the pool of a task is its parent's number,
    `OUTERMOST` without a parent. Tasks in the same parent share a pool, and so do the outermost ones. A sample teaches
    the tasks of its pool; with the transfer also each task inside these, at any depth, of whose parent it shows enough
    foreground: so a sample of the outermost pool may teach all tasks of a chain, one of the innermost teaches that
    task alone.

    Enough is a share of the patch's voxels, rounded down to whole voxels as in the released code, and at least one.

    Args:
        tasks: The nested tasks.
        thresholds: For tasks of one, two and more levels inside, the last one for all deeper ones; none: no transfer.
    """

    def __init__(self, tasks: TaskSet, thresholds: Sequence[Fraction]) -> None:
        self.parents = parents(tasks)
        owners = tasks.task_of_region
        n_tasks = len(self.parents)
        self._regions_of_task = [[region for region, owner in enumerate(owners) if owner == t] for t in range(n_tasks)]
        self._owners = torch.tensor(owners)
        lines = [ancestors(self.parents, task) for task in range(n_tasks)]
        self.levels = [len(line) for line in lines]
        # the pools of a task's ancestors are those of every other task on its line
        self._outer_pools = [{self.parents[task] for task in line} if thresholds else set() for line in lines]
        self._threshold = [thresholds[min(level, len(thresholds)) - 1] if thresholds else None for level in self.levels]

    @property
    def pools(self) -> tuple[int, ...]:
        """All pools, the outermost first."""
        return tuple(sorted(set(self.parents)))

    def least(self, task: int, n_voxels: int) -> int:
        """Return how many voxels of its parent's foreground a patch must hold to teach a task from another pool."""
        share = self._threshold[task]
        return n_voxels + 1 if share is None else max(1, int(share * n_voxels))

    def __call__(self, pool: Sequence[int], target: Tensor, annotated: Tensor) -> Taught:
        """Decide for a batch.

        Args:
            pool: The pool each sample was drawn from, B of them.
            target: Region targets at full resolution, (B, R or more, *spatial), bool; channels of regions that are not
                annotated are not read.
            annotated: (B, R) bool.
        """
        from_pool, moved = torch.zeros(2, len(pool), len(self.parents), dtype=torch.bool)
        voxels = torch.zeros(moved.shape, dtype=torch.long)
        n_voxels = target[0, 0].numel()
        for sample, (number, channels) in enumerate(zip(pool, target, strict=True)):
            for task, parent in enumerate(self.parents):
                from_pool[sample, task] = parent == number
                if parent < 0:
                    continue
                known = [region for region in self._regions_of_task[parent] if annotated[sample, region]]
                voxels[sample, task] = channels[known].any(0).sum()
                enough = bool(voxels[sample, task] >= self.least(task, n_voxels))
                is_annotated = bool(annotated[sample, self._regions_of_task[task]].any())
                moved[sample, task] = is_annotated and enough and number in self._outer_pools[task]
        return Taught(from_pool | moved, moved, voxels)

    def regions(self, taught: Tensor) -> Tensor:
        """Return which regions samples teach, (B, R) bool, of the tasks, (B, K) bool."""
        return taught[:, self._owners]
