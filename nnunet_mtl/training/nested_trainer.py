"""The trainer of nested tasks: a patch pool and a head for each, begun one after the other, from coarse to fine."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training import progress
from nnunet_mtl.training.case_annotations import CaseAnnotations
from nnunet_mtl.training.curriculum import AllAtOnce, Curriculum
from nnunet_mtl.training.multitask_trainer import MultiTaskTrainer
from nnunet_mtl.training.nested_tasks import nested_tasks, notes, parents
from nnunet_mtl.training.patch_pools import KEY, PoolLoader
from nnunet_mtl.training.scheduled_trainer import settings_in
from nnunet_mtl.training.transfer import Transfer

ACTIVE, DRAWN, MOVED_PATCHES, MOVED_VOXELS = "active", "drawn", "moved_patches", "moved_voxels"


class NestedTrainer(MultiTaskTrainer):
    """Learns tasks that lie inside each other in one pass, as OM-Net is trained; see `docs/methods/om_net.md`.

    From the block, or from regions inside regions, it makes the nested tasks (`nested_tasks`), which have a term of the
    loss each; the network, the plans and prediction know the tasks of `dataset.json`. Where nothing is nested, every
    task is learnt from every patch, as by other trainers. Validation patches are nnU-Net's own, and all annotated
    regions count in them.
    """

    defaults: ClassVar = {"head": "own"}
    heads: ClassVar = {"own": "nnunet_mtl.networks.omnet.nested_head.NestedHead"}
    task_losses = True

    def _prepare_plans(self, plans: dict[str, Any], configuration: str) -> None:
        """Prepare the plans with the tasks of `dataset.json`; what is trained from here on are the nested ones."""
        super()._prepare_plans(plans, configuration)
        settings = settings_in(plans, self.defaults)
        self._notes = notes(self.tasks)
        self.tasks = nested_tasks(self.tasks)
        self.cases = CaseAnnotations(nested_tasks(self.cases.tasks), label_share=settings.class_draws)
        self._transfer = Transfer(self.tasks, settings.transfer_thresholds if settings.transfer else ())
        self._curriculum = _curriculum(settings, self._transfer.levels)
        # in shared memory: the processes that load data see when a pool opens
        self._open = torch.ones(len(self._transfer.pools), dtype=torch.uint8)
        self._open.share_memory_()  # type: ignore[no-untyped-call]
        self._counts = self._no_counts()

    @classmethod
    def head_options(cls, settings: Settings, tasks: TaskSet) -> dict[str, Any]:
        """Return the nested tasks and how the head of a task inside another one is guided."""
        nested = nested_tasks(tasks)
        return {
            "task_of_region": list(nested.task_of_region),
            "parent_of_task": list(parents(nested)),
            "guidance": settings.nested_head,
        }

    def initialize(self) -> None:
        """Build what nnU-Net builds, and say what is nested and when each task begins."""
        super().initialize()
        begins = zip(self.tasks.tasks, self._curriculum.begins, strict=True)
        self.print_to_log_file("\n".join(f"nnunet_mtl: {line}" for line in self._notes))
        self.print_to_log_file(
            f"nnunet_mtl: head {self.settings.nested_head}, transfer "
            f"{f'at {self.settings.transfer_threshold} of a patch' if self.settings.transfer else 'off'}; tasks begin "
            f"in epoch {', '.join(f'{epoch} ({task.name})' for task, epoch in begins)}"
        )

    # ---- data

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return nnU-Net's data sets, and remember which one is trained on: it alone is drawn from pools."""
        datasets: tuple[Any, Any] = super().get_tr_and_val_datasets()
        self._trained_on = datasets[0]
        return datasets

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders, the pools of this epoch's tasks open."""
        self._open_pools()
        loaders: tuple[Any, Any] = super().get_dataloaders()
        return loaders

    def patch_loader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Return a loader that draws from pools, for the training cases."""
        if dataset is not self._trained_on:
            return super().patch_loader(dataset, *args, **kwargs)
        labels = self.tasks.region_labels
        owners = self.tasks.task_of_region
        pools = {
            pool: (
                [values for values, owner in zip(labels, owners, strict=True) if owner == pool],
                [values for values, owner in zip(labels, owners, strict=True) if self._transfer.parents[owner] == pool],
            )
            for pool in self._transfer.pools
        }
        return PoolLoader(*args, pools=pools, active=self._open, **kwargs)

    def _open_pools(self) -> None:
        """Draw from the pools of the tasks that have begun."""
        weights = self._curriculum.weights(self.current_epoch)
        for index, pool in enumerate(self._transfer.pools):
            parent_of = zip(self._transfer.parents, weights, strict=True)
            self._open[index] = any(weight > 0 for parent, weight in parent_of if parent == pool)

    # ---- a step

    def term_weights(self) -> Mapping[str, float]:
        """Return the weight of every task's term in this epoch of the curriculum."""
        weights = self._curriculum.weights(self.current_epoch)
        return {f"segmentation/{task.name}": weight for task, weight in zip(self.tasks.tasks, weights, strict=True)}

    def resting_parameters(self) -> Iterable[nn.Parameter]:
        """Return the heads of tasks that have not begun: over thousands of steps weight decay would shrink them."""
        rest = [task for task, weight in enumerate(self._curriculum.weights(self.current_epoch)) if weight == 0]
        layers = self.bare_network.decoder.seg_layers
        return [parameter for layer in layers for task in rest for parameter in layer.tasks[task].parameters()]

    def teaching(self, annotated: Tensor, task: Tensor, target: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return which regions the loss may read: those of the tasks a sample's pool, or what it shows, teaches.

        A batch that says nothing of pools teaches all that is annotated in it.
        """
        annotated = super().teaching(annotated, task, target, batch)
        if KEY not in batch:
            return annotated
        taught = self._transfer(batch[KEY].tolist(), target, annotated)
        read = annotated & self._transfer.regions(taught.tasks)
        moved = taught.moved & (torch.tensor(self._curriculum.weights(self.current_epoch)) > 0)
        self._counts[MOVED_PATCHES] += moved.sum(0).numpy()
        self._counts[MOVED_VOXELS] += (taught.voxels * moved).sum(0).numpy()
        self._counts[DRAWN] += np.array([np.count_nonzero(batch[KEY] == pool) for pool in self._transfer.pools])
        return read

    # ---- an epoch

    def on_train_epoch_start(self) -> None:
        """Begin the epoch as nnU-Net does, with the pools of its tasks open."""
        super().on_train_epoch_start()
        self._open_pools()
        self._counts = self._no_counts()

    def on_epoch_end(self) -> None:
        """Log how many patches came from each pool, what moved between pools, and the weights of the tasks."""
        counts = {key: values.sum(0) for key, values in self._gathered([self._counts]).items()}
        weights = self._curriculum.weights(self.current_epoch)
        values = {
            **{_key(DRAWN, pool): number for pool, number in zip(self._pool_names, counts[DRAWN], strict=True)},
            **self._of_tasks(MOVED_PATCHES, counts[MOVED_PATCHES]),
            **self._of_tasks(MOVED_VOXELS, counts[MOVED_VOXELS]),
            **self._of_tasks(ACTIVE, weights),
        }
        for key, value in values.items():
            self.logger.log(key, float(value), self.current_epoch)
        if len(self._transfer.pools) > 1:
            self.print_to_log_file(self._epoch_line(counts, weights))
        super().on_epoch_end()

    def selection_score(self) -> float:
        """Return what the best checkpoint has most of; one of before every task had its full weight loses to any later.

        Dice and answers are between 0 and 1.
        """
        unfinished = min(self._curriculum.weights(self.current_epoch)) < 1
        return super().selection_score() - float(unfinished)

    def _epoch_line(self, counts: Mapping[str, Any], weights: Sequence[float]) -> str:
        active = [f"{task.name} {weight:g}" for task, weight in zip(self.tasks.tasks, weights, strict=True) if weight]
        drawn = [f"{number:.0f} {pool}" for pool, number in zip(self._pool_names, counts[DRAWN], strict=True)]
        moved = [
            f"{task.name} {patches:.0f} patches with {voxels:.0f} voxels of {task.parent}"
            for task, patches, voxels in zip(self.tasks.tasks, counts[MOVED_PATCHES], counts[MOVED_VOXELS], strict=True)
            if task.parent is not None
        ]
        return f"Active tasks: {', '.join(active)}; drawn: {', '.join(drawn)}; moved to: {', '.join(moved)}"

    @property
    def _pool_names(self) -> list[str]:
        return ["anywhere" if pool < 0 else f"in {self.tasks.tasks[pool].name}" for pool in self._transfer.pools]

    def _of_tasks(self, what: str, values: Sequence[float]) -> dict[str, float]:
        """Name values of all tasks as they are logged; of those in a parent, for the others are the same always."""
        pairs = zip(self.tasks.tasks, values, strict=True)
        return {_key(what, task.name): value for task, value in pairs if task.parent is not None}

    def _no_counts(self) -> dict[str, Any]:
        n_tasks = len(self._transfer.parents)
        return {
            DRAWN: np.zeros(len(self._transfer.pools)),
            MOVED_PATCHES: np.zeros(n_tasks),
            MOVED_VOXELS: np.zeros(n_tasks),
        }

    def _pad_log(self, n_epochs: int) -> None:
        super()._pad_log(n_epochs)
        nobody = [0.0] * len(self.tasks.tasks)
        keys = [_key(DRAWN, pool) for pool in self._pool_names]
        for what in (MOVED_PATCHES, MOVED_VOXELS, ACTIVE):
            keys += self._of_tasks(what, nobody)
        progress.pad_log(self.logger.local_logger.my_fantastic_logging, keys, n_epochs)


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
