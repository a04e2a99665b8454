"""Checkpoints that a killed process cannot lose, the best of them chosen by a score that subclasses define."""

import math
import os
from typing import Any

from nnunet_mtl.training.schedule import ScheduledTrainer


class CheckpointingTrainer(ScheduledTrainer):
    """Writes checkpoints aside and renames them; `checkpoint_best.pth` has the highest `selection_score`.

    Attributes:
        checkpoint_name: Of the file last written or loaded: whose weights the final validation looks at.
    """

    _best_ema: float | None
    _best_score: float | None = None
    checkpoint_name = "checkpoint_final.pth"

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

    def save_checkpoint(self, filename: str) -> None:
        """Write the checkpoint aside and rename it, so that a process killed meanwhile leaves the old one whole."""
        aside = f"{filename}.writing"
        self._best_ema = self._best_score
        super().save_checkpoint(aside)
        if self.local_rank == 0 and os.path.isfile(aside):
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, filename)
        self.checkpoint_name = os.path.basename(filename)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint as nnU-Net does."""
        super().load_checkpoint(filename_or_checkpoint)
        self._best_score = self._best_ema
        if isinstance(filename_or_checkpoint, str):
            self.checkpoint_name = os.path.basename(filename_or_checkpoint)
