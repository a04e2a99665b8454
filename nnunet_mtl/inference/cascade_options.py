"""What `nnunet_mtl cascade-predict` was asked for."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from nnunet_mtl.common.messages import shown
from nnunet_mtl.inference.predict_options import PredictError


@dataclass(frozen=True, kw_only=True)
class CascadeOptions:
    """What was asked for on the command line.

    Attributes:
        images: Folder of images by nnU-Net's names.
        output: Gets the label maps.
        models: Model folder of each task.
        folds: As they were typed; None for every numbered fold that a model has.
        checkpoint: File name of the weights.
        step_size: Of the sliding window, in patches.
        disable_tta: Do not mirror.
        device: cuda, cpu or mps; None for cuda if there is one.
        margin: In mm, of models that were trained on no crops; None for the default.
        continue_prediction: Keep the maps that are there and whole.
        disable_progress_bar: No progress bars.
        verbose: Say more, with the trace of what fails.
    """

    images: Path
    output: Path
    models: Mapping[str, Path]
    folds: tuple[str, ...] | None = None
    checkpoint: str = "checkpoint_final.pth"
    step_size: float = 0.5
    disable_tta: bool = False
    device: str | None = None
    margin: float | None = None
    continue_prediction: bool = False
    disable_progress_bar: bool = False
    verbose: bool = False

    @classmethod
    def from_namespace(cls, options: argparse.Namespace) -> "CascadeOptions":
        """Take the parsed arguments.

        Raises:
            PredictError: If a model is not written as TASK=FOLDER, or a task has two.
        """
        values = {name: value for name, value in vars(options).items() if name in cls.__dataclass_fields__}
        folds = values.get("folds")
        return cls(**values | {"models": _models(options.models), "folds": folds and tuple(folds)})

    def check(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            PredictError: Naming the option.
        """
        if not 0 < self.step_size <= 1:
            raise PredictError(f"-step_size {self.step_size}: must be greater than 0 and at most 1")
        if self.margin is not None and not (isfinite(self.margin) and self.margin >= 0):
            raise PredictError(f"--margin {self.margin}: must be a number of mm, 0 or more")
        wrong = [fold for fold in self.folds or () if fold != "all" and not fold.isdigit()]
        if wrong:
            raise PredictError(f"-f {wrong[0]}: a fold is a number or 'all'")

    @property
    def fold_names(self) -> tuple[int | str, ...] | None:
        """The folds, numbers as numbers."""
        return self.folds and tuple(fold if fold == "all" else int(fold) for fold in self.folds)


def _models(words: Sequence[str]) -> dict[str, Path]:
    models: dict[str, Path] = {}
    for word in words:
        task, equals, folder = word.partition("=")
        if not (task and equals and folder):
            raise PredictError(f"-m {shown(word)}: must be TASK=FOLDER, a task of the data set and its model folder")
        if task in models:
            raise PredictError(f"-m {task}: has two models; give one")
        models[task] = Path(folder)
    return models
