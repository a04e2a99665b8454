"""Curves read from the log that nnU-Net's trainer writes for people."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_LOSS = re.compile(r"(train|val)_loss (\S+)")
_TASKS = "Pseudo dice per task: "
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
            for item in line.split(_TASKS, 1)[1].split(","):
                task, value = item.split()
                curves.task_dice.setdefault(task, []).append(float(value))


class EpochReporter:
    """Turns the trainer's output into one line per epoch.

    Args:
        n_epochs: Of the run.
    """

    def __init__(self, n_epochs: int) -> None:
        self._n_epochs = n_epochs
        self._epoch = 0
        self._dice = ""

    def __call__(self, line: str) -> str | None:
        """Return the line for the terminal when an epoch ends, else None."""
        epoch = _EPOCH.search(line)
        if epoch:
            self._epoch = int(epoch[1]) + 1
        elif _TASKS in line:
            self._dice = line.split(_TASKS, 1)[1]
        elif "Epoch time:" in line:
            return f"epoch {self._epoch}/{self._n_epochs} ({line.split('Epoch time: ')[1].strip()}) {self._dice}"
        elif "predicting" in line.lower():
            return line[line.lower().index("predicting") :]
        return None
