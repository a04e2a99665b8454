"""Runs that answer the same question about the same cases, side by side: the difference of their AUCs."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.classification_table import LabelledAnswers
from nnunet_mtl.evaluation.discrimination import area, auc_difference_interval


class AnswerComparisonError(UserError):
    """The answers of runs cannot be compared."""


class AnsweredCases(NamedTuple):
    """Of which cases the figures of a question are.

    Attributes:
        n_cases: How many have a label and an answer.
        unanswered: Names of those with a label and without an answer.
    """

    n_cases: int
    unanswered: frozenset[str]

    def __str__(self) -> str:
        return f"{self.n_cases} cases" + (f" without {listed(sorted(self.unanswered))}" if self.unanswered else "")


def require_same_answers(runs: Mapping[str, Mapping[str, AnsweredCases]]) -> None:
    """Refuse runs that answer a question about different cases; a run that answers it nowhere does not count.

    Args:
        runs: By run and question.

    Raises:
        AnswerComparisonError: Naming question, runs and cases.
    """
    for (first, ours), (second, theirs) in combinations(runs.items(), 2):
        for question in ours.keys() & theirs.keys():
            if ours[question].n_cases and theirs[question].n_cases and ours[question] != theirs[question]:
                raise AnswerComparisonError(
                    f"{question}: {first} answers {ours[question]}, {second} {theirs[question]}; predict the same "
                    "cases with both"
                )


def compare_answers(runs: Mapping[str, Mapping[str, LabelledAnswers]]) -> list[dict[str, Any]]:
    """Compare every pair of runs in every question both answer.

    An AUC is of all cases together, so there is no value per case to test: the interval of the difference is given,
    by bootstrap over the cases, drawn once for both runs and within positives and negatives.

    Args:
        runs: The answers to each question, by run and question; of the same cases.

    Returns:
        Per question, class and pair, JSON-able, with the number of cases. Of two classes the second is the positive
        one; of more, and of labels, each is against the rest. None is not available: a class that does not occur.

    Raises:
        AnswerComparisonError: If two runs answer a question about different cases.
    """
    found = []
    for (first, ours), (second, theirs) in combinations(runs.items(), 2):
        for question in ours:
            if question in theirs and ours[question].cases and theirs[question].cases:
                found += _differences(first, ours[question], second, theirs[question])
    return found


def _differences(first: str, ours: LabelledAnswers, second: str, theirs: LabelledAnswers) -> list[dict[str, Any]]:
    question = ours.question
    if set(ours.cases) != set(theirs.cases):
        raise AnswerComparisonError(
            f"{question.name}: {first} and {second} answer it about different cases; predict the same cases with both"
        )
    order = [theirs.cases.index(case) for case in ours.cases]
    other = theirs.probabilities[order]
    two = question.kind != "multilabel" and len(question.classes) == 2
    found = []
    for index in [1] if two else range(len(question.classes)):
        mine, others, positive = ours.probabilities[:, index], other[:, index], ours.targets[:, index]
        available = positive.any() and not positive.all()
        areas = [float(area(run[positive], run[~positive])) if available else None for run in (mine, others)]
        found.append(
            {
                "question": question.name,
                "class": question.classes[index],
                "first": first,
                "second": second,
                "n_cases": len(ours.cases),
                "auc": areas,
                "difference_95": auc_difference_interval(mine, others, positive),
            }
        )
    return found
