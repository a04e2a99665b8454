"""Reads training curves from the text log of nnU-Net's trainer."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_mtl.common.messages import listed

_LOSS = re.compile(r"(train|val)_loss (\S+)")
_TASKS = "Pseudo dice per task: "
_TIME = re.compile(r"Epoch time: (\S+) s")
_RECENT = 10  # number of epochs from which the remaining time is estimated
_EPOCH = re.compile(r"Epoch (\d+)\s*$")


@dataclass
class TrainingCurves:
    """Values per epoch.

    Attributes:
        losses: "training" and "validation".
        task_dice: Pseudo Dice by task; NaN where an epoch measured nothing.
    """

    losses: dict[str, list[float]] = field(default_factory=lambda: {"training": [], "validation": []})
    task_dice: dict[str, list[float]] = field(default_factory=dict)


def read_curves(fold: Path) -> TrainingCurves:
    """Read every `training_log_*.txt` of a fold's folder, oldest first."""
    curves = TrainingCurves()
    for log in sorted(fold.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime):
        _read_into(curves, log.read_text(encoding="utf-8").splitlines())
    return curves


def _read_into(curves: TrainingCurves, lines: Iterable[str]) -> None:
    for line in lines:
        loss = _LOSS.search(line)
        if loss:
            curves.losses[{"train": "training", "val": "validation"}[loss[1]]].append(float(loss[2]))
        elif _TASKS in line:
            for task, value in _task_dice(line).items():
                curves.task_dice.setdefault(task, []).append(value)


class EpochReporter:
    """Turns the trainer's output into one line per epoch, with the expected time of the remaining epochs."""

    def __init__(self, n_epochs: int) -> None:
        self._n_epochs = n_epochs
        self._epoch = 0
        self._dice = ""
        self._seconds: list[float] = []

    def __call__(self, line: str) -> str | None:
        """Return the line for the terminal when an epoch ends, else None."""
        epoch = _EPOCH.search(line)
        if epoch:
            self._epoch = int(epoch[1]) + 1
        elif _TASKS in line:
            self._dice = _readable(_task_dice(line))
        elif took := _TIME.search(line):
            self._seconds.append(float(took[1]))
            return f"epoch {self._epoch}/{self._n_epochs} ({took[1]} s{self._time_left()}): {self._dice}"
        elif "predicting" in line.lower():
            return line[line.lower().index("predicting") :]
        return None

    def _time_left(self) -> str:
        epochs = self._n_epochs - self._epoch
        if epochs <= 0:
            return ""
        recent = self._seconds[1:][-_RECENT:] or self._seconds  # the first epoch starts worker processes
        return f", {_duration(epochs * sum(recent) / len(recent))} of training left"


def _task_dice(line: str) -> dict[str, float]:
    """Return pseudo Dice by task; NaN if no validation patch of the epoch shows a region of the task."""
    text = line.split(_TASKS, 1)[1].partition(" (")[0]
    items = (item.strip().rpartition(" ") for item in text.split(","))
    return {task: float(value) for task, _, value in items}


def _readable(dice: Mapping[str, float]) -> str:
    measured = ", ".join(f"{task} {value:.4f}" for task, value in dice.items() if not math.isnan(value))
    missing = listed(task for task, value in dice.items() if math.isnan(value))
    parts = [f"Dice {measured}"] if measured else []
    if missing:
        parts.append(f"no Dice of {missing} (in no validation patch of the epoch)")
    return "; ".join(parts)


def _duration(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {max(1, round(seconds))} s"
