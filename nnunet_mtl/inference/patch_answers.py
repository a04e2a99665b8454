"""Combines the answers that a network gives for the patches of a case into one answer for the case.

A patch counts once, however many mirrored views of the patch the network saw. Every rule of combination results in
logits of the case, so that one temperature calibrates any rule.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nnunet_mtl.losses.classification import probabilities
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.tasks import ClassificationTask
from nnunet_mtl.tasks.settings import Settings

# Voxels, far below one voxel: it matters only in a case without any evidence.
_LEAST_EVIDENCE = 1e-9
# Single precision barely tells such a probability from 0 or 1: the logits of "noisy_or" stay within +-16.
_LEAST_PROBABILITY = 1e-7


class PatchAnswers(NamedTuple):
    """The answers of a network for one patch in its V mirrored views, in single precision.

    Attributes:
        logits: Logits by question, (V, outputs).
        evidence: Evidence volume in voxels by question, (V,); questions without an evidence region are absent.
    """

    logits: dict[str, Tensor]
    evidence: dict[str, Tensor]

    @classmethod
    def from_views(cls, views: Sequence[MultiTaskOutput]) -> "PatchAnswers":
        """Join the outputs for the views of one patch, without waiting for their device.

        Args:
            views: Outputs of the network, with batch size one.

        Raises:
            ValueError: If there is no view, or a view has another batch size.
        """
        if not views or any(values.shape[0] != 1 for view in views for values in view.classification.values()):
            raise ValueError("the views of a patch are at least one output of batch size one")
        return cls(
            {name: _joined(view.classification[name] for view in views) for name in views[0].classification},
            {name: _joined(view.evidence[name] for view in views) for name in views[0].evidence},
        )

    def cpu(self) -> "PatchAnswers":
        """Return a copy in the memory of the CPU."""
        moved = ({name: values.cpu() for name, values in mapping.items()} for mapping in self)
        return PatchAnswers(*moved)


def _joined(values: Iterable[Tensor]) -> Tensor:
    return torch.cat([value.detach() for value in values]).float()


@dataclass(frozen=True)
class Combination:
    """How the patches of a case become one answer.

    The weight of a patch is its evidence in voxels. Many patches cut a structure and show little of it; with weights
    that saturate they would outvote the patches that show the whole structure.

    Attributes:
        rule: "mean": the mean of the patches' logits, weighted by their evidence. "noisy_or": a class is true of the
            case if it is true of any patch; the first class is "none of the others". "top_k": the unweighted mean over
            the patches with the most evidence; over every patch if the question has no evidence region.
        top_k: Number of patches of "top_k".
    """

    rule: Literal["mean", "noisy_or", "top_k"]
    top_k: int

    @classmethod
    def from_settings(cls, settings: Settings) -> "Combination":
        """Build the combination from the settings of a model."""
        return cls(settings.class_combination, settings.class_top_k)

    def case_logits(self, answers: Sequence[PatchAnswers], question: ClassificationTask) -> Tensor:
        """Combine the patches of one network (one fold).

        Args:
            answers: One item for every patch of the case, with the logits of the question.
            question: The question to answer.

        Returns:
            Logits of the case, (outputs,); their `probabilities` are the answer without calibration.

        Raises:
            ValueError: If there is no patch.
        """
        if not answers:
            raise ValueError(f"question {question.name!r}: a case needs the answers of at least one patch")
        patches = [self._patch(answer, question) for answer in answers]
        logits = torch.stack([patch.logits for patch in patches])
        weights = torch.stack([patch.weight for patch in patches])
        if self.rule == "noisy_or":
            return _noisy_or(question.kind, logits, weights / weights.max())
        if self.rule == "top_k":
            if question.name not in answers[0].evidence:
                return logits.mean(0)
            volumes = torch.stack([patch.volume for patch in patches])
            return logits[torch.sort(volumes, descending=True, stable=True).indices[: self.top_k]].mean(0)
        return _weighted_mean(logits, weights)

    def _patch(self, answers: PatchAnswers, question: ClassificationTask) -> "_Patch":
        """Join the views of a patch with the weights of patches: under "mean" a view counts as a patch would."""
        logits = answers.logits[question.name]
        volumes = answers.evidence.get(question.name)
        if volumes is None:
            volumes = weights = torch.ones(len(logits), dtype=logits.dtype)
        else:
            weights = volumes.clamp(min=_LEAST_EVIDENCE)
        return _Patch(_weighted_mean(logits, weights), weights.mean(), volumes.mean())


class _Patch(NamedTuple):
    logits: Tensor
    weight: Tensor
    volume: Tensor


def combine(
    folds: Sequence[Sequence[PatchAnswers]],
    question: ClassificationTask,
    combination: Combination,
    temperatures: Sequence[float] = (),
) -> Tensor:
    """Answer a question for one case: a calibrated probability for every fold, and the mean over the folds.

    Args:
        folds: For every fold the answers of its network, one item for every patch.
        question: The question to answer.
        combination: The rule that combines the patches of a fold.
        temperatures: One temperature for every fold; empty for 1.

    Returns:
        Probability of each class, (C,).

    Raises:
        ValueError: If there is no fold, a fold has no patch, or there are more or fewer temperatures than folds.
    """
    by_fold = zip(folds, temperatures or [1.0] * len(folds), strict=True)
    answers = [
        probabilities(question.kind, combination.case_logits(patches, question) / temperature)
        for patches, temperature in by_fold
    ]
    if not answers:
        raise ValueError(f"question {question.name!r}: a case needs the answers of at least one network")
    return torch.stack(answers).mean(0)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over the first dimension of (N, outputs), weighted by (N,)."""
    return (values * weights[:, None]).sum(0) / weights.sum()


def _noisy_or(kind: str, logits: Tensor, exponents: Tensor) -> Tensor:
    """Combine the logits of P patches, (P, outputs), by 1 - prod (1 - p_i)^exponent_i.

    A single patch keeps its probabilities. For a nominal question the p_i are the probabilities of every class but the
    first, which is "none of the others"; for multilabel, of every label; for ordinal, of every "more than class k".
    """
    of_patches = probabilities(kind, logits)
    if kind == "nominal":
        others = _any(of_patches[:, 1:], exponents)
        none = 1 - _any(1 - of_patches[:, :1], exponents)
        return torch.cat((none, others)).clamp(min=_LEAST_PROBABILITY).log()
    if kind == "ordinal":
        of_patches = of_patches.flip(-1).cumsum(-1).flip(-1)[:, 1:]
    return torch.logit(_any(of_patches, exponents), eps=_LEAST_PROBABILITY)


def _any(of_patches: Tensor, exponents: Tensor) -> Tensor:
    """Return the probability, (N,), that a class is true of any of the P patches, from probabilities (P, N)."""
    never = torch.log1p(-of_patches.clamp(max=1 - _LEAST_PROBABILITY)) * exponents[:, None]
    return -torch.expm1(never.sum(0))
