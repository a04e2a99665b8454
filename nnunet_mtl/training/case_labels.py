"""From the case identifiers of a batch to what is known of each image as a whole, and how unequal the classes are."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nnunet_mtl.losses.classification import CaseTargets
from nnunet_mtl.tasks import ClassificationTask, TaskSet

POSITIVE_WEIGHT_BOUNDS = (0.1, 10.0)  # a label with a single positive case would otherwise outweigh everything


class CaseLabels:
    """Looks up the answers of the cases of a batch.

    Its textual form names no case: nnU-Net writes the text of every attribute of a trainer into `debug.json`.

    Args:
        tasks: The task set with its case table.

    Attributes:
        questions: The classification tasks, in their order.
    """

    def __init__(self, tasks: TaskSet) -> None:
        self.questions = tasks.classification
        self._tasks = tasks

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._tasks.cases)} cases, {len(self.questions)} questions)"

    def targets(self, keys: Iterable[str]) -> dict[str, CaseTargets]:
        """Look up the cases of a batch, B of them.

        Returns:
            For each question the classes that hold, (B, C) float32, and whether they are known, (B,) bool; on the CPU.

        Raises:
            TaskSetError: If a case is not in the case table.
        """
        cases = list(keys)
        self._tasks.require_cases(cases)
        return {question.name: self._targets(question, cases) for question in self.questions}

    def labelled(self, cases: Sequence[str]) -> list[str]:
        """Return the cases that have an answer to any question."""
        targets = self.targets(cases)
        return [case for i, case in enumerate(cases) if any(bool(target.known[i]) for target in targets.values())]

    def class_weights(self, cases: Sequence[str], balance: str) -> dict[str, Tensor]:
        """Compute the weight of each class in the loss.

        Args:
            cases: The training cases of the fold: no other case may count.
            balance: "none" (ones) or "inverse": in inverse proportion to the class's number of cases, with mean 1 over
                the classes that occur; for multilabel, cases without the label over cases with it, within
                `POSITIVE_WEIGHT_BOUNDS`. A class that does not occur weighs 1.

        Returns:
            (C,) float32 for each question, on the CPU.
        """
        targets = self.targets(cases)
        if balance == "none":
            return {question.name: torch.ones(len(question.classes)) for question in self.questions}
        return {question.name: _inverse_weights(question, targets[question.name]) for question in self.questions}

    def _targets(self, question: ClassificationTask, cases: Sequence[str]) -> CaseTargets:
        target = torch.zeros(len(cases), len(question.classes))
        known = torch.zeros(len(cases), dtype=torch.bool)
        for row, case in enumerate(cases):
            answer = self._tasks.cases[case].classes.get(question.name)
            if answer is None:
                continue
            known[row] = True
            for name in (answer,) if isinstance(answer, str) else answer:
                target[row, question.classes.index(name)] = 1
        return CaseTargets(target, known)


def _inverse_weights(question: ClassificationTask, targets: CaseTargets) -> Tensor:
    with_class = targets.target.sum(0)
    occurs = with_class > 0
    if question.kind == "multilabel":
        weights = ((targets.known.sum() - with_class) / with_class.clamp_min(1)).clamp(*POSITIVE_WEIGHT_BOUNDS)
    else:
        inverse = occurs / with_class.clamp_min(1)
        weights = inverse * occurs.sum() / inverse.sum()
    return torch.where(occurs, weights, 1.0)
