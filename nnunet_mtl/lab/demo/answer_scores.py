"""Scores of a demonstration's image-level answers against the true classes of the phantoms."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.common.files import references_table
from nnunet_mtl.datasets.classification_table import read_answers
from nnunet_mtl.evaluation.answers.discrimination import auc_interval
from nnunet_mtl.evaluation.answers.point_metrics import PointMetrics, point_metrics_of_table
from nnunet_mtl.inference.answers import CSV_NAME
from nnunet_mtl.lab.demo.picture import CaseAnswer
from nnunet_mtl.tasks import TaskSet, read_dataset_json


@dataclass(frozen=True)
class Answers:
    """The answers to a question with two classes, and their scores.

    Attributes:
        question: Name of the question.
        classes: The two classes; probabilities are of the second.
        cases: Names of the labelled test cases, N of them.
        probability: Probability of the second class for each labelled test case, (N,).
        positive: Whether the second class is true, (N,) bool.
        scores: Point metrics such as the AUC.
        interval: 95 % interval of the AUC; None if there are too few cases.
    """

    question: str
    classes: tuple[str, str]
    cases: tuple[str, ...]
    probability: NDArray[np.float64]
    positive: NDArray[np.bool_]
    scores: PointMetrics
    interval: tuple[float, float] | None

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve; None if a class has no case."""
        return self.scores.metrics["auc"]

    def answer_of(self, case: str) -> CaseAnswer | None:
        """Return the answer for one case and the true class; None if the case has no label or no answer."""
        if case not in self.cases:
            return None
        index = self.cases.index(case)
        return CaseAnswer(self.question, self.classes, float(self.probability[index]), bool(self.positive[index]))

    def to_mapping(self) -> dict[str, Any]:
        """Return the figures as JSON-able values."""
        return {
            "question": self.question,
            "cases": {name: int(np.sum(self.positive == bool(i))) for i, name in enumerate(self.classes)},
            **self.scores.metrics,
            "auc_95": None if self.interval is None else list(self.interval),
        }


def read_answered(folder: Path, truth: Path) -> Answers:
    """Score what `nnunet_mtl predict` wrote for the only question of the phantoms.

    Args:
        folder: Holds `classification.csv`.
        truth: Folder of references, beside which is a JSON file whose case table has the test cases' classes.
    """
    source = references_table(truth)
    tasks = TaskSet.from_dataset_json(read_dataset_json(source), str(source))
    (question,) = tasks.classification
    first, second = question.classes
    answered = read_answers(folder / CSV_NAME).get(question.name, {})
    labels = {name: case.classes[question.name] for name, case in tasks.cases.items() if question.name in case.classes}
    cases = [case for case in labels if case in answered]
    probability = np.array([answered[case][second] for case in cases], dtype=float)
    positive = np.array([labels[case] == second for case in cases], dtype=bool)
    scores = point_metrics_of_table(folder / CSV_NAME, tasks)[question.name]
    interval = auc_interval(probability, positive)
    return Answers(question.name, (first, second), tuple(cases), probability, positive, scores, interval)
