"""The second progress figure: one curve per task, and the named terms of the loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.pseudo_dice import FloatArray, nan_mean

FILE_NAME = "progress_mtl.png"
UNANNOTATED = "batches_without_annotation"


def task_key(task: str) -> str:
    """Name under which a task's pseudo Dice is logged, in nnU-Net's log and in wandb."""
    return f"task_dice/{task}"


def term_key(term: str) -> str:
    """Name under which a term of the training loss is logged."""
    return f"loss/{term}"


def logged_keys(tasks: TaskSet, terms: Sequence[str]) -> list[str]:
    """Every key that is logged once per epoch on top of nnU-Net's own."""
    return [*(task_key(task.name) for task in tasks.tasks), *(term_key(term) for term in terms), UNANNOTATED]


def dice_per_task(tasks: TaskSet, dice_per_region: FloatArray) -> dict[str, float]:
    """Mean pseudo Dice over each task's regions; NaN for a task of which nothing could be measured."""
    task_of_region = np.asarray(tasks.task_of_region)
    return {task.name: nan_mean(dice_per_region[task_of_region == i]) for i, task in enumerate(tasks.tasks)}


def pad_log(log: dict[str, list[Any]], keys: Sequence[str], n_epochs: int) -> None:
    """Give every key one value per past epoch, so that a run resumed from an older checkpoint can go on logging."""
    for key in keys:
        values = log.setdefault(key, [])
        values.extend([float("nan")] * (n_epochs - len(values)))
        del values[n_epochs:]


def plot_progress(log: Mapping[str, Sequence[float]], tasks: TaskSet, terms: Sequence[str], folder: Path) -> None:
    """Draw `progress_mtl.png`: pseudo Dice of each task above, loss terms below, over epochs.

    Args:
        log: nnU-Net's local log with our keys.
        tasks: Whose names are the curves.
        terms: Names of the loss terms.
        folder: Where the figure goes.
    """
    figure = Figure(figsize=(10, 10), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for task in tasks.tasks:
        upper.plot(log[task_key(task.name)], label=task.name)
    upper.set(ylabel="pseudo Dice", ylim=(0, 1))
    for term in terms:
        lower.plot(log[term_key(term)], label=f"{term} (training)")
    lower.plot(log["val_losses"], label="total (validation)", linestyle="--")
    lower.set(xlabel="epoch", ylabel="loss")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(folder / FILE_NAME, dpi=100)
