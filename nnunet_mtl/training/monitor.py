"""The curves of a training: terms of the loss, their weights, and the pseudo Dice of every task in every epoch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_mtl.evaluation.answers.point_metrics import PointMetrics
from nnunet_mtl.losses.partial import process_count
from nnunet_mtl.losses.weighting import LossWeighting
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training import progress
from nnunet_mtl.training.answer_monitor import AnswerMonitor
from nnunet_mtl.training.loss_terms import LossTerms
from nnunet_mtl.training.pseudo_dice import FloatArray, dice, nan_mean
from nnunet_mtl.training.regression import mae_key


class Monitor:
    """Keeps the curves of a run in nnU-Net's log, its text log and `progress_mtl.png`.

    Args:
        terms: The terms of the loss.
        weighting: The weights of these terms.
        settings: Settings of the run.
        logger: nnU-Net's logger.
        print_to_log: Prints into nnU-Net's text log.

    Attributes:
        answers: Keeps the curves of the answers to the image-level questions.
    """

    def __init__(
        self,
        terms: LossTerms,
        weighting: LossWeighting,
        settings: Settings,
        *,
        logger: Any,
        print_to_log: Callable[..., None],
    ) -> None:
        self.answers = AnswerMonitor(terms.image_level, settings, logger=logger, print_to_log=print_to_log)
        self._course, self._tasks, self._terms = terms.course, terms.course.cases, terms.names
        self._weighting, self._regression = weighting, terms.regression
        # names of the terms whose weights are logged; none where all weights are 1
        self._weighted = () if settings.loss_weighting == "equal" else self._terms
        self._logger, self._print_to_log = logger, print_to_log
        self._keys = [*progress.logged_keys(self._tasks, self._terms, self._weighted), *terms.course.logged_keys]

    def pad(self, n_epochs: int) -> None:
        """Fill every curve with NaN up to one value per past epoch, because nnU-Net refuses keys it does not know.

        Args:
            n_epochs: Number of past epochs.
        """
        progress.pad_log(self._logger.local_logger.my_fantastic_logging, self._keys, n_epochs)

    def log_training(self, collated: Mapping[str, Any], epoch: int) -> None:
        """Log the mean and weight of every term, and how many batches taught nothing.

        The mean of a term is over the batches that taught the term.

        Args:
            collated: Outputs of the training steps of all ranks, one row per step.
            epoch: Counted from 0.
        """
        teaches = self._teaches(collated)
        self._logger.log("train_losses", _mean(collated["loss"], teaches), epoch)
        for term in self._terms:
            mean = _mean(collated[f"loss/{term}"], collated[f"present/{term}"] > 0)
            self._logger.log(progress.term_key(term), mean, epoch)
        self._logger.log(progress.UNANNOTATED, int((~teaches).sum()), epoch)
        if self._weighted:
            for term, weight in self._weighting.weights().items():
                self._logger.log(progress.weight_key(term), weight, epoch)
        self._weighting.end_epoch({term: _taught_mean(collated, term) for term in self._terms})

    def log_validation(
        self,
        collated: Mapping[str, Any],
        epoch: int,
        n_epochs: int,
        score_cases: Callable[[], Mapping[str, PointMetrics]],
    ) -> None:
        """Log validation loss, pseudo Dice and answers; the value of a region without annotation is NaN, not zero.

        Args:
            collated: Outputs of the validation steps of all ranks, one row per step.
            epoch: Counted from 0.
            n_epochs: Number of epochs of the run.
            score_cases: Scores the answers for whole validation cases; called every `class_every` epochs.
        """
        tp, fp, fn = (collated[key].sum(0) for key in ("tp_hard", "fp_hard", "fn_hard"))
        per_region = dice(tp, fp, fn)
        if not self._tasks.has_regions:
            per_region = per_region[1:]  # as in nnU-Net, background is no class
        mean = nan_mean(per_region)
        if np.isnan(mean):
            # one NaN would make nnU-Net's moving average NaN for ever, so log the average itself
            past = self._logger.get_value("ema_fg_dice", step=None)
            mean = past[-1] if past else 0.0
            self._print_to_log("No annotated foreground in this epoch's validation patches: no pseudo Dice")
        self._logger.log("mean_fg_dice", mean, epoch)
        self._logger.log("dice_per_class_or_region", list(per_region), epoch)
        self._logger.log("val_losses", _mean(collated["loss"], self._teaches(collated)), epoch)
        for task, value in self._task_dice(per_region).items():
            self._logger.log(progress.task_key(task), value, epoch)
        for task, value in self._regression.mean_errors(collated).items():
            self._logger.log(mae_key(task), value, epoch)
            self._print_to_log(f"Mean absolute error of {task} in the validation patches: {value:.4g}")
        if self._tasks.classification:
            self.answers.log(collated, epoch, n_epochs, score_cases)

    def end_epoch(self, epoch: int) -> None:
        """Log the course's values of an epoch, counted from 0; print the pseudo Dice of every task, and weights."""
        values, line = self._course.end_epoch(epoch)
        for key, value in values.items():
            self._logger.log(key, value, epoch)
        if line:
            self._print_to_log(line)
        dice_of_task = self._task_dice(np.asarray(self._logger.get_value("dice_per_class_or_region", step=-1)))
        figures = ", ".join(f"{task} {value:.4f}" for task, value in dice_of_task.items())
        # a Dice is NaN where neither annotation nor prediction has a voxel
        is_missing = np.isnan(list(dice_of_task.values())).any()
        missing = " (nan: in no validation patch of the epoch)" if is_missing else ""
        self._print_to_log(f"Pseudo dice per task: {figures}{missing}")
        weights = {term: self._logger.get_value(progress.weight_key(term), step=-1) for term in self._weighted}
        if weights:
            self._print_to_log(
                "Weights of the loss:", ", ".join(f"{term} {weight:.4f}" for term, weight in weights.items())
            )

    def draw(self, folder: Path) -> None:
        """Draw the curves into `progress_mtl.png` in a folder."""
        progress.plot_progress(self._logger.local_logger.my_fantastic_logging, self._tasks, self._terms, folder)

    def _teaches(self, collated: Mapping[str, Any]) -> Any:
        """Return for each row of the steps whether its batch taught any term of the loss."""
        return np.any([collated[f"present/{term}"] > 0 for term in self._terms], axis=0)

    def _task_dice(self, per_region: FloatArray) -> dict[str, float]:
        if not self._tasks.has_regions:
            return {self._tasks.tasks[0].name: nan_mean(per_region)}
        return progress.dice_per_task(self._tasks, per_region)


def _mean(values: Any, where: Any) -> float:
    return float(np.mean(values[where])) if where.any() else 0.0


def _taught_mean(collated: Mapping[str, Any], term: str) -> float:
    """Return the mean of a term over the batches of all ranks that taught the term; NaN if none did."""
    taught = collated[f"present/{term}"].sum()
    # `loss/` is a mean over ranks, with 0 for a rank whose batch did not teach the term; times the ranks it is a sum
    return float(collated[f"loss/{term}"].sum() * process_count() / taught) if taught else float("nan")
