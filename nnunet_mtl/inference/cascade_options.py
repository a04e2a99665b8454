"""The options of `nnunet_mtl cascade-predict`."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from nnunet_mtl.common.messages import shown
from nnunet_mtl.inference.predict_options import PredictError


@dataclass(frozen=True, kw_only=True)
class CascadeOptions:
    """Options of the command, as typed.

    Attributes:
        images: Folder of images with nnU-Net's file names.
        output: Folder of the label maps.
        models: Model folder by task.
        folds: Numbers or "all"; None for every numbered fold that a model has.
        checkpoint: File name of the weights.
        step_size: Step of the sliding window, as a share of the patch.
        disable_tta: Whether prediction does not mirror.
        device: cuda, cpu or mps; None for cuda if torch finds a GPU, else cpu.
        margin: Margin around the parent in mm for models that were not trained on crops; None for the default.
        continue_prediction: Whether existing, undamaged label maps are kept.
        disable_progress_bar: Whether no progress bar is shown.
        verbose: Whether more is printed, with the trace of a case that fails.
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
        """Build the options from the parsed arguments.

        Raises:
            PredictError: If a model is not written as TASK=FOLDER, or a task has two.
        """
        values = {name: value for name, value in vars(options).items() if name in cls.__dataclass_fields__}
        folds = values.get("folds")
        return cls(**values | {"models": _models(options.models), "folds": folds and tuple(folds)})

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            PredictError: If a number or a fold is invalid; the message names the option.
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
        """The folds, with integers for numbers; None for every numbered fold."""
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
