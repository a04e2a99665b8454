"""A linear probe as a classification head: one linear layer on the encoder's features, pooled under the evidence."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_mtl.networks.classification import ClassificationHead, Features, Question
from nnunet_mtl.networks.evidence_pooling import evidence_at, pooled_under
from nnunet_mtl.networks.standardisation import RunningStandardiser


def patch_descriptor(before_norm: Sequence[Tensor], evidence: Tensor | None) -> Tensor:
    """Return mean, deviation and maximum of every channel of every stage under the evidence.

    Args:
        before_norm: Input of the last normalisation of every encoder stage, full resolution first, (B, C, *spatial).
        evidence: Values between 0 and 1 at full resolution, (B, 1, *spatial) float32; None weighs all voxels alike.

    Returns:
        (B, 3 x the sum of all stages' channels), at least float32.
    """
    if evidence is None:
        evidence = before_norm[0].new_ones((len(before_norm[0]), 1, *before_norm[0].shape[2:]), dtype=torch.float32)
    pooled = []
    for feature in before_norm:
        evidence = evidence_at(evidence, feature.shape[2:])
        pooled.append(pooled_under(feature, evidence))
    return torch.cat(pooled, dim=1)


class ProbeHead(ClassificationHead):
    """The head that `nnunet_mtl probe --export` writes. The probe fits its weights, no trainer does.

    The head is linear: the weighted mean of the logits of patches equals the logits of the patches' weighted mean
    descriptor, and the probe fits the latter.
    """

    def answer(self, question: Question, encoder: Sequence[int], decoder: Sequence[int], dropout: float) -> nn.Module:
        """Return a linear layer on the descriptors of all encoder stages."""
        return LinearAnswer(3 * sum(encoder), question["outputs"])

    def forward(self, index: int, features: Features, evidence: Tensor | None) -> Tensor:
        """Return the logits of one question, (B, outputs); arguments as in `ClassificationHead.forward`."""
        logits: Tensor = self.answers[index](patch_descriptor(features.encoder, evidence))
        return logits


class LinearAnswer(nn.Module):
    """One linear layer on a standardised descriptor; its logits are 0 until `load` sets its weights.

    Args:
        size: Number of values of the descriptor.
        outputs: Number of logits.
    """

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.standardise = RunningStandardiser(size)
        self.output = nn.Linear(size, outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, descriptor: Tensor) -> Tensor:
        """Return logits (B, outputs) from descriptors (B, size)."""
        logits: Tensor = self.output(self.standardise(descriptor))
        return logits

    @torch.no_grad()
    def load(self, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Set the numbers of a fitted probe: mean and variance (size,), weight (outputs, size) and bias (outputs,)."""
        self.standardise.mean.copy_(mean)
        self.standardise.var.copy_(var)
        self.standardise.num_batches.fill_(1)
        self.output.weight.copy_(weight)
        self.output.bias.copy_(bias)
