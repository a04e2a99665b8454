"""Checkpoints that a killed process cannot lose, the best of them chosen by a score."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as TrainerModule

from nnunet_mtl.common.swapped_names import swapped
from nnunet_mtl.inference.checkpoint_content import add_to_checkpoint
from nnunet_mtl.inference.model_folder import OUR_CONTENT


class Checkpoints:
    """The checkpoints of a run, as far as nnU-Net does not look after them.

    Attributes:
        best_score: The highest score of any epoch; None before the first one.
        file: The checkpoint that holds the network's weights as they are, last written or loaded; None before, and
            where no checkpoint is written.
    """

    def __init__(self) -> None:
        self.best_score: float | None = None
        self.file: Path | None = None

    def judged(self, score: float) -> float:
        """Keep the score of an epoch if it is the best one.

        Returns:
            What nnU-Net has to compare its moving average of the pseudo Dice with, so that it writes
            `checkpoint_best.pth` exactly if the score is the best one.
        """
        improved = self.best_score is None or score > self.best_score
        if improved:
            self.best_score = score
        return -math.inf if improved else math.inf

    @contextmanager
    def written(self, filename: str, content: Mapping[str, Any], *, rank: int, disabled: bool) -> Iterator[str]:
        """Let nnU-Net write a checkpoint aside, and rename it: a process killed meanwhile leaves the old one.

        Args:
            filename: Path of the checkpoint.
            content: What this package keeps inside the checkpoint, by name.
            rank: Rank of the process; rank 0 alone writes.
            disabled: Whether nnU-Net was told to write none.

        Yields:
            The path nnU-Net is to write to.
        """
        aside = f"{filename}.writing"

        def save(checkpoint: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            torch_save({**checkpoint, OUR_CONTENT: dict(content)}, *args, **kwargs)

        with swapped(TrainerModule.torch, "save", save) as torch_save:
            yield aside
        if rank == 0 and os.path.isfile(aside):
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, filename)
        self.file = None if disabled else Path(filename)

    def loaded(self, checkpoint: dict[str, Any] | str, best_score: float | None) -> None:
        """Go on from a checkpoint that nnU-Net has loaded, with the best score that it holds."""
        self.best_score = best_score
        self.file = Path(checkpoint) if isinstance(checkpoint, str) else None

    def add(self, content: Mapping[str, Any], *, rank: int) -> bool:
        """Add content to the checkpoint `file`.

        Args:
            content: By name, see `nnunet_mtl.inference.checkpoint_content`.
            rank: Rank of the process; rank 0 alone writes.

        Returns:
            Whether there is such a checkpoint; none is written with `--disable_checkpointing`.
        """
        if self.file is not None and rank == 0:
            add_to_checkpoint(self.file, content)
        return self.file is not None
