"""The course of nested tasks: a pool of patches for every task, and a curriculum from coarse to fine."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.course import Course
from nnunet_mtl.training.omnet.curriculum import AllAtOnce, Curriculum
from nnunet_mtl.training.omnet.nested_tasks import nested_tasks, notes, parents
from nnunet_mtl.training.omnet.patch_pools import KEY, PoolLoader
from nnunet_mtl.training.omnet.transfer import Transfer
from nnunet_mtl.training.step_numbers import gathered

ACTIVE, DRAWN, MOVED_PATCHES, MOVED_VOXELS = "active", "drawn", "moved_patches", "moved_voxels"


class NestedCourse(Course):
    """Teaches tasks that lie inside each other in one pass, as OM-Net is trained; see `docs/methods/om_net.md`.

    The course makes nested tasks (`nested_tasks`) from the block, or from regions inside regions. Every nested task has
    a term of the loss; network, plans and prediction keep the tasks of `dataset.json`. If no task is nested, every
    patch teaches every task, as in other trainers. Validation patches are nnU-Net's own, with all annotated regions.
    """

    def __init__(self, cases: TaskSet, settings: Settings) -> None:
        super().__init__(nested_tasks(cases), settings)
        self._settings = settings
        self._notes = notes(cases)
        self._tasks = self.cases.tasks
        self._transfer = Transfer(self.cases, settings.transfer_thresholds if settings.transfer else ())
        self._curriculum = _curriculum(settings, self._transfer.levels)
        # in shared memory, so that the worker processes that load data see when a pool opens
        self._open = torch.ones(len(self._transfer.pools), dtype=torch.uint8)
        self._open.share_memory_()  # type: ignore[no-untyped-call]
        self._counts = self._no_counts()

    def describe(self) -> Iterable[str]:
        """Yield lines for the log: the nested tasks, and the epochs in which tasks begin."""
        yield from self._notes
        transfer = f"at {self._settings.transfer_threshold} of a patch" if self._settings.transfer else "off"
        begins = zip(self._tasks, self._curriculum.begins, strict=True)
        yield (
            f"head {self._settings.nested_head}, transfer {transfer}; tasks begin in epoch "
            f"{', '.join(f'{epoch} ({task.name})' for task, epoch in begins)}"
        )

    # ---- data

    def patch_loader(self, *args: Any, training: bool, **kwargs: Any) -> Any:
        """Return a loader that draws from pools for training, and the default loader for validation."""
        if not training:
            return super().patch_loader(*args, training=training, **kwargs)
        labels = self.cases.region_labels
        owners = self.cases.task_of_region
        pools = {
            pool: (
                [values for values, owner in zip(labels, owners, strict=True) if owner == pool],
                [values for values, owner in zip(labels, owners, strict=True) if self._transfer.parents[owner] == pool],
            )
            for pool in self._transfer.pools
        }
        return PoolLoader(*args, pools=pools, active=self._open, **kwargs)

    # ---- an epoch

    def begin_epoch(self, epoch: int) -> None:
        """Open the pools of the tasks that have begun, and reset the counts of the epoch."""
        weights = self._curriculum.weights(epoch)
        for index, pool in enumerate(self._transfer.pools):
            parent_of = zip(self._transfer.parents, weights, strict=True)
            self._open[index] = any(weight > 0 for parent, weight in parent_of if parent == pool)
        self._counts = self._no_counts()

    def end_epoch(self, epoch: int) -> tuple[dict[str, float], str]:
        """Return the numbers of patches drawn from pools and moved between pools, and the weights of the tasks."""
        counts = {key: values.sum(0) for key, values in gathered([self._counts]).items()}
        weights = self._curriculum.weights(epoch)
        values = {
            **{_key(DRAWN, pool): number for pool, number in zip(self._pool_names, counts[DRAWN], strict=True)},
            **self._of_tasks(MOVED_PATCHES, counts[MOVED_PATCHES]),
            **self._of_tasks(MOVED_VOXELS, counts[MOVED_VOXELS]),
            **self._of_tasks(ACTIVE, weights),
        }
        line = self._epoch_line(counts, weights) if len(self._transfer.pools) > 1 else ""
        return {key: float(value) for key, value in values.items()}, line

    @property
    def logged_keys(self) -> list[str]:
        """Keys of pools, moved patches and voxels, and weights."""
        keys = [_key(DRAWN, pool) for pool in self._pool_names]
        for what in (MOVED_PATCHES, MOVED_VOXELS, ACTIVE):
            keys += self._of_tasks(what, [0.0] * len(self._tasks))
        return keys

    def is_complete(self, epoch: int) -> bool:
        """Return whether every task has its full weight."""
        return min(self._curriculum.weights(epoch)) >= 1

    # ---- a step

    def teaching(self, annotated: Tensor, target: Tensor, batch: Mapping[str, Any], epoch: int) -> Tensor:
        """Return the regions that the loss may read, (B, R) bool: those of tasks that a sample teaches by `Transfer`.

        A batch without pools, as in validation, teaches all its annotated regions.
        """
        if KEY not in batch:
            return annotated
        taught = self._transfer(batch[KEY].tolist(), target, annotated)
        read = annotated & self._transfer.regions(taught.tasks)
        moved = taught.moved & (torch.tensor(self._curriculum.weights(epoch)) > 0)
        self._counts[MOVED_PATCHES] += moved.sum(0).numpy()
        self._counts[MOVED_VOXELS] += (taught.voxels * moved).sum(0).numpy()
        self._counts[DRAWN] += np.array([np.count_nonzero(batch[KEY] == pool) for pool in self._transfer.pools])
        return read

    def term_weights(self, epoch: int) -> Mapping[str, float]:
        """Return the weights of the curriculum in an epoch by the name of the task's term."""
        weights = self._curriculum.weights(epoch)
        return {f"segmentation/{task.name}": weight for task, weight in zip(self._tasks, weights, strict=True)}

    def resting_parameters(self, network: Any, epoch: int) -> Iterable[nn.Parameter]:
        """Return the heads of tasks that have not begun, because weight decay would shrink these heads meanwhile."""
        rest = [task for task, weight in enumerate(self._curriculum.weights(epoch)) if weight == 0]
        layers = network.decoder.seg_layers
        return [parameter for layer in layers for task in rest for parameter in layer.tasks[task].parameters()]

    # ---- what is logged

    def _epoch_line(self, counts: Mapping[str, Any], weights: Sequence[float]) -> str:
        active = [f"{task.name} {weight:g}" for task, weight in zip(self._tasks, weights, strict=True) if weight]
        drawn = [f"{number:.0f} {pool}" for pool, number in zip(self._pool_names, counts[DRAWN], strict=True)]
        moved = [
            f"{task.name} {patches:.0f} patches with {voxels:.0f} voxels of {task.parent}"
            for task, patches, voxels in zip(self._tasks, counts[MOVED_PATCHES], counts[MOVED_VOXELS], strict=True)
            if task.parent is not None
        ]
        return f"Active tasks: {', '.join(active)}; drawn: {', '.join(drawn)}; moved to: {', '.join(moved)}"

    @property
    def _pool_names(self) -> list[str]:
        return ["anywhere" if pool < 0 else f"in {self._tasks[pool].name}" for pool in self._transfer.pools]

    def _of_tasks(self, what: str, values: Sequence[float]) -> dict[str, float]:
        """Return values by their key of the log, for tasks with a parent; values of other tasks never change."""
        pairs = zip(self._tasks, values, strict=True)
        return {_key(what, task.name): value for task, value in pairs if task.parent is not None}

    def _no_counts(self) -> dict[str, Any]:
        n_tasks = len(self._transfer.parents)
        return {
            DRAWN: np.zeros(len(self._transfer.pools)),
            MOVED_PATCHES: np.zeros(n_tasks),
            MOVED_VOXELS: np.zeros(n_tasks),
        }


def nested_head_options(tasks: TaskSet, settings: Settings) -> dict[str, Any]:
    """Return the arguments of `NestedHead` that describe the nested tasks and their guidance, JSON-able."""
    nested = nested_tasks(tasks)
    return {
        "task_of_region": list(nested.task_of_region),
        "parent_of_task": list(parents(nested)),
        "guidance": settings.nested_head,
    }


def _curriculum(settings: Settings, levels: Sequence[int]) -> Curriculum:
    if not settings.curriculum:
        return AllAtOnce(len(levels))
    return Curriculum(
        levels,
        settings.epochs,
        start=settings.curriculum_start,
        end=settings.curriculum_end,
        ramp=settings.curriculum_ramp,
    )


def _key(what: str, name: str) -> str:
    return f"nested/{what}/{name}"
