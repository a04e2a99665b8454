"""From what a network says of each patch to one answer per case.

A patch is counted once, however many mirrored views of it were seen. Whatever the rule, its result is expressed as the
logits of the case, so that one temperature tempers all rules alike.
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

# Voxels. Far below a single one of evidence: it only decides where there is none in the whole case.
_LEAST_EVIDENCE = 1e-9
# Where single precision hardly tells a probability from one: the logits of "noisy_or" stay within +-16.
_LEAST_PROBABILITY = 1e-7


class PatchAnswers(NamedTuple):
    """What a network said of one patch in its V mirrored views, in single precision.

    Attributes:
        logits: By question, (V, outputs).
        evidence: Evidence volume in voxels by question, (V,); questions without an evidence region are absent.
    """

    logits: dict[str, Tensor]
    evidence: dict[str, Tensor]

    @classmethod
    def from_views(cls, views: Sequence[MultiTaskOutput]) -> "PatchAnswers":
        """Join the outputs of the views of one patch, each of batch size one, without waiting for their device.

        Raises:
            ValueError: If there is no view, or one with another batch size.
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

    A patch weighs what it holds of the evidence, in voxels. The patches that a structure is cut by are many, and say
    little of it: with weights that saturate they outvote those that show the whole of it.

    Attributes:
        rule: "mean": the mean of the patches' logits, weighted by their evidence. "noisy_or": a finding is there if it
            is in any patch; the first class is "none of the others". "top_k": the unweighted mean over the patches
            with the most evidence; every patch where the question has no evidence region.
        top_k: Number of patches of "top_k".
    """

    rule: Literal["mean", "noisy_or", "top_k"]
    top_k: int

    @classmethod
    def from_settings(cls, settings: Settings) -> "Combination":
        """Take the settings of a model."""
        return cls(settings.class_combination, settings.class_top_k)

    def case_logits(self, answers: Sequence[PatchAnswers], question: ClassificationTask) -> Tensor:
        """Combine the patches of one network (one fold).

        Args:
            answers: One per patch of the case; each must hold the question.
            question: The question to answer.

        Returns:
            Logits of the case, (outputs,); `probabilities` of them are the untempered answer.

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
        """Join the views of a patch, weighted like patches: under "mean" every view counts as if it were one."""
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
    """Answer a question for one case: each fold's patches to a tempered probability, then the mean over the folds.

    Args:
        folds: The answers of each fold's network, one per patch.
        question: The question to answer.
        combination: How patches are combined.
        temperatures: One per fold; 1 where empty.

    Returns:
        Probability of each class, (C,).

    Raises:
        ValueError: If there is no fold or a fold without a patch, or the temperatures are not one per fold.
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
    """Mean over the first dimension of (N, outputs), weighted by (N,)."""
    return (values * weights[:, None]).sum(0) / weights.sum()


def _noisy_or(kind: str, logits: Tensor, exponents: Tensor) -> Tensor:
    """Combine (P, outputs) by 1 - prod (1 - p_i)^exponent_i; one patch alone keeps its probabilities.

    Nominal: of each class but the first, which is none of the others in every patch; multilabel: of each label;
    ordinal: of each "more than class k".
    """
    each = probabilities(kind, logits)
    if kind == "nominal":
        others = _any(each[:, 1:], exponents)
        none = 1 - _any(1 - each[:, :1], exponents)
        return torch.cat((none, others)).clamp(min=_LEAST_PROBABILITY).log()
    if kind == "ordinal":
        each = each.flip(-1).cumsum(-1).flip(-1)[:, 1:]
    return torch.logit(_any(each, exponents), eps=_LEAST_PROBABILITY)


def _any(each: Tensor, exponents: Tensor) -> Tensor:
    """Return the probability (N,) that it holds in any of the P patches, from (P, N)."""
    never = torch.log1p(-each.clamp(max=1 - _LEAST_PROBABILITY)) * exponents[:, None]
    return -torch.expm1(never.sum(0))
