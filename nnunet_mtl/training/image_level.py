"""The image-level questions in training: the loss of their answers, and the scores of the answers for the log."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_mtl.evaluation.answers.point_metrics import PointMetrics, point_metrics
from nnunet_mtl.losses.classification import ClassificationLoss, n_outputs, probabilities
from nnunet_mtl.networks.classification import KnownEvidence, Question
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.batch_annotation import BatchAnnotation
from nnunet_mtl.training.case_labels import CaseLabels

FloatArray = NDArray[np.float64]
LOSS_TERM = "classification"
PROBABILITIES, TARGETS = "class/probabilities", "class/targets"


def questions_of(tasks: TaskSet, *, with_evidence: bool = True) -> list[Question]:
    """Describe the questions of a task set to a network: number of outputs and evidence region of every question.

    Args:
        tasks: The task set.
        with_evidence: Whether the network gets evidence regions; without, every `evidence` is -1.
    """
    described: list[Question] = []
    for question in tasks.classification:
        known = with_evidence and question.evidence is not None
        region = tasks.regions.index(str(question.evidence)) if known else -1
        owner = -1 if region < 0 else tasks.task_of_region[region]
        outputs = n_outputs(question.kind, len(question.classes))
        described.append({"name": question.name, "outputs": outputs, "evidence": region, "task": owner})
    return described


class ImageLevelTraining:
    """Loss and scores of the questions of a data set; both are empty without questions.

    The repr names no case, because nnU-Net writes the repr of every attribute of a trainer into `debug.json`.

    Args:
        tasks: The task set with its case table.
        settings: Settings of the run.
        with_evidence: Whether the network gets evidence regions, see `questions_of`.
    """

    def __init__(self, tasks: TaskSet, settings: Settings, *, with_evidence: bool = True) -> None:
        self.labels = CaseLabels(tasks)
        self.questions = questions_of(tasks, with_evidence=with_evidence)
        self._settings = settings
        self._warmup_epochs = settings.class_warmup * settings.epochs
        self._random = np.random.default_rng()
        # until `use_training_cases` every class weighs the same
        self._loss = self._loss_with({q.name: torch.ones(len(q.classes)) for q in tasks.classification})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[question['name'] for question in self.questions]})"

    def loss_terms(self, *, per_question: bool = False) -> tuple[str, ...]:
        """Return the names of the terms that `losses` returns: one for all questions, or one per question."""
        if per_question:
            return tuple(f"{LOSS_TERM}/{question['name']}" for question in self.questions)
        return (LOSS_TERM,) if self.questions else ()

    def use_training_cases(self, cases: Sequence[str]) -> None:
        """Weigh the classes by their frequency in the training cases of the fold."""
        self._loss = self._loss_with(self.labels.class_weights(cases, self._settings.class_balance))

    def _loss_with(self, class_weights: Mapping[str, Tensor]) -> ClassificationLoss | None:
        if not self.questions:
            return None
        return ClassificationLoss(self.labels.questions, class_weights, self._settings.half_evidence)

    def known_evidence(self, target: Tensor, annotated: Tensor, *, epoch: int, training: bool) -> KnownEvidence | None:
        """Return the annotated evidence of every question; training hides a share of it after the warm-up.

        A sample whose evidence is hidden uses the network's own mask, as in prediction. A head that had seen
        annotated masks alone would fail on predicted ones, which are frayed, cut, or in the wrong place.

        Args:
            target: Region targets at full resolution, (B, R or more, *spatial) bool, on the device.
            annotated: Regions that are annotated, (B, R) bool, on the CPU.
            epoch: Counted from 0.
            training: Whether evidence may be hidden.

        Returns:
            Masks and whether they are known, or None if no question has an evidence region.
        """
        regions = [question["evidence"] for question in self.questions]
        if max(regions, default=-1) < 0:
            return None
        columns = torch.tensor(regions).clamp_min(0)
        known = annotated[:, columns] & (torch.tensor(regions) >= 0)
        if training and epoch >= self._warmup_epochs:
            known &= torch.from_numpy(self._random.random(len(known)) >= self._settings.own_evidence)[:, None]
        return KnownEvidence(target[:, columns.to(target.device)], known.to(target.device, non_blocking=True))

    def losses(
        self,
        output: MultiTaskOutput,
        batch: BatchAnnotation,
        *,
        conditioned: bool,
        epoch: int,
        per_question: bool = False,
    ) -> dict[str, Tensor]:
        """Return the weighted losses of the answers, scalars by the names of `loss_terms`; empty without questions.

        Args:
            output: Output of the network, for the drawn tasks.
            batch: Annotation of the samples.
            conditioned: Whether a question can be answered only in the pass of its evidence's task.
            epoch: Counted from 0.
            per_question: Whether every question has a term of its own.
        """
        if self._loss is None:
            return {}
        warm = epoch >= self._warmup_epochs
        weight = self._settings.class_weight * (1.0 if warm else (epoch + 1) / (self._warmup_epochs + 1))
        usable = self._usable(batch, conditioned=conditioned, own_evidence=warm)
        targets = self.labels.targets(batch.keys)
        return {
            term: weight * self._loss(output.classification, targets, output.evidence, usable & columns)
            for term, columns in self._questions_of_term(per_question).items()
        }

    def present(
        self, batch: BatchAnnotation, *, conditioned: bool, epoch: int, per_question: bool = False
    ) -> dict[str, bool]:
        """Return whether a batch teaches each term; the arguments are those of `losses`."""
        targets = self.labels.targets(batch.keys)
        if not self.questions:
            return {}
        usable = self._usable(batch, conditioned=conditioned, own_evidence=epoch >= self._warmup_epochs)
        known = torch.stack([targets[question["name"]].known for question in self.questions], dim=1)
        return {
            term: bool((usable & known & columns).any())
            for term, columns in self._questions_of_term(per_question).items()
        }

    def _questions_of_term(self, per_question: bool) -> dict[str, Tensor]:
        """Return by term the mask of its questions, (Q,) bool."""
        columns = torch.eye(len(self.questions), dtype=torch.bool) if per_question else [torch.tensor(True)]
        return dict(zip(self.loss_terms(per_question=per_question), columns, strict=False))

    def numbers(self, output: MultiTaskOutput, batch: BatchAnnotation, *, conditioned: bool) -> dict[str, FloatArray]:
        """Return the answers for the patches of a batch, NaN where an answer does not count or has no label.

        Returns:
            Probabilities and targets, each (B, Q, C) with C the largest number of classes; empty without questions.
        """
        if not self.questions:
            return {}
        n_classes = max(len(question.classes) for question in self.labels.questions)
        shape = (len(batch.keys), len(self.questions), n_classes)
        answered, wanted = np.full(shape, np.nan), np.full(shape, np.nan)
        usable = self._usable(batch, conditioned=conditioned, own_evidence=True)
        targets = self.labels.targets(batch.keys)
        for index, question in enumerate(self.labels.questions):
            rows = (usable[:, index] & targets[question.name].known).numpy()
            predicted = probabilities(question.kind, output.classification[question.name]).cpu().numpy()
            answered[rows, index, : len(question.classes)] = predicted[rows]
            wanted[rows, index, : len(question.classes)] = targets[question.name].target.numpy()[rows]
        return {PROBABILITIES: answered, TARGETS: wanted}

    def patch_scores(self, answered: FloatArray, wanted: FloatArray) -> dict[str, PointMetrics]:
        """Score the answers for the patches of an epoch by question; both arrays are (N, Q, C), see `numbers`."""
        results = {}
        for index, question in enumerate(self.labels.questions):
            rows = ~np.isnan(answered[:, index, 0])
            columns = slice(len(question.classes))
            results[question.name] = point_metrics(
                answered[rows, index, columns], wanted[rows, index, columns], question.kind
            )
        return results

    def case_scores(self, answers: Mapping[str, Mapping[str, Any]]) -> dict[str, PointMetrics]:
        """Score the answers for whole cases by question; cases without a label do not count.

        Args:
            answers: Probabilities, (C,), by case, then question.
        """
        targets = self.labels.targets(answers)
        results = {}
        for question in self.labels.questions:
            known = targets[question.name].known.numpy()
            answered = np.reshape([case[question.name] for case in answers.values()], (-1, len(question.classes)))
            results[question.name] = point_metrics(
                answered[known], targets[question.name].target.numpy()[known], question.kind
            )
        return results

    def _usable(self, batch: BatchAnnotation, *, conditioned: bool, own_evidence: bool) -> Tensor:
        """Return which answers may count, (B, Q) bool.

        Args:
            batch: Annotation of the samples.
            conditioned: Whether a question can be answered only in the pass of its evidence's task.
            own_evidence: Whether an answer counts that reads a predicted mask of the evidence.
        """
        task = torch.tensor([question["task"] for question in self.questions], dtype=torch.long)
        region = torch.tensor([question["evidence"] for question in self.questions], dtype=torch.long)
        usable = torch.ones(len(batch.keys), len(self.questions), dtype=torch.bool)
        if conditioned:
            usable &= (task < 0) | (batch.task[:, None] == task)
        if not own_evidence:
            usable &= (region < 0) | batch.annotated[:, region.clamp_min(0)]
        return usable
