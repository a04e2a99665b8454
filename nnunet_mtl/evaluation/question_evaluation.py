"""The evaluation of image-level answers: every question of a data set, and every label or class of it by itself."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_mtl.datasets.classification_table import LabelledAnswers
from nnunet_mtl.evaluation.answer_scores import AnswerScores, metric_names, score_answers
from nnunet_mtl.evaluation.calibration_scores import N_BINS
from nnunet_mtl.evaluation.statistics import CONFIDENCE, N_RESAMPLES
from nnunet_mtl.evaluation.stored_answers import read_labelled_answers
from nnunet_mtl.tasks import TaskSet


@dataclass(frozen=True)
class QuestionEvaluation:
    """What is reported of one question.

    Attributes:
        answered: Cases, probabilities, labels and answers that it is about.
        metrics: By name, of the whole question; None is not available. For multilabel, means over the labels for which
            both answers occur; `macro_f1` is then the mean of the labels' `f1`.
        whole: With intervals and figures; None for multilabel.
        of_class: For multilabel every label (no, yes), for more than two classes each class against the rest (other,
            this one); empty for two classes.
        averaged: For multilabel, the labels that are in the means.
    """

    answered: LabelledAnswers
    metrics: Mapping[str, float | None]
    whole: AnswerScores | None
    of_class: Mapping[str, AnswerScores]
    averaged: tuple[str, ...] = ()

    @property
    def decided_by(self) -> str:
        """What all scores rest on that look at answers and not at probabilities, in words."""
        if self.answered.stored:
            return "answers stored with the prediction"
        return "threshold 0.5" if self.answered.thresholds else "likeliest class"

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-able values; `ece` is over `ece_bins` bins of equal width."""
        question, n_of_class = self.answered.question, self.answered.targets.sum(0).tolist()
        return {
            **question.to_json(),
            "n_cases": len(self.answered.cases),
            "n_labelled": self.answered.n_labelled,
            "n_of_class": dict(zip(question.classes, n_of_class, strict=True)),
            "unanswered": list(self.answered.unanswered),
            "unknown": list(self.answered.unknown),
            "decided_by": self.decided_by,
            "thresholds": list(self.answered.thresholds),
            "ece_bins": N_BINS,
            **({} if self.whole is None else self.whole.to_mapping()),
            "metrics": dict(self.metrics),
            "averaged": list(self.averaged),
            "of_class": {name: found.to_mapping() for name, found in self.of_class.items()},
        }


def evaluate_table(
    path: Path,
    taskset: TaskSet,
    cases: Iterable[str] | None = None,
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[str, QuestionEvaluation]:
    """Evaluate a `classification.csv`, with the JSON file beside it, by the labels of a data set.

    Args:
        path: The table.
        taskset: Names the questions and holds the labels.
        cases: Only these count; None is every case with a label.
        confidence: Of the intervals, 0 to 1.
        n_resamples: Bootstrap samples of each interval.
        seed: Of the drawing.

    Returns:
        The evaluation of every question of the task set, without a case if nothing in the table answers it.

    Raises:
        AnswersError: If the files cannot be read or do not fit the data set.
    """
    every = read_labelled_answers(path, taskset, cases)
    return {
        name: evaluate_answers(answered, confidence=confidence, n_resamples=n_resamples, seed=seed)
        for name, answered in every.items()
    }


def evaluate_answers(
    answered: LabelledAnswers, *, confidence: float = CONFIDENCE, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> QuestionEvaluation:
    """Evaluate the answers to one question; the options are those of `evaluate_table`."""
    question = answered.question
    options: dict[str, Any] = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    tables = (answered.probabilities, answered.targets, answered.answers)
    of_class = {}
    if question.kind == "multilabel" or len(question.classes) > 2:
        for index, name in enumerate(question.classes):
            of_class[name] = score_answers(*(_against_rest(table[:, index]) for table in tables), **options)
    if question.kind == "multilabel":
        available = {name: one.metrics for name, one in of_class.items() if one.roc is not None}
        return QuestionEvaluation(answered, _means(list(available.values())), None, of_class, tuple(available))
    whole = score_answers(*tables, ordinal=question.kind == "ordinal", **options)
    return QuestionEvaluation(answered, whole.metrics, whole, of_class)


def _against_rest(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Make two columns of a class's one, (N,): not this class, and this class, (N, 2)."""
    return np.stack([~column if column.dtype == bool else 1 - column, column], 1)


def _means(labels: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in metric_names(2):
        values = [value for label in labels if (value := label[name]) is not None]
        means[name] = float(np.mean(values)) if values else None
    # The macro F1 of several labels is the mean of the F1 of each; that of a single label, yes and no, is another.
    means["macro_f1"] = means.pop("f1")
    return means
