"""Runs that answer the same question about the same cases, side by side: the difference of their AUCs."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from nnunet_mtl.errors import UserError
from nnunet_mtl.evaluation.case_answers import LabelledAnswers
from nnunet_mtl.evaluation.discrimination import area, auc_difference_interval


class AnswerComparisonError(UserError):
    """The answers of runs cannot be compared."""


def compare_answers(runs: Mapping[str, Mapping[str, LabelledAnswers]]) -> list[dict[str, Any]]:
    """Compare every pair of runs in every question both answer.

    An AUC is of all cases together, so there is no value per case to test: the interval of the difference is given,
    by bootstrap over the cases, drawn once for both runs and within positives and negatives.

    Args:
        runs: The answers to each question, by run and question; of the same cases.

    Returns:
        Per question, class and pair, JSON-able. Of two classes the second is the positive one; of more, and of labels,
        each is against the rest. None is not available: a class that does not occur.

    Raises:
        AnswerComparisonError: If two runs answer a question about different cases.
    """
    found = []
    for (first, ours), (second, theirs) in combinations(runs.items(), 2):
        for question in ours:
            if question in theirs:
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
                "auc": areas,
                "difference_95": auc_difference_interval(mine, others, positive),
            }
        )
    return found
