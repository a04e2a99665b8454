"""What the answers to a question about the whole image cost, learnt from patches and with labels that may be missing.

A question with C classes has C outputs (nominal: one softmax; multilabel: a sigmoid each), or C - 1 where its classes
are ordered: the logits of P(y > k), so that a mistake by two classes costs more than one by one.
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
        target: (B, C) float32: one-hot, for multilabel 1 where the label holds; not read where unknown.
        known: (B,) bool, whether the case has a label.
    """

    target: Tensor
    known: Tensor


def n_outputs(kind: str, n_classes: int) -> int:
    """Return how many logits a question has: one per class, or for an ordinal one, one per step between classes."""
    _known_kind(kind)
    return n_classes - 1 if kind == "ordinal" else n_classes


def probabilities(kind: str, logits: Tensor) -> Tensor:
    """Turn logits, (..., outputs), into the probability of each class, (..., C) float32.

    Those of a nominal or ordinal question are not negative and sum to one. Where the cumulative logits of an ordinal
    question are not in descending order, as P(y > k) must be, each is lowered to the smallest before it.
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
    """Return how much a patch says about its case: nothing without evidence, one half with `half` voxels of it.

    Args:
        evidence: Evidence volume of each patch in voxels, (B,).
        half: The volume that counts one half, at least 0; with 0, any evidence counts fully.

    Returns:
        Weights of 0 to 1, (B,) float32.
    """
    evidence = evidence.float()
    # the bound keeps 0 / 0 at 0
    return evidence / (evidence + half).clamp_min(torch.finfo(torch.float32).tiny)


class ClassificationLoss(nn.Module):
    """Mean over the answered questions of a batch, each patch weighted by the evidence it holds.

    A (sample, question) pair counts if the case has a label and the pair is usable. The mean divides by the number of
    these pairs and not by their weights: a batch of patches that hold little evidence moves little. Weights of evidence
    are constants: no gradient reaches what predicted the evidence.

    Labels that are missing are not read, and the logits there get a gradient of exactly zero. Under `torch.distributed`
    the count is that of all processes, see `mean_over_processes`; every process must call the loss equally often.

    Args:
        questions: The questions; their order is that of the columns of `usable`.
        class_weights: (C,) for each question. A weight multiplies the loss of samples of that class; for multilabel
            questions, that of the positive answers to that label.
        half_evidence: See `patch_weight`.
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
            # by index: a question may have any name, a buffer may not
            self.register_buffer(f"_class_weights_{index}", weights.float(), persistent=False)

    def forward(
        self,
        logits: Mapping[str, Tensor],
        targets: Mapping[str, CaseTargets],
        evidence: Mapping[str, Tensor],
        usable: Tensor,
    ) -> Tensor:
        """Compute the loss, in float32 whatever the dtype of the logits and under autocast.

        Args:
            logits: (B, outputs) for each question.
            targets: What is known, for each question; best on the CPU, as is `usable`: looking for what is known on a
                CUDA device waits for that device.
            evidence: Evidence volume of each patch in voxels, (B,); a question that is not there weighs every patch 1.
            usable: Which pairs may count, (B, Q) bool.

        Returns:
            Scalar float32; zero, but attached to all logits, if no pair counts.

        Raises:
            ValueError: If the shapes do not fit together.
            TypeError: If `usable` or what is known is not bool.
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
    """Cross-entropy of each sample, (P,)."""
    return -(target * weights * logits.log_softmax(1)).sum(1)


def _ordinal(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean over k of the cross-entropy of y > k, (P,); the weight is the true class's."""
    above = target.flip(1).cumsum(1).flip(1)[:, 1:]  # how far up the one-hot lies: P(y >= k + 1) = P(y > k)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, above, reduction="none")
    return loss.mean(1) * (target * weights).sum(1)


def _multilabel(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean over labels of their cross-entropy, (P,)."""
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
