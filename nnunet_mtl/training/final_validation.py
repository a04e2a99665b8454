"""The final validation: exported maps hold annotated regions only, and the answers are scored.

nnU-Net scores every label in every validation case. A correct prediction of a label that nobody annotated in the case
would count as an error. Maps restricted to the annotated regions of their case make nnU-Net's scores, its
cross-validation summary and its choice of the best configuration right. The maps for the next stage of a cascade are
not restricted.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as TrainerModule
import torch
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from torch import Tensor

from nnunet_mtl.common.messages import listed
from nnunet_mtl.common.swapped_names import swapped
from nnunet_mtl.inference.calibration import Calibration, fit_calibration, stored_calibrations
from nnunet_mtl.inference.predictor import MultiTaskPredictor
from nnunet_mtl.training.case_answers import Answers, cases_of_rank, from_all_ranks

# Far below the threshold, and safe in half precision under the Gaussian weighting of the sliding window.
OFF = -100.0


class FinalValidation:
    """Runs nnU-Net's final validation with restricted exports, and scores and calibrates the answers.

    Args:
        trainer: A `MultiTaskTrainer`.
        train: Identifiers of the training cases of the fold.
        cases: Identifiers of the validation cases in nnU-Net's order.
    """

    def __init__(self, trainer: Any, train: Sequence[str], cases: Sequence[str]) -> None:
        self._trainer = trainer
        self._calibrates = set(train).isdisjoint(cases)
        self._annotated = {case: trainer.cases.tasks.annotated(case) for case in cases}
        self._cases = sorted(cases_of_rank(trainer, cases))  # nnU-Net sorts the cases of a rank
        # one entry per case of this rank in the order of prediction: probabilities and logits by question
        self._answers: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let nnU-Net's validation export restricted maps, and predict with a predictor that keeps the answers."""
        answers = self._answers

        class AnswerKeepingPredictor(MultiTaskPredictor):
            def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
                logits = super().predict_sliding_window_return_logits(input_image)
                (case_logits,) = self.case_logits() or [{}]
                answers.append((self.probabilities(), case_logits))
                return logits

        with (
            swapped(TrainerModule, "export_prediction_from_logits", RestrictedExport(self._annotated)),
            swapped(TrainerModule, "nnUNetPredictor", AnswerKeepingPredictor),
            warnings.catch_warnings(),
        ):
            # NumPy warns of the mean of a region that no case can score; `explain_missing_scores` names the region
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            yield

    def report(self) -> None:
        """Log the scores of the answers; if no validation case was trained on, store calibrations of the answers."""
        self.explain_missing_scores()
        if not self._trainer.tasks.classification:
            return
        self._trainer.monitor.answers.report(self._trainer.image_level.case_scores(self.probabilities()))
        if self._calibrates:
            self.store_calibrations()

    def explain_missing_scores(self) -> None:
        """Log the regions without a score in any validation case, if there are some."""
        trainer = self._trainer
        if trainer.local_rank != 0:
            return
        if trainer.label_manager.has_regions:
            names, keys = trainer.tasks.regions, trainer.label_manager.foreground_regions
        else:
            names, keys = trainer.tasks.regions[1:], trainer.label_manager.foreground_labels  # background is no class
        regions = dict(zip(names, keys, strict=True))
        missing = regions_without_a_score(Path(trainer.output_folder, "validation", "summary.json"), regions)
        if missing:
            trainer.print_to_log_file(
                f"Mean Validation Dice is not available because of {listed(missing)}: annotated in no validation case, "
                "or neither there nor predicted in any; the Dice of every other region is in validation/summary.json"
            )

    def probabilities(self) -> Answers:
        """Return the answers of all ranks by case, then question: the probabilities of the classes, (C,)."""
        answers = {case: shares for case, (shares, _) in zip(self._cases, self._answers, strict=True)}
        return from_all_ranks(self._trainer, answers)

    def calibrations(self) -> dict[str, Calibration]:
        """Fit temperature and thresholds of every question on the labelled cases.

        Returns:
            Calibrations by question; the default calibration if there were too few cases.
        """
        labels = self._trainer.image_level.labels
        logits = from_all_ranks(
            self._trainer, {case: answer for case, (_, answer) in zip(self._cases, self._answers, strict=True)}
        )
        targets = labels.targets(logits)
        fitted = {}
        for question in labels.questions:
            target, known = targets[question.name]
            stacked = torch.stack([answers[question.name] for answers in logits.values()])
            fitted[question.name] = fit_calibration(question, stacked[known], target[known])
        return fitted

    def store_calibrations(self) -> None:
        """Add the calibration of every taught question to the checkpoint that was validated."""
        trainer = self._trainer
        taught = {
            name: fitted for name, fitted in self.calibrations().items() if name in trainer.monitor.answers.taught
        }
        is_stored = trainer.checkpoints.add(stored_calibrations(taught), rank=trainer.local_rank)
        place = f"stored in {trainer.checkpoints.file}" if is_stored else "stored nowhere: there is no checkpoint"
        for name, fitted in taught.items():
            text = (
                f"calibrated on {fitted.n_cases} cases" if fitted.fitted else "not calibrated: too few validation cases"
            )
            trainer.print_to_log_file(f"Answers to {name}: {text}, {place}")


class RestrictedExport:
    """Replaces nnU-Net's `export_prediction_from_logits` during the final validation; nnU-Net pickles it for workers.

    Args:
        annotated: Which of the R regions are annotated, (R,), by validation case.
    """

    def __init__(self, annotated: Mapping[str, tuple[bool, ...]]) -> None:
        self._annotated = dict(annotated)

    def __call__(
        self,
        prediction: Tensor,
        properties: dict[str, Any],
        configuration_manager: Any,
        plans_manager: Any,
        dataset_json: dict[str, Any],
        output_file_truncated: str,
        *rest: Any,
    ) -> None:
        """Set the logits of un-annotated regions to `OFF` in a copy, and let nnU-Net export the copy.

        The other arguments are those of nnU-Net's function.

        Args:
            prediction: Logits, (R, *spatial).
            properties: Properties of the image from nnU-Net's reader.
            configuration_manager: Passed on.
            plans_manager: Passed on.
            dataset_json: Passed on.
            output_file_truncated: Path without ending; its last part is the case identifier.
            *rest: Passed on.
        """
        annotated = torch.tensor(self._annotated[Path(output_file_truncated).name])
        visible = annotated.view(-1, *(1,) * (prediction.ndim - 1))
        # a new tensor, because the exports for the next stage read the same shared memory
        restricted = torch.where(visible, prediction, torch.full_like(prediction, OFF))
        export_prediction_from_logits(
            restricted,
            properties,
            configuration_manager,
            plans_manager,
            dataset_json,
            output_file_truncated,
            *rest,
        )


def regions_without_a_score(summary: Path, regions: Mapping[str, Any]) -> list[str]:
    """Return the regions whose mean Dice is not available in the summary of a validation.

    Args:
        summary: nnU-Net's `summary.json`.
        regions: Keys of `summary` by the name of the region: the label, or the tuple of the region's labels.
    """
    means = load_summary_json(str(summary))["mean"]
    return [name for name, key in regions.items() if math.isnan(means[key]["Dice"])]
