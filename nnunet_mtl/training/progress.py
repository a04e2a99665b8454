"""Keys of our curves in nnU-Net's log, and the figure `progress_mtl.png` that shows the curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.pseudo_dice import FloatArray, nan_mean
from nnunet_mtl.training.regression import mae_key

FILE_NAME = "progress_mtl.png"
UNANNOTATED = "batches_without_annotation"
# Metrics of a question: over cases (every few epochs), over patches (every epoch), and patch AUC minus case AUC (gap).
CLASS_METRICS = ("auc", "balanced_accuracy", "patch_auc", "patch_balanced_accuracy", "gap")


def task_key(task: str) -> str:
    """Return the key of a task's pseudo Dice in nnU-Net's log and in wandb."""
    return f"task_dice/{task}"


def term_key(term: str) -> str:
    """Return the key of a term of the training loss."""
    return f"loss/{term}"


def weight_key(term: str) -> str:
    """Return the key of the weight of a term."""
    return f"weight/{term}"


def class_key(question: str, metric: str) -> str:
    """Return the key of a metric of a question; the metrics are `CLASS_METRICS`."""
    return f"class/{question}/{metric}"


def logged_keys(tasks: TaskSet, terms: Sequence[str], weighted: Sequence[str] = ()) -> list[str]:
    """Return our keys that are logged once per epoch; `weighted` are the names of the terms with a logged weight."""
    dice = [task_key(task.name) for task in tasks.tasks]
    answers = [class_key(question.name, metric) for question in tasks.classification for metric in CLASS_METRICS]
    errors = [mae_key(task.name) for task in tasks.regressions]
    weights = [weight_key(term) for term in weighted]
    return [*dice, *(term_key(term) for term in terms), *weights, UNANNOTATED, *errors, *answers]


def dice_per_task(tasks: TaskSet, dice_per_region: FloatArray) -> dict[str, float]:
    """Return the mean pseudo Dice over the regions of every task; NaN if no region of the task has a value."""
    task_of_region = np.asarray(tasks.task_of_region)
    return {task.name: nan_mean(dice_per_region[task_of_region == i]) for i, task in enumerate(tasks.tasks)}


def pad_log(log: dict[str, list[Any]], keys: Sequence[str], n_epochs: int) -> None:
    """Pad or cut the values of every key to one value per past epoch, so that a resumed run can go on logging."""
    for key in keys:
        values = log.setdefault(key, [])
        values.extend([float("nan")] * (n_epochs - len(values)))
        del values[n_epochs:]


def plot_progress(log: Mapping[str, Sequence[float]], tasks: TaskSet, terms: Sequence[str], folder: Path) -> None:
    """Draw `progress_mtl.png` over epochs: pseudo Dice of each task, loss terms, their weights, and the questions.

    Args:
        log: nnU-Net's local log with our keys; weights are drawn if the log has their keys.
        tasks: The tasks whose curves are drawn.
        terms: Names of the loss terms.
        folder: Folder of the figure.
    """
    questions = tasks.classification
    weighted = [term for term in terms if weight_key(term) in log]
    n_panels = 2 + bool(weighted) + bool(questions)
    figure = Figure(figsize=(10, 5 * n_panels), layout="constrained")
    upper, lower, *others = panels = figure.subplots(n_panels, 1, sharex=True)
    for task in tasks.tasks:
        upper.plot(log[task_key(task.name)], label=task.name)
    upper.set(ylabel="pseudo Dice", ylim=(0, 1))
    for term in terms:
        lower.plot(log[term_key(term)], label=f"{term} (training)")
    lower.plot(log["val_losses"], label="total (validation)", linestyle="--")
    lower.set(ylabel="loss")
    for axes in others[: bool(weighted)]:
        for term in weighted:
            axes.plot(log[weight_key(term)], label=term)
        axes.set(ylabel="weight of the loss term")
    for axes in others[bool(weighted) :]:
        for question in questions:
            _plot_question(axes, log, question.name)
        axes.set(ylabel="answers", ylim=(0, 1))
    panels[-1].set(xlabel="epoch")
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(folder / FILE_NAME, dpi=100)


def _plot_question(axes: Any, log: Mapping[str, Sequence[float]], question: str) -> None:
    """Draw the metrics over cases as points and the metric over patches as a line of the same colour."""
    colour = axes.plot(log[class_key(question, "patch_auc")], alpha=0.5, label=f"{question}: AUC of patches")[
        0
    ].get_color()
    for metric, marker, text in (
        ("auc", "o", "AUC of cases"),
        ("balanced_accuracy", "x", "balanced accuracy of cases"),
    ):
        axes.plot(log[class_key(question, metric)], marker, color=colour, label=f"{question}: {text}")
