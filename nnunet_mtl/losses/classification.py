"""The loss of questions about the whole image, which learns from patches and with labels that may be missing.

A nominal question with C classes has C logits in one softmax; a multilabel question has C logits, every one with a
sigmoid. An ordinal question has C - 1 logits, those of P(y > k), so that a mistake by two classes costs more than a
mistake by one class.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunet_mtl.losses.partial import mean_over_processes
from nnunet_mtl.tasks import ClassificationTask


class CaseTargets(NamedTuple):
    """The answers to one question in the cases of a batch.

    Attributes:
        target: (B, C) float32: one-hot; for a multilabel question 1 for every class that applies. Not read where
            `known` is false.
        known: Whether the case has a label, (B,) bool.
    """

    target: Tensor
    known: Tensor


def n_outputs(kind: str, n_classes: int) -> int:
    """Return how many logits a question has: C for C classes, but C - 1 if the question is ordinal."""
    _known_kind(kind)
    return n_classes - 1 if kind == "ordinal" else n_classes


def probabilities(kind: str, logits: Tensor) -> Tensor:
    """Turn logits, (..., outputs), into the probability of each class, (..., C) float32.

    The probabilities of a nominal or ordinal question are not negative and sum to one. P(y > k) must not rise with k:
    if a logit of an ordinal question is larger than an earlier one, it is lowered to the smallest earlier logit.
    """
    logits = logits.float()
    if kind == "nominal":
        return logits.softmax(-1)
    if kind == "multilabel":
        return logits.sigmoid()
    _known_kind(kind)
    above = logits.cummin(-1).values
    beyond = above.sigmoid()
    return torch.cat([(-above[..., :1]).sigmoid(), beyond[..., :-1] - beyond[..., 1:], beyond[..., -1:]], -1)


def patch_weight(evidence: Tensor, half: float) -> Tensor:
    """Return the weight of a patch: 0 without evidence, one half with `half` voxels of evidence.

    Args:
        evidence: Evidence volume of every patch in voxels, (B,).
        half: Volume that gives the weight one half, at least 0; with 0 any evidence gives the weight 1.

    Returns:
        Weights of 0 to 1, (B,) float32.
    """
    evidence = evidence.float()
    # The bound makes 0 / 0 a 0.
    return evidence / (evidence + half).clamp_min(torch.finfo(torch.float32).tiny)


class ClassificationLoss(nn.Module):
    """Mean over the labelled (sample, question) pairs of a batch, weighted by the evidence in the patches.

    A pair counts if the case has a label and the pair is usable. The mean divides by the number of these pairs and not
    by the sum of their weights, so that patches with little evidence have a small gradient. The weights are constants:
    the network that predicted the evidence gets no gradient from them.

    Missing labels are not read, and their logits get a gradient of exactly zero. Under `torch.distributed` the mean
    divides by the number of pairs of all processes, see `mean_over_processes`; every process must call the loss equally
    often.

    Args:
        questions: Questions in the order of the columns of `usable`.
        class_weights: Weights of the classes, (C,), by the name of the question. A weight multiplies the loss of the
            samples of its class; for a multilabel question, the loss of the samples to which the class applies.
        half_evidence: Evidence volume in voxels at which a patch has the weight one half, see `patch_weight`.

    Raises:
        ValueError: If there is no question, or the class weights of a question have the wrong shape.
    """

    def __init__(
        self, questions: Sequence[ClassificationTask], class_weights: Mapping[str, Tensor], half_evidence: float
    ) -> None:
        super().__init__()
        if not questions:
            raise ValueError("no questions: without classification there is nothing to compute")
        self.questions = tuple(questions)
        self.half_evidence = half_evidence
        for index, question in enumerate(self.questions):
            weights = class_weights[question.name]
            _check_shape(f"class weights of {question.name}", weights, (len(question.classes),))
            # Named by index, because a question may have any name and a buffer may not.
            self.register_buffer(f"_class_weights_{index}", weights.float(), persistent=False)

    def forward(
        self,
        logits: Mapping[str, Tensor],
        targets: Mapping[str, CaseTargets],
        evidence: Mapping[str, Tensor],
        usable: Tensor,
    ) -> Tensor:
        """Compute the loss, in float32 for any dtype of the logits and also under autocast.

        Args:
            logits: Logits (B, outputs) by the name of the question.
            targets: Labels by the name of the question. Best on the CPU, like `usable`, because finding the labelled
                samples on a CUDA device waits for that device.
            evidence: Evidence volume of every patch in voxels, (B,), by the name of the question. For a question that
                is missing here every patch has the weight 1.
            usable: Which pairs may count, (B, Q) bool.

        Returns:
            Scalar float32; zero, but attached to all logits, if no pair counts.

        Raises:
            ValueError: If the shapes do not fit together.
            TypeError: If `usable` or the `known` of a target is not bool.
        """
        self._check(logits, targets, evidence, usable)
        losses = []
        for index, question in enumerate(self.questions):
            answers = logits[question.name]
            samples = (targets[question.name].known & usable[:, index]).nonzero()[:, 0]
            truth = targets[question.name].target.index_select(0, samples).to(answers.device, non_blocking=True)
            samples = samples.to(answers.device, non_blocking=True)
            weights = self.get_buffer(f"_class_weights_{index}").to(answers.device)
            loss = _LOSSES[question.kind](answers.index_select(0, samples).float(), truth.float(), weights)
            if question.name in evidence:
                volume = evidence[question.name].detach().index_select(0, samples)
                loss = loss * patch_weight(volume, self.half_evidence)
            losses.append(loss)
        pairs = torch.cat(losses)
        return mean_over_processes(pairs, pairs.new_full((), pairs.numel()))

    def _check(
        self,
        logits: Mapping[str, Tensor],
        targets: Mapping[str, CaseTargets],
        evidence: Mapping[str, Tensor],
        usable: Tensor,
    ) -> None:
        n_samples = len(usable)
        _check_shape("usable", usable, (n_samples, len(self.questions)))
        for question in self.questions:
            name, n_classes = question.name, len(question.classes)
            target, known = targets[name]
            _check_shape(f"logits of {name}", logits[name], (n_samples, n_outputs(question.kind, n_classes)))
            _check_shape(f"target of {name}", target, (n_samples, n_classes))
            _check_shape(f"known of {name}", known, (n_samples,))
            if name in evidence:
                _check_shape(f"evidence of {name}", evidence[name], (n_samples,))
            if known.dtype != torch.bool or usable.dtype != torch.bool:
                raise TypeError(f"known and usable must be bool, got {known.dtype} and {usable.dtype}")


def _nominal(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the cross-entropy of every sample, (P,)."""
    return -(target * weights * logits.log_softmax(1)).sum(1)


def _ordinal(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over k of the cross-entropy of y > k, (P,), weighted by the weight of the true class."""
    above = target.flip(1).cumsum(1).flip(1)[:, 1:]  # 1 where the true class is k + 1 or more, that is y > k
    loss = nn.functional.binary_cross_entropy_with_logits(logits, above, reduction="none")
    return loss.mean(1) * (target * weights).sum(1)


def _multilabel(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over the classes of their cross-entropies, (P,)."""
    loss = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weights)
    return loss.mean(1)


_LOSSES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "multilabel": _multilabel,
}


def _known_kind(kind: str) -> None:
    if kind not in _LOSSES:
        raise ValueError(f"unknown kind {kind!r}; known are {', '.join(_LOSSES)}")


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {expected}")
