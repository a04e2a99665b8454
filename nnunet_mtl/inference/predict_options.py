"""What `nnunet_mtl predict` was asked for: nnU-Net's options under nnU-Net's names, and ours."""

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
    """What was asked for on the command line cannot be done."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What was asked for on the command line; see there."""

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
        """Take the parsed arguments of `nnunet_mtl predict`."""
        values: dict[str, Any] = {
            name: value for name, value in vars(options).items() if name in cls.__dataclass_fields__
        }
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values | lists)

    def model_folder(self) -> Path:
        """Return the folder of the model, which is given itself or by nnU-Net's names of its parts.

        Raises:
            UserError: If it is given in both ways or in neither, or nnU-Net has no such model.
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
        """Refuse numbers that mean nothing.

        Raises:
            PredictError: Naming the option.
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
        """The folds, numbers as numbers."""
        return tuple(fold if fold == "all" else int(fold) for fold in self.folds)

    def as_nnunet_arguments(self) -> dict[str, Any]:
        """Return the options under the names nnU-Net stores beside a prediction."""
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
    """Read a number of processes from the environment; what is no number is not heeded, as in nnU-Net."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdigit() else default


@contextmanager
def device_to_use(name: str | None) -> Iterator[torch.device]:
    """Choose where to compute, with as many threads as nnU-Net takes there while the `with` block runs.

    Args:
        name: "cuda", "cpu" or "mps"; None for CUDA if there is any, else the CPU.

    Raises:
        PredictError: If there is no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "cpu": True, "mps": torch.backends.mps.is_available()}
    kind = name or ("cuda" if available["cuda"] else "cpu")
    if not available.get(kind, False):
        found = ", ".join(other for other, there in available.items() if there)
        raise PredictError(f"-device {kind}: torch finds none; there are: {found}")
    threads = torch.get_num_threads()
    if kind != "mps":
        # the same number, or sums are rounded in another order and a voxel here and there differs
        torch.set_num_threads(multiprocessing.cpu_count() if kind == "cpu" else 1)
    try:
        yield torch.device(kind)
    finally:
        torch.set_num_threads(threads)
