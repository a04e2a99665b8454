"""Logs how well the image-level questions are answered during a training."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnunet_mtl.evaluation.answers.point_metrics import PointMetrics
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training import progress
from nnunet_mtl.training.image_level import PROBABILITIES, TARGETS, ImageLevelTraining


class AnswerMonitor:
    """Logs and prints how well the questions are answered, for patches and for whole cases.

    Args:
        image_level: The questions of the run, which also score the answers.
        settings: Settings of the run.
        logger: nnU-Net's logger.
        print_to_log: Prints into nnU-Net's text log.

    Attributes:
        taught: Names of the questions that the training cases of the fold teach; until these are known, every question.
    """

    def __init__(
        self, image_level: ImageLevelTraining, settings: Settings, *, logger: Any, print_to_log: Callable[..., None]
    ) -> None:
        self._image_level, self._settings = image_level, settings
        self._logger, self._print_to_log = logger, print_to_log
        self.taught: tuple[str, ...] = tuple(question["name"] for question in image_level.questions)

    def log(
        self,
        collated: Mapping[str, Any],
        epoch: int,
        n_epochs: int,
        score_cases: Callable[[], Mapping[str, PointMetrics]],
    ) -> None:
        """Log the scores of an epoch's patches and, every `class_every` epochs and in the last, of whole cases.

        Args:
            collated: Outputs of the validation steps.
            epoch: Counted from 0.
            n_epochs: Number of epochs of the run.
            score_cases: Scores the answers for whole validation cases, by question.
        """
        are_due = (epoch + 1) % self._settings.class_every == 0 or epoch + 1 == n_epochs
        case_scores = score_cases() if are_due else {}
        answered, wanted = (np.concatenate(collated[key]) for key in (PROBABILITIES, TARGETS))
        for question, patches in self._image_level.patch_scores(answered, wanted).items():
            cases = case_scores[question].metrics if question in case_scores else {}
            values = {
                "auc": _number(cases.get("auc")),
                "balanced_accuracy": _number(cases.get("balanced_accuracy")),
                "patch_auc": _number(patches.metrics["auc"]),
                "patch_balanced_accuracy": _number(patches.metrics["balanced_accuracy"]),
            }
            values["gap"] = values["patch_auc"] - values["auc"]
            for metric, value in values.items():
                self._logger.log(progress.class_key(question, metric), value, epoch)

    def report(self, scores: Mapping[str, PointMetrics]) -> None:
        """Print the scores of whole cases by question, and warn where all cases get the same answer."""
        for question, score in scores.items():
            if question not in self.taught:
                continue
            figures = ", ".join(f"{name} {_shown(value)}" for name, value in score.metrics.items())
            self._print_to_log(f"Answers to {question} in {score.n_cases} validation cases: {figures}")
            if score.collapsed:
                self._print_to_log(
                    f"WARNING: the answer to {question} has collapsed: it is the same for all of them, though they "
                    f"differ. Settings that help: {', '.join(self._against_collapse(question))}"
                )

    def _against_collapse(self, question: str) -> list[str]:
        """Return the settings that can help this question in this run."""
        evidence = {known["name"]: known["evidence"] for known in self._image_level.questions}
        balance = [] if self._settings.class_sampling == "balanced" else ["class_sampling=balanced"]
        crops = ["evidence_crops"] if evidence[question] >= 0 else []
        return [*balance, *crops, "class_weight"]

    def mixed_into(self, dice: float, *, share: float) -> float:
        """Return the score that chooses the best checkpoint, a mixture of pseudo Dice and answers.

        A question counts with 2 AUC - 1 (0 at chance) of its last measured AUC over whole cases, and with 0 before the
        first. A question that the fold does not teach does not count.

        Args:
            dice: nnU-Net's moving average of the pseudo Dice.
            share: Share of the answers in the mixture, 0 to 1.
        """
        if not self.taught:
            return dice
        curves = [self._logger.get_value(progress.class_key(name, "auc"), step=None) for name in self.taught]
        last = [next((value for value in reversed(curve) if not np.isnan(value)), 0.5) for curve in curves]
        answers = float(np.mean([max(0.0, 2 * value - 1) for value in last]))
        return (1 - share) * dice + share * answers


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _shown(value: float | None) -> str:
    return "not available" if value is None else f"{value:.3f}"
