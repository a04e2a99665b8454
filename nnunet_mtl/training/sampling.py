"""How often a training case is drawn, by its annotated tasks and its class labels.

In a union of data sets, uniform drawing over cases favours the largest data set. The rule "sqrt" is that of MultiTalent
(Ulrich et al., MICCAI 2023) if every case has one task and every task comes from one data set. MultiTalent counts data
sets; here tasks are counted, and a case with several tasks has the sum of their weights.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.tasks import TaskSet

_WEIGHT_OF_A_TASK_WITH: dict[str, Callable[[int], float]] = {
    "tasks": lambda n_cases: 1 / n_cases,
    "sqrt": lambda n_cases: n_cases**-0.5,
}


def sampling_probabilities(
    tasks: TaskSet, cases: Sequence[str], rule: str, class_sampling: str = "none"
) -> NDArray[np.float64] | None:
    """Return the probability of drawing every case.

    A case counts for each of its annotated tasks. Cases without annotation, which have class labels only, count as one
    further task.

    Args:
        tasks: The task set with its case table.
        cases: Case identifiers in the loader's order.
        rule: "cases" (uniform over cases), "tasks" (uniform over tasks) or "sqrt" (a case of a task with n cases
            weighs 1/sqrt(n)).
        class_sampling: "none", or "balanced": all classes that occur among the labelled cases of a question are drawn
            equally often, and labelled cases together as often as by the rule alone. This holds exactly for one
            question; with several questions the weight of a case is multiplied by the mean of their factors. For a
            multilabel question the factor is the mean over its labels, each balanced between yes and no.

    Returns:
        Probabilities that sum to one, (len(cases),), or None for "cases" and "none": nnU-Net's own uniform drawing.
    """
    if rule == "cases" and class_sampling == "none":
        return None
    weights = np.ones(len(cases)) if rule == "cases" else _task_weights(tasks, cases, rule)
    if class_sampling == "balanced":
        weights = weights * _class_factors(tasks, cases, weights)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def _task_weights(tasks: TaskSet, cases: Sequence[str], rule: str) -> NDArray[np.float64]:
    groups = [tasks.annotated_tasks(case) or (-1,) for case in cases]
    n_cases = np.bincount(np.concatenate([np.asarray(group) for group in groups]) + 1)
    weight = _WEIGHT_OF_A_TASK_WITH[rule]
    return np.array([sum(weight(int(n_cases[task + 1])) for task in group) for group in groups])


def _class_factors(tasks: TaskSet, cases: Sequence[str], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factors of the weights that balance the classes, (len(cases),); 1 for a case without label."""
    per_case: list[list[float]] = [[] for _ in cases]
    for question in tasks.classification:
        rows = [row for row, case in enumerate(cases) if question.name in tasks.cases[case].classes]
        answers = [tasks.cases[cases[row]].classes[question.name] for row in rows]
        splits: list[list[object]] = [list(answers)]
        if question.kind == "multilabel":
            splits = [[label in answer for answer in answers] for label in question.classes]
        factors = np.mean([_balancing(split, weights[rows]) for split in splits], axis=0)
        for row, factor in zip(rows, factors, strict=True):
            per_case[row].append(float(factor))
    return np.array([np.mean(factors) if factors else 1.0 for factors in per_case])


def _balancing(answers: Sequence[object], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return factors, one per case, with which all distinct answers weigh the same and the total weight is kept."""
    total: dict[object, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        total[answer] = total.get(answer, 0.0) + float(weight)
    return np.array([weights.sum() / len(total) / total[answer] for answer in answers])
