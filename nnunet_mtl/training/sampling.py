"""How often each training case is drawn.

Partially labelled unions are unequal: uniform drawing over cases lets the largest collection decide. The inverse square
root rule is the one of MultiTalent (Ulrich et al., MICCAI 2023).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.tasks import TaskSet

_WEIGHT_OF_A_TASK_WITH: dict[str, Callable[[int], float]] = {
    "tasks": lambda n_cases: 1 / n_cases,
    "sqrt": lambda n_cases: n_cases**-0.5,
}


def sampling_probabilities(tasks: TaskSet, cases: Sequence[str], rule: str) -> NDArray[np.float64] | None:
    """Probability of drawing each case.

    A case counts for each of its annotated tasks; cases without any annotation (a class label only) form a group of
    their own.

    Args:
        tasks: Knows which tasks are annotated in which case.
        cases: Case identifiers in the loader's order.
        rule: "cases" (uniform over cases), "tasks" (uniform over tasks) or "sqrt" (a case of a task with n cases
            weighs 1/sqrt(n)).

    Returns:
        Probabilities that sum to one, (len(cases),), or None for "cases": nnU-Net's own uniform drawing.
    """
    if rule == "cases":
        return None
    groups = [tasks.annotated_tasks(case) or (-1,) for case in cases]
    n_cases = np.bincount(np.concatenate([np.asarray(group) for group in groups]) + 1)
    weight = _WEIGHT_OF_A_TASK_WITH[rule]
    weights = np.array([sum(weight(int(n_cases[task + 1])) for task in group) for group in groups])
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities
