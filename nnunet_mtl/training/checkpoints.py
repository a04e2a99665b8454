"""Checkpoints that a killed process cannot lose, the best of them chosen by a score that subclasses define."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as TrainerModule

from nnunet_mtl.common.swapped_names import swapped
from nnunet_mtl.inference.checkpoint_content import add_to_checkpoint
from nnunet_mtl.inference.model_folder import OUR_CONTENT
from nnunet_mtl.training.scheduled_trainer import ScheduledTrainer


class CheckpointingTrainer(ScheduledTrainer):
    """Writes checkpoints aside and renames them; `checkpoint_best.pth` has the highest `selection_score`.

    Attributes:
        checkpoint_file: The one last written or loaded, whose weights the final validation looks at; None before, and
            where none is written.
    """

    _best_ema: float | None
    _best_score: float | None = None
    checkpoint_file: Path | None = None

    def selection_score(self) -> float:
        """Return what the best checkpoint has most of: nnU-Net's moving average of the pseudo Dice."""
        return float(self.logger.get_value("ema_fg_dice", step=-1))

    def on_epoch_end(self) -> None:
        """Finish the epoch as nnU-Net does, with the best checkpoint chosen by `selection_score`."""
        score = self.selection_score()
        improved = self._best_score is None or score > self._best_score
        if improved:
            self._best_score = score
        # nnU-Net compares its moving average with this attribute to decide about `checkpoint_best.pth`.
        self._best_ema = -math.inf if improved else math.inf
        super().on_epoch_end()
        self._best_ema = self._best_score

    def our_content(self) -> dict[str, Any]:
        """Return what this package keeps inside every checkpoint; subclasses add to it."""
        return {}

    def save_checkpoint(self, filename: str) -> None:
        """Write the checkpoint with our content aside and rename it: a process killed meanwhile leaves the old one."""
        aside = f"{filename}.writing"
        self._best_ema = self._best_score
        content = self.our_content()

        def save(checkpoint: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            torch_save({**checkpoint, OUR_CONTENT: content}, *args, **kwargs)

        with swapped(TrainerModule.torch, "save", save) as torch_save:
            super().save_checkpoint(aside)
        if self.local_rank == 0 and os.path.isfile(aside):
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, filename)
        self.checkpoint_file = None if self.disable_checkpointing else Path(filename)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint as nnU-Net does."""
        super().load_checkpoint(filename_or_checkpoint)
        self._best_score = self._best_ema
        self.checkpoint_file = Path(filename_or_checkpoint) if isinstance(filename_or_checkpoint, str) else None

    def add_to_checkpoint(self, content: Mapping[str, Any]) -> bool:
        """Add content to the checkpoint that holds the network's weights as they are; under DDP rank 0 does.

        Args:
            content: As of the function of this name in `nnunet_mtl.inference.checkpoint_content`.

        Returns:
            Whether there is such a checkpoint; none is written with `--disable_checkpointing`.
        """
        if self.checkpoint_file is not None and self.local_rank == 0:
            add_to_checkpoint(self.checkpoint_file, content)
        return self.checkpoint_file is not None
