"""What is measured of a run: losses, Dice and answers of every epoch, answers for whole cases, the final validation."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as TrainerModule
import numpy as np
from nnunetv2.utilities.collate_outputs import collate_outputs
from torch import distributed as dist

from nnunet_mtl.common.messages import listed
from nnunet_mtl.common.swapped_names import swapped
from nnunet_mtl.evaluation.answers.point_metrics import PointMetrics
from nnunet_mtl.inference.calibration import TAUGHT, stored_calibrations
from nnunet_mtl.losses.partial import process_count
from nnunet_mtl.losses.weighting import LossWeighting
from nnunet_mtl.planning.fold_coverage import taught_questions
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training import progress
from nnunet_mtl.training.case_annotations import CaseAnnotations
from nnunet_mtl.training.case_level import FinalValidation, answer_cases
from nnunet_mtl.training.checkpoints import CheckpointingTrainer
from nnunet_mtl.training.image_level import PROBABILITIES, TARGETS, ImageLevelTraining
from nnunet_mtl.training.pseudo_dice import FloatArray, dice, nan_mean
from nnunet_mtl.training.regression import RegressionTraining, mae_key
from nnunet_mtl.training.validation import RestrictedExport, regions_without_a_score


class MonitoredTrainer(CheckpointingTrainer):
    """Everything between the steps; subclasses set the attributes before nnU-Net's constructor runs.

    Attributes:
        segments: Whether segmentation is trained; if not, the questions alone.
        tasks: The task set without its case table (which nothing that is saved may hold).
        cases: Looks annotations up by case identifier.
        image_level: The questions about whole images.
        regression: The values per voxel.
        weighting: Of the terms of the loss.
        taught: The questions that the training cases of the fold teach; until these are known, every question.
    """

    segments: ClassVar[bool] = True
    tasks: TaskSet
    cases: CaseAnnotations
    image_level: ImageLevelTraining
    regression: RegressionTraining
    weighting: LossWeighting
    taught: tuple[str, ...]

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss, logged once per epoch."""
        raise NotImplementedError

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the mean of each loss term over the batches that taught it, its weight, and how many taught nothing."""
        collated = self._gathered(train_outputs)
        counts = self._taught(collated)
        self.logger.log("train_losses", _mean(collated["loss"], counts), self.current_epoch)
        for term in self.loss_terms:
            mean = _mean(collated[f"loss/{term}"], collated[f"present/{term}"] > 0)
            self.logger.log(progress.term_key(term), mean, self.current_epoch)
        self.logger.log(progress.UNANNOTATED, int((~counts).sum()), self.current_epoch)
        if self._weighted_terms:
            for term, weight in self.weighting.weights().items():
                self.logger.log(progress.weight_key(term), weight, self.current_epoch)
        self.weighting.end_epoch({term: _taught_mean(collated, term) for term in self.loss_terms})

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log validation loss and pseudo Dice; what was not annotated is not available, not zero."""
        collated = self._gathered(val_outputs)
        tp, fp, fn = (collated[key].sum(0) for key in ("tp_hard", "fp_hard", "fn_hard"))
        per_region = dice(tp, fp, fn)
        if not self.label_manager.has_regions:
            per_region = per_region[1:]  # as nnU-Net: background is no class
        mean = nan_mean(per_region)
        if np.isnan(mean):
            # nnU-Net's moving average would stay NaN for ever: this epoch leaves it where it is
            past = self.logger.get_value("ema_fg_dice", step=None)
            mean = past[-1] if past else 0.0
            self.print_to_log_file("No annotated foreground in this epoch's validation patches: no pseudo Dice")
        self.logger.log("mean_fg_dice", mean, self.current_epoch)
        self.logger.log("dice_per_class_or_region", list(per_region), self.current_epoch)
        self.logger.log("val_losses", _mean(collated["loss"], self._taught(collated)), self.current_epoch)
        for task, value in self._task_dice(per_region).items():
            self.logger.log(progress.task_key(task), value, self.current_epoch)
        for task, value in self.regression.mean_errors(collated).items():
            self.logger.log(mae_key(task), value, self.current_epoch)
            self.print_to_log_file(f"Mean absolute error of {task} in the validation patches: {value:.4g}")
        if self.tasks.classification:
            self._log_answers(collated)

    def on_epoch_end(self) -> None:
        """Finish the epoch as nnU-Net does, then print and draw the curve of each task."""
        per_region = np.asarray(self.logger.get_value("dice_per_class_or_region", step=-1))
        of_task = self._task_dice(per_region)
        values = ", ".join(f"{task} {value:.4f}" for task, value in of_task.items())
        # neither truth nor prediction of an annotated region showed it
        missing = " (nan: in no validation patch of the epoch)" if np.isnan(list(of_task.values())).any() else ""
        self.print_to_log_file(f"Pseudo dice per task: {values}{missing}")
        weights = {term: self.logger.get_value(progress.weight_key(term), step=-1) for term in self._weighted_terms}
        if weights:
            texts = [f"{term} {weight:.4f}" for term, weight in weights.items()]
            self.print_to_log_file("Weights of the loss:", ", ".join(texts))
        super().on_epoch_end()
        if self.local_rank == 0:
            log = self.logger.local_logger.my_fantastic_logging
            progress.plot_progress(log, self.tasks, self.loss_terms, Path(self.output_folder))

    def _taught(self, collated: Mapping[str, Any]) -> Any:
        """Return in which batches anything taught any term of the loss, an outline, a value or an answer."""
        return np.any([collated[f"present/{term}"] > 0 for term in self.loss_terms], axis=0)

    @property
    def _weighted_terms(self) -> tuple[str, ...]:
        """Names of the terms whose weights are logged: none where all are 1."""
        return () if self.settings.loss_weighting == "equal" else self.loss_terms

    # ---- answers

    def _log_answers(self, collated: Mapping[str, Any]) -> None:
        """Log what patches answered in this epoch, and from time to time what cases are answered."""
        of_patches = self.image_level.patch_scores(*(np.concatenate(collated[key]) for key in (PROBABILITIES, TARGETS)))
        of_cases: dict[str, PointMetrics] = {}
        epoch = self.current_epoch + 1
        if epoch % self.settings.class_every == 0 or epoch == self.num_epochs:
            of_cases = self._score_cases()
        for question, patches in of_patches.items():
            cases = of_cases[question].metrics if question in of_cases else {}
            values = {
                "auc": _number(cases.get("auc")),
                "balanced_accuracy": _number(cases.get("balanced_accuracy")),
                "patch_auc": _number(patches.metrics["auc"]),
                "patch_balanced_accuracy": _number(patches.metrics["balanced_accuracy"]),
            }
            values["gap"] = values["patch_auc"] - values["auc"]
            for metric, value in values.items():
                self.logger.log(progress.class_key(question, metric), value, self.current_epoch)

    def _score_cases(self) -> dict[str, PointMetrics]:
        """Answer the labelled validation cases as prediction would, and say how well."""
        _, cases = self.do_split()
        targets = self.image_level.labels.targets(cases)
        labelled = [case for i, case in enumerate(cases) if any(bool(target.known[i]) for target in targets.values())]
        scores = self.image_level.case_scores(answer_cases(self, labelled))
        self._print_answers(scores)
        return scores

    def _print_answers(self, scores: Mapping[str, PointMetrics]) -> None:
        for question, score in scores.items():
            if question not in self.taught:
                continue
            figures = ", ".join(f"{name} {_shown(value)}" for name, value in score.metrics.items())
            self.print_to_log_file(f"Answers to {question} in {score.n_cases} validation cases: {figures}")
            if score.collapsed:
                self.print_to_log_file(
                    f"WARNING: the answer to {question} has collapsed: it is the same for all of them, though they "
                    f"differ. Settings that help: {', '.join(self._against_collapse(question))}"
                )

    def _against_collapse(self, question: str) -> list[str]:
        """Return the settings that can help this question in this run."""
        evidence = {one["name"]: one["evidence"] for one in self.image_level.questions}
        balance = [] if self.settings.class_sampling == "balanced" else ["class_sampling=balanced"]
        crops = ["evidence_crops"] if evidence[question] >= 0 else []
        return [*balance, *crops, "class_weight"]

    def selection_score(self) -> float:
        """Mix nnU-Net's moving average of the pseudo Dice with the answers, by the setting `best_class_share`.

        A question counts with 2 AUC - 1, 0 at chance, of the last case-level pass that could measure it; 0 before. A
        question that the fold does not teach does not count.
        """
        questions = self.taught
        dice = super().selection_score()
        if not questions:
            return dice
        curves = [self.logger.get_value(progress.class_key(name, "auc"), step=None) for name in questions]
        last = [next((value for value in reversed(curve) if not np.isnan(value)), 0.5) for curve in curves]
        answers = float(np.mean([max(0.0, 2 * value - 1) for value in last]))
        share = self.settings.best_class_share if self.segments else 1.0
        return (1 - share) * dice + share * answers

    # ---- both

    def _task_dice(self, per_region: FloatArray) -> dict[str, float]:
        if not self.label_manager.has_regions:
            return {self.tasks.tasks[0].name: nan_mean(per_region)}
        return progress.dice_per_task(self.tasks, per_region)

    def _gathered(self, outputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate a list of step outputs: losses averaged over ranks, counts summed, answers joined."""
        collated = {key: np.asarray(values) for key, values in collate_outputs(outputs).items()}
        if self.is_ddp:
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, collated)
            collated = {key: _over_ranks(key, [rank[key] for rank in everyone]) for key in collated}
        return collated

    def our_content(self) -> dict[str, Any]:
        """Return which questions the network was taught."""
        return {**super().our_content(), TAUGHT: list(self.taught)}

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint as nnU-Net does; epochs that lack our curves are filled with NaN."""
        super().load_checkpoint(filename_or_checkpoint)
        self._pad_log(self.current_epoch)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict and score the validation cases; each exported map holds only what is annotated in its case.

        The answers of the same pass are scored and, if no case was trained on, calibrate the model's answers.
        """
        train, cases = self.do_split()
        self.taught = taught_questions(self.cases.tasks, train)
        export = RestrictedExport({case: self.cases.tasks.annotated(case) for case in cases})
        answers = FinalValidation(self, cases)
        with (
            swapped(TrainerModule, "export_prediction_from_logits", export),
            answers.listening(),
            warnings.catch_warnings(),
        ):
            # of a region that no case can judge; `_explain_missing_scores` says which
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            super().perform_actual_validation(save_probabilities)
        self._explain_missing_scores()
        if not self.tasks.classification:
            return
        self._print_answers(self.image_level.case_scores(answers.probabilities()))
        if set(train).isdisjoint(cases):
            self._calibrate(answers)

    def _explain_missing_scores(self) -> None:
        if self.local_rank != 0:
            return
        if self.label_manager.has_regions:
            names, keys = self.tasks.regions, self.label_manager.foreground_regions
        else:
            names, keys = self.tasks.regions[1:], self.label_manager.foreground_labels  # background is no class
        regions = dict(zip(names, keys, strict=True))
        missing = regions_without_a_score(Path(self.output_folder, "validation", "summary.json"), regions)
        if missing:
            self.print_to_log_file(
                f"Mean Validation Dice is not available because of {listed(missing)}: annotated in no validation case, "
                "or neither there nor predicted in any; the Dice of every other region is in validation/summary.json"
            )

    def _calibrate(self, answers: FinalValidation) -> None:
        """Fit the calibration of every question that was taught, and put it into the checkpoint that was validated."""
        fitted = answers.calibrations(self.image_level.labels)
        taught = {name: one for name, one in fitted.items() if name in self.taught}
        stored = self.add_to_checkpoint(stored_calibrations(taught))
        place = f"stored in {self.checkpoint_file}" if stored else "stored nowhere: there is no checkpoint"
        for name, one in taught.items():
            text = f"calibrated on {one.n_cases} cases" if one.fitted else "not calibrated: too few validation cases"
            self.print_to_log_file(f"Answers to {name}: {text}, {place}")

    def _pad_log(self, n_epochs: int) -> None:
        log = self.logger.local_logger.my_fantastic_logging
        progress.pad_log(log, progress.logged_keys(self.tasks, self.loss_terms, self._weighted_terms), n_epochs)


def _over_ranks(key: str, values: list[Any]) -> Any:
    if key in (PROBABILITIES, TARGETS):
        return np.concatenate(values, axis=1)
    return np.stack(values).sum(0) / (len(values) if "loss" in key else 1)


def _mean(values: Any, where: Any) -> float:
    return float(np.mean(values[where])) if where.any() else 0.0


def _taught_mean(collated: Mapping[str, Any], term: str) -> float:
    """Mean of a term over the batches, on all ranks, that taught it; NaN if none did."""
    taught = collated[f"present/{term}"].sum()
    # a rank whose batch did not teach it has a 0, which the mean over ranks holds too
    return float(collated[f"loss/{term}"].sum() * process_count() / taught) if taught else float("nan")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _shown(value: float | None) -> str:
    return "not available" if value is None else f"{value:.3f}"
