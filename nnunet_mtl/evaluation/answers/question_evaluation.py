"""The evaluation of image-level answers: metrics of every question of a data set, and of every label or class."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_mtl.datasets.classification_table import LabelledAnswers
from nnunet_mtl.evaluation.answers.calibration import N_BINS
from nnunet_mtl.evaluation.answers.labelled_answers import read_labelled_answers
from nnunet_mtl.evaluation.answers.question_metrics import QuestionMetrics, measure_answers, metric_names
from nnunet_mtl.evaluation.statistics import CONFIDENCE, N_RESAMPLES
from nnunet_mtl.tasks import TaskSet


@dataclass(frozen=True)
class QuestionEvaluation:
    """The evaluation of one question.

    Attributes:
        answered: Cases, probabilities, labels and answers.
        metrics: Metrics of the whole question by name; None where a metric is not available. For multilabel, means over
            the labels that are true in some cases and false in others; `macro_f1` is then the mean of the labels' `f1`.
        whole: Metrics of the whole question with intervals and curves; None for multilabel.
        of_class: For multilabel the metrics of every label (no, yes), for more than two classes of every class against
            the rest (other, this class); empty for two classes.
        averaged: For multilabel, the names of the labels that enter the means.
    """

    answered: LabelledAnswers
    metrics: Mapping[str, float | None]
    whole: QuestionMetrics | None
    of_class: Mapping[str, QuestionMetrics]
    averaged: tuple[str, ...] = ()

    @property
    def decided_by(self) -> str:
        """How the answers were chosen from the probabilities, in words."""
        if self.answered.stored:
            return "answers stored with the prediction"
        return "threshold 0.5" if self.answered.thresholds else "likeliest class"

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-able values; `ece` is over `ece_bins` bins of equal width."""
        question, class_counts = self.answered.question, self.answered.targets.sum(0).tolist()
        return {
            **question.to_json(),
            "n_cases": len(self.answered.cases),
            "n_labelled": self.answered.n_labelled,
            "n_of_class": dict(zip(question.classes, class_counts, strict=True)),
            "unanswered": list(self.answered.unanswered),
            "unknown": list(self.answered.unknown),
            "decided_by": self.decided_by,
            "thresholds": list(self.answered.thresholds),
            "ece_bins": N_BINS,
            **({} if self.whole is None else self.whole.to_mapping()),
            "metrics": dict(self.metrics),
            "averaged": list(self.averaged),
            "of_class": {name: metrics.to_mapping() for name, metrics in self.of_class.items()},
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
    """Evaluate a `classification.csv`, with the JSON file beside it, against the labels of a data set.

    Args:
        path: The table.
        taskset: Questions of the data set and labels of its cases.
        cases: Names of the cases to use; None uses every case with a label.
        confidence: Level of the intervals, 0 to 1.
        n_resamples: Number of bootstrap samples of every interval.
        seed: Seed of the random numbers.

    Returns:
        The evaluation of every question of the task set; it has no case if the table does not answer the question.

    Raises:
        AnswersError: If the files cannot be read or do not fit the data set.
    """
    labelled = read_labelled_answers(path, taskset, cases)
    return {
        name: evaluate_answers(answered, confidence=confidence, n_resamples=n_resamples, seed=seed)
        for name, answered in labelled.items()
    }


def evaluate_answers(
    answered: LabelledAnswers, *, confidence: float = CONFIDENCE, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> QuestionEvaluation:
    """Evaluate the answers to one question; the other arguments are those of `evaluate_table`."""
    question = answered.question
    options: dict[str, Any] = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    tables = (answered.probabilities, answered.targets, answered.answers)
    of_class = {}
    if question.kind == "multilabel" or len(question.classes) > 2:
        for index, name in enumerate(question.classes):
            of_class[name] = measure_answers(*(_against_rest(table[:, index]) for table in tables), **options)
    if question.kind == "multilabel":
        available = {name: measured.metrics for name, measured in of_class.items() if measured.roc is not None}
        return QuestionEvaluation(answered, _means(list(available.values())), None, of_class, tuple(available))
    whole = measure_answers(*tables, ordinal=question.kind == "ordinal", **options)
    return QuestionEvaluation(answered, whole.metrics, whole, of_class)


def _against_rest(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the column of a class, (N,), as two columns, (N, 2): not this class, and this class."""
    return np.stack([~column if column.dtype == bool else 1 - column, column], 1)


def _means(labels: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in metric_names(2):
        values = [value for label in labels if (value := label[name]) is not None]
        means[name] = float(np.mean(values)) if values else None
    # The macro F1 of several labels is the mean of their F1; the macro F1 of one label (no, yes) is another number.
    means["macro_f1"] = means.pop("f1")
    return means
