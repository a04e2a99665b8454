"""Voxel-wise regression in training: the targets of a batch, their loss, and the errors for the log.

The network predicts a target divided by the task's `scale`, so that the loss of a dose in Gy is of the size of the
other losses. The scale is the one in `dataset.json`, or else the standard deviation of the target over labelled voxels,
which nnU-Net's planning measures for every channel and writes into the plans.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_mtl.common.messages import listed
from nnunet_mtl.losses.regression import absolute_error, masked_l1_loss
from nnunet_mtl.tasks import RegressionTask, TaskSet, TaskSetError
from nnunet_mtl.training.target_channels import BesideImage, ImageDataset, ImageDatasets, TargetDataset

ERROR, VOXELS = "regression/error", "regression/voxels"
# A voxel is taught only if at least this share of its interpolated value comes from inside the case.
_WHOLE = 0.999


def term_of(task: str) -> str:
    """Return the name of a regression task's term of the loss."""
    return f"regression/{task}"


def mae_key(task: str) -> str:
    """Return the log's key of a task's mean absolute error over validation patches, in the unit of the target."""
    return f"regression/{task}/mae"


class VoxelTargets(NamedTuple):
    """The targets of a batch for the D regression tasks, in the order of the tasks.

    Attributes:
        target: Targets divided by the scale of their task, (B, D, *spatial) float32.
        inside: Voxels that count, (B, D, *spatial) bool; voxels with nnU-Net's ignore label never count.
        known: Samples that have the target, (B, D) bool, on the CPU.
        present: Whether the batch has a voxel that counts, by task, (D,).
    """

    target: Tensor
    inside: Tensor
    known: Tensor
    present: tuple[bool, ...]

    def to(self, device: torch.device) -> "VoxelTargets":
        """Return a copy with `target` and `inside` on a device; `known` stays on the CPU."""
        target, inside = (tensor.to(device, non_blocking=True) for tensor in self[:2])
        return VoxelTargets(target, inside, *self[2:])


def with_scales(tasks: TaskSet, plans: Mapping[str, Any]) -> TaskSet:
    """Return the task set with a scale for every regression task, from the plans where `dataset.json` has none.

    Raises:
        TaskSetError: If the plans hold no positive standard deviation for a target.
    """
    return replace(tasks, regressions=tuple(_with_scale(task, plans, tasks.source) for task in tasks.regressions))


def _with_scale(task: RegressionTask, plans: Mapping[str, Any], source: str) -> RegressionTask:
    if task.scale is not None:
        return task
    measured = plans.get("foreground_intensity_properties_per_channel", {}).get(str(task.channel))
    place = f"{source}: nnunet_mtl.tasks.{task.name}"
    if measured is None:
        raise TaskSetError(f"{place}.channel: the plans do not know channel {task.channel}; plan and preprocess again")
    spread = float(measured["std"])
    if not (math.isfinite(spread) and spread > 0):
        raise TaskSetError(
            f'{place}: the target is the same in all labelled voxels of the plans; give "scale", a typical value of it'
        )
    return replace(task, scale=spread)


def without_regressions(tasks: TaskSet) -> TaskSet:
    """Return the task set without regression tasks, also without them in the `annotated` of its cases."""
    names = {task.name for task in tasks.regressions}
    cases = {
        name: replace(case, annotated=tuple(task for task in case.annotated if task not in names))
        for name, case in tasks.cases.items()
    }
    return replace(tasks, regressions=(), cases=cases) if names else tasks


def without_targets(dataset_json: Mapping[str, Any], regressions: Sequence[RegressionTask]) -> dict[str, Any]:
    """Return a copy of `dataset.json` without the channels of regression targets."""
    targets = {str(task.channel) for task in regressions}
    copy = dict(dataset_json)
    for key in ("channel_names", "modality"):
        if targets and key in copy:
            copy[key] = {number: name for number, name in copy[key].items() if number not in targets}
    return copy


class RegressionTraining:
    """Data, losses and errors of the regression tasks in training; without regression tasks nothing changes.

    The repr names no case, because nnU-Net writes the repr of every attribute of a trainer into `debug.json`.

    Args:
        cases: The task set with its case table; its regression tasks, all with a scale, are trained.
        stored: All regression tasks of the data set; the preprocessed files hold the targets of all of them.
    """

    def __init__(self, cases: TaskSet, stored: Sequence[RegressionTask]) -> None:
        self.tasks = cases.regressions
        self._cases, self._n_stored = cases, len(stored)
        self._stored = [task.name for task in stored]
        first = min((task.channel for task in stored), default=0)
        self._rows = [task.channel - first for task in self.tasks]
        self._scales = torch.tensor([task.scale or 1.0 for task in self.tasks])
        self._inside = [None if task.inside is None else cases.regions.index(task.inside) for task in self.tasks]
        # index of the channel in which nnU-Net puts the mask of its ignore label, behind the regions
        self._ignored = None if cases.ignore_label is None else len(cases.regions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[task.name for task in self.tasks]})"

    def describe(self, trainer: str) -> str:
        """Return a line for the log about the data set's regression tasks; empty if there are none."""
        if self.tasks:
            return "; ".join(
                f"{task.name} is learnt {f'inside {task.inside}' if task.inside else 'everywhere'}, "
                f"divided by {task.scale:.6g}"
                for task in self.tasks
            )
        if self._stored:
            return f"{trainer} predicts no value per voxel: {listed(self._stored)} is left out, and its channels too"
        return ""

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the terms that `losses` returns."""
        return tuple(term_of(task.name) for task in self.tasks)

    # ---- data

    def dataset_class(self, dataset_class: Any, n_images: int) -> Any:
        """Return nnU-Net's class of data sets or, if there are target channels, a replacement that hides them."""
        return ImageDatasets(dataset_class, n_images, self._n_stored) if self._n_stored else dataset_class

    def with_targets(self, dataset: Any, options: dict[str, Any]) -> Any:
        """Return the data set with target channels, and wrap the transforms in `options` so that they accept these."""
        if not self.tasks:
            return dataset
        if not isinstance(dataset, ImageDataset):
            raise TypeError(f"expected a data set of `dataset_class`, got {type(dataset).__name__}")
        options["transforms"] = BesideImage(options["transforms"], self._n_stored + 1)
        return TargetDataset(dataset)

    def split(self, keys: Sequence[str], data: Tensor, target: Tensor) -> tuple[Tensor, VoxelTargets | None]:
        """Split the channels of a batch into images and regression targets.

        Args:
            keys: Case identifiers, B of them.
            data: The loader's data, (B, C, *spatial), on the CPU.
            target: Region targets at full resolution, (B, R, *spatial) bool; with an ignore label (B, R + 1, *spatial),
                whose last channel is the mask of the ignore label.

        Returns:
            The images, and the targets (None without regression tasks).
        """
        if not self.tasks:
            return data, None
        n_last = self._n_stored + 1
        images, behind = data[:, :-n_last].contiguous(), data[:, -n_last:]
        scales = self._scales.view(-1, *(1,) * (data.ndim - 2))
        known = torch.tensor([self._cases.regressed(key) for key in keys])
        counted = behind[:, -1] >= _WHOLE
        if self._ignored is not None:
            counted = counted & ~target[:, self._ignored]
        inside = self._where(keys, target, counted)
        present = tuple(bool((inside[:, index] & _as_mask(rows, inside)).any()) for index, rows in enumerate(known.T))
        return images, VoxelTargets(behind[:, self._rows] / scales, inside, known, present)

    def _where(self, keys: Sequence[str], target: Tensor, counted: Tensor) -> Tensor:
        """Return the voxels that count, (B, D, *spatial).

        A task with `inside` counts in that region alone, except in a case where the region was not annotated.
        """
        annotated = [self._cases.annotated(key) for key in keys]
        columns = [
            torch.stack(
                [
                    voxels if region is None or not known[region] else voxels & sample[region]
                    for voxels, sample, known in zip(counted, target, annotated, strict=True)
                ]
            )
            for region in self._inside
        ]
        return torch.stack(columns, dim=1)

    # ---- a step

    def losses(self, values: Mapping[str, Tensor], batch: VoxelTargets | None) -> dict[str, Tensor]:
        """Return the losses of the tasks, scalars by the names of `loss_terms`.

        Args:
            values: Output of the network by task, divided by the scale, (B, 1, *spatial).
            batch: Targets on the device of the values; None without regression tasks.
        """
        return {term_of(name): masked_l1_loss(*arguments) for name, arguments in self._pairs(values, batch)}

    def present(self, batch: VoxelTargets | None) -> dict[str, bool]:
        """Return by the names of `loss_terms` whether a batch teaches each term."""
        return {} if batch is None else dict(zip(self.loss_terms, batch.present, strict=True))

    def numbers(self, values: Mapping[str, Tensor], batch: VoxelTargets | None) -> dict[str, NDArray[np.float64]]:
        """Return the sums of absolute errors, in the unit of the target, and the numbers of voxels, (D,) each.

        Without regression tasks the result is empty.
        """
        if batch is None:
            return {}
        errors = [absolute_error(*arguments) for _, arguments in self._pairs(values, batch)]
        total = np.array([float(error.total.sum()) for error in errors]) * self._scales.double().numpy()
        return {ERROR: total, VOXELS: np.array([float(error.voxels.sum()) for error in errors])}

    def mean_errors(self, collated: Mapping[str, Any]) -> dict[str, float]:
        """Return the mean absolute error of each task over the `numbers` of an epoch, (steps, D) each.

        The error of a task without any voxel is NaN.
        """
        if not self.tasks:
            return {}
        total, voxels = (np.asarray(collated[key]).sum(0) for key in (ERROR, VOXELS))
        means = np.divide(total, voxels, out=np.full(len(total), np.nan), where=voxels > 0)
        return {task.name: float(mean) for task, mean in zip(self.tasks, means, strict=True)}

    def _pairs(
        self, values: Mapping[str, Tensor], batch: VoxelTargets | None
    ) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """Yield for each task its name and (value, target, voxels that count, samples that have the target)."""
        if batch is None:
            return
        for index, task in enumerate(self.tasks):
            column = slice(index, index + 1)
            yield (
                task.name,
                (values[task.name], batch.target[:, column], batch.inside[:, column], batch.known[:, index]),
            )


def _as_mask(known: Tensor, inside: Tensor) -> Tensor:
    """Reshape (B,) so that it broadcasts over a task's column, (B, *spatial), of `inside`, (B, D, *spatial)."""
    return known.view(-1, *(1,) * (inside.ndim - 2))
