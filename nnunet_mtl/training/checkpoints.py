"""Checkpoints that survive a killed process, and the choice of the best checkpoint by a score."""

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
    """What nnU-Net does not do for the checkpoints of a run: safe writing, our content, and the best score.

    Attributes:
        best_score: The highest score of any epoch; None before the first epoch ends.
        file: The checkpoint last written or loaded; None if there is none, or writing is disabled.
    """

    def __init__(self) -> None:
        self.best_score: float | None = None
        self.file: Path | None = None

    def judged(self, score: float) -> float:
        """Keep the score of an epoch if it is the best score so far.

        Returns:
            The value to put into nnU-Net's `_best_ema`: minus infinity makes nnU-Net write `checkpoint_best.pth`,
            plus infinity prevents it.
        """
        improved = self.best_score is None or score > self.best_score
        if improved:
            self.best_score = score
        return -math.inf if improved else math.inf

    @contextmanager
    def written(self, filename: str, content: Mapping[str, Any], *, rank: int, disabled: bool) -> Iterator[str]:
        """Let nnU-Net write a checkpoint to a second file, then rename it: a killed process leaves the old file whole.

        Args:
            filename: Path of the checkpoint.
            content: What this package adds to the checkpoint, by name.
            rank: Rank of the process; rank 0 alone writes.
            disabled: Whether nnU-Net writes no checkpoints in this run.

        Yields:
            The path of the second file, which nnU-Net writes.
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
        """Continue from a checkpoint that nnU-Net has loaded, and from the best score in the checkpoint."""
        self.best_score = best_score
        self.file = Path(checkpoint) if isinstance(checkpoint, str) else None

    def add(self, content: Mapping[str, Any], *, rank: int) -> bool:
        """Add content to the checkpoint `file`.

        Args:
            content: By name, see `nnunet_mtl.inference.checkpoint_content`.
            rank: Rank of the process; rank 0 alone writes.

        Returns:
            Whether `file` is a checkpoint; with `--disable_checkpointing` it is None.
        """
        if self.file is not None and rank == 0:
            add_to_checkpoint(self.file, content)
        return self.file is not None
