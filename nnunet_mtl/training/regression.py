"""Voxel-wise regression as the trainer meets it: what a batch teaches of it, its loss, and what is logged.

The network's output of 1 stands for the task's `scale` in the unit of the target: the loss of a dose in Gy is then of
the size of the others. The scale is the standard deviation of the target over labelled voxels, which nnU-Net's planning
has measured for every channel and put into the plans, or what `dataset.json` says.
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
# The share of a voxel that must lie in the case for its interpolated value to be taught.
_WHOLE = 0.999


def term_of(task: str) -> str:
    """Name of a regression task's term of the loss."""
    return f"regression/{task}"


def mae_key(task: str) -> str:
    """Name under which the mean absolute error over validation patches is logged, in the unit of the target."""
    return f"regression/{task}/mae"


class VoxelTargets(NamedTuple):
    """What a batch teaches of the regression tasks, D of them, in their order.

    Attributes:
        target: In units of the scale, (B, D, *spatial) float32.
        inside: Voxels that count, (B, D, *spatial) bool; none that nnU-Net is to ignore.
        known: Samples that have the target, (B, D) bool, on the CPU.
        present: Whether anything counts of a task in any sample, D of them.
    """

    target: Tensor
    inside: Tensor
    known: Tensor
    present: tuple[bool, ...]

    def to(self, device: torch.device) -> "VoxelTargets":
        """Move what the loss reads to the device."""
        target, inside = (tensor.to(device, non_blocking=True) for tensor in self[:2])
        return VoxelTargets(target, inside, *self[2:])


def with_scales(tasks: TaskSet, plans: Mapping[str, Any]) -> TaskSet:
    """Return the task set with the scale of every regression task filled in.

    Raises:
        TaskSetError: If the plans know no spread of a target.
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
    """Return the task set without regression tasks, which its cases then do not list either."""
    names = {task.name for task in tasks.regressions}
    cases = {
        name: replace(case, annotated=tuple(task for task in case.annotated if task not in names))
        for name, case in tasks.cases.items()
    }
    return replace(tasks, regressions=(), cases=cases) if names else tasks


def without_targets(dataset_json: Mapping[str, Any], regressions: Sequence[RegressionTask]) -> dict[str, Any]:
    """Return a copy of `dataset.json` whose channels are those of the image; nothing else differs."""
    targets = {str(task.channel) for task in regressions}
    copy = dict(dataset_json)
    for key in ("channel_names", "modality"):
        if targets and key in copy:
            copy[key] = {number: name for number, name in copy[key].items() if number not in targets}
    return copy


class RegressionTraining:
    """The regression tasks of a data set in training; with none of them nothing changes.

    Its textual form names no case: nnU-Net writes the text of every attribute of a trainer into `debug.json`.

    Args:
        cases: The task set with its case table, its regression tasks those that are trained, with their scales.
        stored: The regression tasks of the data set, whose targets lie in the preprocessed files.
    """

    def __init__(self, cases: TaskSet, stored: Sequence[RegressionTask]) -> None:
        self.tasks = cases.regressions
        self._cases, self._n_stored = cases, len(stored)
        self._stored = [task.name for task in stored]
        first = min((task.channel for task in stored), default=0)
        self._rows = [task.channel - first for task in self.tasks]
        self._scales = torch.tensor([task.scale or 1.0 for task in self.tasks])
        self._inside = [None if task.inside is None else cases.regions.index(task.inside) for task in self.tasks]
        # nnU-Net puts the mask of its ignore label behind the regions
        self._ignored = None if cases.ignore_label is None else len(cases.regions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[task.name for task in self.tasks]})"

    def describe(self, trainer: str) -> str:
        """Say in words for the log what is trained of the data set's regression tasks; empty where there is none."""
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
        """Names of the terms `losses` returns."""
        return tuple(term_of(task.name) for task in self.tasks)

    # ---- data

    def dataset_class(self, dataset_class: Any, n_images: int) -> Any:
        """Return what makes data sets of images alone in place of nnU-Net's class, if targets lie behind the images."""
        return ImageDatasets(dataset_class, n_images, self._n_stored) if self._n_stored else dataset_class

    def with_targets(self, dataset: Any, options: dict[str, Any]) -> Any:
        """Return the data set that the training loader is given, and let its transforms (in `options`) know of it."""
        if not self.tasks:
            return dataset
        if not isinstance(dataset, ImageDataset):
            raise TypeError(f"expected a data set of `dataset_class`, got {type(dataset).__name__}")
        options["transforms"] = BesideImage(options["transforms"], self._n_stored + 1)
        return TargetDataset(dataset)

    def split(self, keys: Sequence[str], data: Tensor, target: Tensor) -> tuple[Tensor, VoxelTargets | None]:
        """Part the images of a batch from what lies behind them.

        Args:
            keys: Case identifiers, B of them.
            data: As the loader gives it, (B, C, *spatial), on the CPU.
            target: Region targets at full resolution, (B, R, *spatial) bool; with the ignore label (B, R + 1, *spatial)
                and its mask is the last channel.

        Returns:
            The images, and what is taught; None without regression tasks.
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
        present = tuple(bool((inside[:, index] & _as_mask(has, inside)).any()) for index, has in enumerate(known.T))
        return images, VoxelTargets(behind[:, self._rows] / scales, inside, known, present)

    def _where(self, keys: Sequence[str], target: Tensor, counted: Tensor) -> Tensor:
        """Return the voxels that count, (B, D, *spatial): of the region that is named, where that was annotated."""
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
        """Return the loss of each task, scalars by the names of `loss_terms`.

        Args:
            values: Output of the network by task, in units of the scale, (B, 1, *spatial).
            batch: What is taught; on the device of the values.
        """
        return {term_of(name): masked_l1_loss(*arguments) for name, arguments in self._pairs(values, batch)}

    def present(self, batch: VoxelTargets | None) -> dict[str, bool]:
        """Return which of these terms anything in a batch teaches."""
        return {} if batch is None else dict(zip(self.loss_terms, batch.present, strict=True))

    def numbers(self, values: Mapping[str, Tensor], batch: VoxelTargets | None) -> dict[str, NDArray[np.float64]]:
        """Return sums of absolute errors, in the unit of the target, and numbers of voxels, (D,) each; if any."""
        if batch is None:
            return {}
        errors = [absolute_error(*arguments) for _, arguments in self._pairs(values, batch)]
        total = np.array([float(error.total.sum()) for error in errors]) * self._scales.double().numpy()
        return {ERROR: total, VOXELS: np.array([float(error.voxels.sum()) for error in errors])}

    def mean_errors(self, collated: Mapping[str, Any]) -> dict[str, float]:
        """Return the mean absolute error of each task over an epoch of `numbers`, (steps, D) each; NaN of no voxel."""
        if not self.tasks:
            return {}
        total, voxels = (np.asarray(collated[key]).sum(0) for key in (ERROR, VOXELS))
        means = np.divide(total, voxels, out=np.full(len(total), np.nan), where=voxels > 0)
        return {task.name: float(mean) for task, mean in zip(self.tasks, means, strict=True)}

    def _pairs(
        self, values: Mapping[str, Tensor], batch: VoxelTargets | None
    ) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """Yield name, and value, target, voxels that count and samples that have a target, of each task."""
        if batch is None:
            return
        for index, task in enumerate(self.tasks):
            column = slice(index, index + 1)
            yield (
                task.name,
                (values[task.name], batch.target[:, column], batch.inside[:, column], batch.known[:, index]),
            )


def _as_mask(known: Tensor, inside: Tensor) -> Tensor:
    """Bring (B,) to the dimensions of a column of (B, D, *spatial)."""
    return known.view(-1, *(1,) * (inside.ndim - 2))
