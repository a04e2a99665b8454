"""The difference of the AUCs of two runs that answer the same question in the same cases."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.classification_table import LabelledAnswers
from nnunet_mtl.evaluation.answers.discrimination import area, auc_difference_interval


class AnswerComparisonError(UserError):
    """Two runs answer a question in different cases, so their answers cannot be compared."""


class AnsweredCases(NamedTuple):
    """The cases that enter the metrics of a question.

    Attributes:
        n_cases: Number of cases with a label and an answer.
        unanswered: Names of the cases with a label but without an answer.
    """

    n_cases: int
    unanswered: frozenset[str]

    def __str__(self) -> str:
        return f"{self.n_cases} cases" + (f" without {listed(sorted(self.unanswered))}" if self.unanswered else "")


def require_same_answers(runs: Mapping[str, Mapping[str, AnsweredCases]]) -> None:
    """Refuse runs that answer a question in different cases; a run without any answer to the question is passed over.

    Args:
        runs: Answered cases by run and question.

    Raises:
        AnswerComparisonError: If two runs differ; the message names question, runs and cases.
    """
    for (first, ours), (second, theirs) in combinations(runs.items(), 2):
        for question in ours.keys() & theirs.keys():
            if ours[question].n_cases and theirs[question].n_cases and ours[question] != theirs[question]:
                raise AnswerComparisonError(
                    f"{question}: {first} answers {ours[question]}, {second} {theirs[question]}; predict the same "
                    "cases with both"
                )


def compare_answers(runs: Mapping[str, Mapping[str, LabelledAnswers]]) -> list[dict[str, Any]]:
    """Compare every pair of runs in every question that both runs answer.

    An AUC is computed from all cases together, so there is no value per case for a paired test. The result is the
    bootstrap interval of the difference: both runs use the same resamples, drawn within positives and negatives.

    Args:
        runs: Answers by run and question; all runs answer the same cases.

    Returns:
        One JSON-able entry for every question, class and pair of runs. Of two classes only the second is compared; of
        more classes every class is compared against the rest, and so is every label of a multilabel question. AUC and
        difference are None if the class does not occur, or no other class does.

    Raises:
        AnswerComparisonError: If two runs answer a question in different cases.
    """
    differences = []
    for (first, ours), (second, theirs) in combinations(runs.items(), 2):
        for question in ours:
            if question in theirs and ours[question].cases and theirs[question].cases:
                differences += _differences(first, ours[question], second, theirs[question])
    return differences


def _differences(first: str, ours: LabelledAnswers, second: str, theirs: LabelledAnswers) -> list[dict[str, Any]]:
    question = ours.question
    if set(ours.cases) != set(theirs.cases):
        raise AnswerComparisonError(
            f"{question.name}: {first} and {second} answer it about different cases; predict the same cases with both"
        )
    order = [theirs.cases.index(case) for case in ours.cases]
    their_probabilities = theirs.probabilities[order]
    two = question.kind != "multilabel" and len(question.classes) == 2
    differences = []
    for index in [1] if two else range(len(question.classes)):
        ours_of_class, theirs_of_class = ours.probabilities[:, index], their_probabilities[:, index]
        positive = ours.targets[:, index]
        available = positive.any() and not positive.all()
        areas = [
            float(area(run[positive], run[~positive])) if available else None
            for run in (ours_of_class, theirs_of_class)
        ]
        differences.append(
            {
                "question": question.name,
                "class": question.classes[index],
                "first": first,
                "second": second,
                "n_cases": len(ours.cases),
                "auc": areas,
                "difference_95": auc_difference_interval(ours_of_class, theirs_of_class, positive),
            }
        )
    return differences
