"""The options of `nnunet_mtl predict`, and the device on which a command computes."""

import argparse
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.inference.model_location import results_folder


class PredictError(UserError):
    """An option of a prediction command is invalid, or the prediction is impossible with it."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """The options under nnU-Net's names, and those of this package; `nnunet_mtl predict --help` explains them."""

    images: Path
    output: Path
    model: Path | None = None
    dataset: str | None = None
    trainer: str | None = None
    plans: str | None = None
    configuration: str | None = None
    folds: tuple[int | str, ...] = (0, 1, 2, 3, 4)
    checkpoint: str = "checkpoint_final.pth"
    step_size: float = 0.5
    disable_tta: bool = False
    verbose: bool = False
    save_probabilities: bool = False
    continue_prediction: bool = False
    npp: int = field(default_factory=lambda: _number_in("nnUNet_npp", 3))
    nps: int = field(default_factory=lambda: _number_in("nnUNet_nps", 3))
    prev_stage_predictions: Path | None = None
    num_parts: int = 1
    part_id: int = 0
    device: str | None = None
    disable_progress_bar: bool = False
    not_on_device: bool = False
    tasks: tuple[str, ...] = ()
    save_per_task: bool = False

    @classmethod
    def from_namespace(cls, options: argparse.Namespace) -> "PredictOptions":
        """Build the options from the parsed arguments; what is not given has the default of the field."""
        values: dict[str, Any] = {
            name: value for name, value in vars(options).items() if name in cls.__dataclass_fields__
        }
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values | lists)

    def model_folder(self) -> Path:
        """Return the model folder, given by `-m`, or by `-d`, `-tr`, `-p` and `-c`.

        Raises:
            UserError: If the model is given in both ways or in neither, or does not exist.
        """
        parts = {"-d": self.dataset, "-tr": self.trainer, "-p": self.plans, "-c": self.configuration}
        given = [name for name, value in parts.items() if value is not None]
        if self.model is not None:
            if given:
                raise PredictError(f"-m names the model already; leave {', '.join(given)} out")
            return self.model
        if self.dataset is None or self.configuration is None:
            raise PredictError("name the model with -d ID -c CONFIGURATION (and -tr, -p), or with -m FOLDER")
        return results_folder(
            self.dataset, self.trainer or "nnUNetTrainer", self.plans or "nnUNetPlans", self.configuration
        )

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            PredictError: If a number or a fold is invalid; the message names the option.
        """
        if not 0 < self.step_size <= 1:
            raise PredictError(f"-step_size {self.step_size}: must be greater than 0 and at most 1")
        for name, number in (("-npp", self.npp), ("-nps", self.nps)):
            if number < 0:
                raise PredictError(f"{name} {number}: must be 0 (in this process) or more")
        wrong = [fold for fold in self.folds if fold != "all" and not str(fold).isdigit()]
        if wrong:
            raise PredictError(f"-f {wrong[0]}: a fold is a number or 'all'")

    @property
    def fold_names(self) -> tuple[int | str, ...]:
        """The folds, with integers for numbers."""
        return tuple(fold if fold == "all" else int(fold) for fold in self.folds)

    def as_nnunet_arguments(self) -> dict[str, Any]:
        """Return the arguments that nnU-Net stores beside a prediction, under nnU-Net's names."""
        previous = self.prev_stage_predictions
        return {
            "list_of_lists_or_source_folder": str(self.images),
            "output_folder_or_list_of_truncated_output_files": str(self.output),
            "save_probabilities": self.save_probabilities,
            "overwrite": not self.continue_prediction,
            "num_processes_preprocessing": self.npp,
            "num_processes_segmentation_export": self.nps,
            "folder_with_segs_from_prev_stage": None if previous is None else str(previous),
            "num_parts": self.num_parts,
            "part_id": self.part_id,
        }


def _number_in(variable: str, default: int) -> int:
    """Read a number of processes from the environment; a value that is no number is ignored."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdigit() else default


@contextmanager
def device_to_use(name: str | None) -> Iterator[torch.device]:
    """Yield the device, and let torch use as many threads as nnU-Net does with it while the `with` block runs.

    Args:
        name: "cuda", "cpu" or "mps"; None for CUDA if torch finds a GPU, else the CPU.

    Raises:
        PredictError: If torch does not find the device.
    """
    available = {"cuda": torch.cuda.is_available(), "cpu": True, "mps": torch.backends.mps.is_available()}
    kind = name or ("cuda" if available["cuda"] else "cpu")
    if not available.get(kind, False):
        usable = ", ".join(other for other, is_available in available.items() if is_available)
        raise PredictError(f"-device {kind}: torch finds none; there are: {usable}")
    threads = torch.get_num_threads()
    if kind != "mps":
        # with another number of threads, sums are rounded in another order and single voxels differ
        torch.set_num_threads(multiprocessing.cpu_count() if kind == "cpu" else 1)
    try:
        yield torch.device(kind)
    finally:
        torch.set_num_threads(threads)
