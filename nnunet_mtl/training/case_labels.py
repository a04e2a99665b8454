"""Looks up image-level answers by case identifier, and computes class weights for the loss."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nnunet_mtl.losses.classification import CaseTargets
from nnunet_mtl.tasks import ClassificationTask, TaskSet

POSITIVE_WEIGHT_BOUNDS = (0.1, 10.0)  # without bounds a label with one positive case would outweigh all others


class CaseLabels:
    """Looks up the known answers of the cases of a batch.

    The repr names no case, because nnU-Net writes the repr of every attribute of a trainer into `debug.json`.

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
        """Look up the answers of B cases.

        Returns:
            By question the classes that hold, (B, C) float32, and whether the answer is known, (B,) bool; on the CPU.

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
            cases: The training cases of the fold.
            balance: "none": all weights are 1. "inverse": weights are in inverse proportion to the class's number of
                cases, with mean 1 over the classes that occur; a multilabel class weighs the number of cases without
                the label over the number with it, within `POSITIVE_WEIGHT_BOUNDS`. A class that does not occur
                weighs 1.

        Returns:
            Weights by question, (C,) float32, on the CPU.
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
