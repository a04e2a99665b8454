"""Heads that answer questions about the whole image from the features that the U-Net computed for one patch.

The shallow stages hold fine texture, the deep stages hold the class of a lesion, and a mean over the patch hides both.
The main head therefore reads every stage, and only inside the structure that the question is about: its evidence.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.evidence_pooling import evidence_at, pooled_by_score, pooled_under
from nnunet_mtl.networks.standardisation import RunningStandardiser

HIDDEN = 32
# Bound of standardised values, in standard deviations: a channel that was constant so far, or that another scanner
# shifts, must not outweigh all other channels.
_FARTHEST = 5.0
# Least probability that counts as evidence. Smaller probabilities would add up to a structure that is not there: to 10
# to 30 voxels in patches of 24 x 32 x 32 in which the demonstration's network finds no voxel of the tumour.
_LEAST = 0.1


class Question(TypedDict):
    """A question about the whole image, in the form in which the plans hold it.

    Attributes:
        name: Name that no other question has.
        outputs: Number of logits of the answer.
        evidence: Index of the region that the question is about; -1 if it is about no region.
        task: Index of the task that owns the region; -1 if the question is about no region.
    """

    name: str
    outputs: int
    evidence: int
    task: int


class KnownEvidence(NamedTuple):
    """Annotated evidence of Q questions.

    Attributes:
        mask: Ground truth of every question's region, (B, Q, *spatial) bool; not read where `known` is false.
        known: Whether the question's region was annotated in the sample, (B, Q) bool.
    """

    mask: Tensor
    known: Tensor


class Features(NamedTuple):
    """Features that a classification head may read.

    Attributes:
        encoder: Input of the last normalisation of every encoder stage, full resolution first, (B, C, *spatial).
        decoder: Input of the last normalisation of the coarsest decoder stage, (B, C, *spatial), computed for the
            sample's task.
        attended: Output of the attention behind the coarsest decoder stage, (B, C, *spatial); in MA-MTLN's network the
            descriptor of the classification branch, (B, C); None if the network has neither.
        streams: For every question its stream of the deepest stage, (B, C, *spatial); empty if the network has none.
    """

    encoder: list[Tensor]
    decoder: Tensor
    attended: Tensor | None = None
    streams: Sequence[Tensor] = ()


@torch.no_grad()
def evidence_mask(region_logits: Tensor, known_mask: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """Return the evidence of one question: the annotation of its region if known, else the network's probability.

    Probabilities below 0.1 become 0, so that the network's evidence has an outside as an annotation has.

    Args:
        region_logits: Full-resolution logits of the question's region, (B, *spatial).
        known_mask: Ground truth of the region, (B, *spatial) bool; None if no sample has one.
        known: Whether the ground truth of the sample is known, (B,) bool.

    Returns:
        Values between 0 and 1, (B, 1, *spatial), float32, without a gradient.
    """
    evidence = torch.sigmoid(region_logits.float())
    evidence = torch.where(evidence < _LEAST, torch.zeros_like(evidence), evidence)
    if known_mask is not None and known is not None:
        known = known.reshape(-1, *[1] * (evidence.ndim - 1))
        evidence = torch.where(known, known_mask.to(evidence.dtype), evidence)
    return evidence.unsqueeze(1)


class ClassificationHead(nn.Module):
    """Base of the classification heads. `answer` builds the module that answers one question, `forward` runs it.

    Args:
        questions: Questions about the image, one module for each.
        encoder_channels: Channels of the encoder's stages, full resolution first.
        decoder_channels: Channels of the decoder's stages, coarsest first.
        dropout: Probability with which a value of the descriptor is dropped in training.

    Attributes:
        reads_attended: Whether the head reads `Features.attended`, which not every network gives.
        reads_streams: Whether the head reads `Features.streams`; the network then builds a stream for every question.
    """

    reads_attended: ClassVar[bool] = False
    reads_streams: ClassVar[bool] = False

    def __init__(
        self,
        questions: Sequence[Question],
        encoder_channels: Sequence[int],
        decoder_channels: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.questions = list(questions)
        self.answers = nn.ModuleList(
            self.answer(question, encoder_channels, decoder_channels, dropout) for question in self.questions
        )

    def answer(self, question: Question, encoder: Sequence[int], decoder: Sequence[int], dropout: float) -> nn.Module:
        """Return the module that answers one question; the other arguments are those of the constructor."""
        raise NotImplementedError

    def forward(self, index: int, features: Features, evidence: Tensor | None) -> Tensor:
        """Return the logits of one question, (B, outputs), at least float32.

        Args:
            index: Index of the question.
            features: Features of one pass.
            evidence: (B, 1, *spatial) at full resolution; None for a question without evidence.
        """
        raise NotImplementedError


class NoClassification(ClassificationHead):
    """Stands for "no classification head": it has no questions and takes the same arguments as the other heads."""

    def __init__(self, questions: Sequence[Question], *others: Any) -> None:
        super().__init__((), *others)


class EvidenceHead(ClassificationHead):
    """Pools every encoder stage and the coarsest decoder stage under the evidence of the question.

    The questions share no parameters. A question without evidence reads the encoder only, pooled by attention.

    The head does not read voxels outside the evidence. They can still influence features inside it: through the
    receptive field, and where the U-Net itself pools over the patch (its normalisations, the gates on its skips).
    """

    def answer(self, question: Question, encoder: Sequence[int], decoder: Sequence[int], dropout: float) -> nn.Module:
        """Return a module that pools under the evidence, or by attention if the question has no evidence."""
        if question["evidence"] < 0:
            return AnswerByAttention(encoder, question["outputs"], dropout)
        return AnswerUnderEvidence([*encoder, decoder[0]], question["outputs"], dropout)

    def forward(self, index: int, features: Features, evidence: Tensor | None) -> Tensor:
        """Return the logits of one question, (B, outputs); arguments as in `ClassificationHead.forward`."""
        logits: Tensor = self.answers[index](features, evidence)
        return logits


class BottleneckHead(ClassificationHead):
    """The usual head, for comparison: reads the mean of the deepest stage before normalisation, and no evidence."""

    def answer(self, question: Question, encoder: Sequence[int], decoder: Sequence[int], dropout: float) -> nn.Module:
        """Return a perceptron on the channels of the deepest stage."""
        return Perceptron(encoder[-1], question["outputs"], dropout)

    def forward(self, index: int, features: Features, evidence: Tensor | None) -> Tensor:
        """Return the logits of one question, (B, outputs); `evidence` is not read."""
        logits: Tensor = self.answers[index](mean_over_patch(self.deepest(index, features)))
        return logits

    def deepest(self, index: int, features: Features) -> Tensor:
        """Return the feature from which a question is answered, (B, C, *spatial)."""
        return features.encoder[-1]


def mean_over_patch(feature: Tensor) -> Tensor:
    """Return the mean of every channel over space, (B, C), at least float32, from a feature (B, C, *spatial)."""
    return feature.flatten(2).mean(2, dtype=torch.promote_types(feature.dtype, torch.float32))


class AnswerUnderEvidence(nn.Module):
    """Answers one question from the features under its evidence. If the evidence is empty, all images get one answer.

    Args:
        channels: Channels of the encoder's stages, full resolution first, then of the coarsest decoder stage.
        outputs: Number of logits.
        dropout: Probability with which a value of the descriptor is dropped in training.
    """

    def __init__(self, channels: Sequence[int], outputs: int, dropout: float) -> None:
        super().__init__()
        self.perceptron = Perceptron(3 * sum(channels), outputs, dropout)

    def forward(self, features: Features, evidence: Tensor) -> Tensor:
        """Return logits (B, outputs) from the features of one pass and the evidence (B, 1, *spatial)."""
        volume = evidence.flatten(1).sum(1)
        pyramid = []
        for feature in features.encoder:
            # Shrunk from stage to stage: the shares are those of shrinking from full resolution, the windows smaller.
            evidence = evidence_at(evidence, feature.shape[2:])
            pyramid.append(evidence)
        stages = zip([*features.encoder, features.decoder], [*pyramid, pyramid[-2]], strict=True)
        descriptor = torch.cat([pooled_under(feature, share) for feature, share in stages], dim=1)
        logits: Tensor = self.perceptron(descriptor, volume / (volume + 1))
        return logits


class AnswerByAttention(nn.Module):
    """Answers one question from features weighted by a learnt score; before training all voxels weigh the same.

    Args:
        channels: Channels of the encoder's stages, full resolution first.
        outputs: Number of logits.
        dropout: Probability with which a value of the descriptor is dropped in training.
    """

    def __init__(self, channels: Sequence[int], outputs: int, dropout: float) -> None:
        super().__init__()
        self.scores = nn.ParameterList(torch.zeros(count) for count in channels)
        self.perceptron = Perceptron(3 * sum(channels), outputs, dropout)

    def forward(self, features: Features, evidence: None) -> Tensor:
        """Return logits (B, outputs) from the encoder's features."""
        stages = zip(features.encoder, self.scores, strict=True)
        logits: Tensor = self.perceptron(torch.cat([pooled_by_score(*stage) for stage in stages], dim=1))
        return logits


class Perceptron(nn.Module):
    """A perceptron with one hidden layer on a standardised descriptor; the last layer starts at zero.

    Args:
        size: Number of values of the descriptor.
        outputs: Number of logits.
        dropout: Probability with which a value of the descriptor is dropped in training.
    """

    def __init__(self, size: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.standardise = RunningStandardiser(size)
        self.dropout = nn.Dropout(dropout)
        self.description = nn.Linear(size, HIDDEN)
        self.output = nn.Linear(HIDDEN, outputs)
        # nnU-Net re-initialises convolutions after construction, never linear layers.
        nn.init.normal_(self.description.weight, std=1 / math.sqrt(size))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, descriptor: Tensor, presence: Tensor | None = None) -> Tensor:
        """Return logits (B, outputs).

        Args:
            descriptor: (B, size).
            presence: How far to trust the descriptor, 0 to 1, (B,): E / (E + 1) for evidence of E voxels. At 0 the
                descriptor is replaced by that of the average image; samples below 0.5 do not enter the average.
        """
        counts = None if presence is None else presence >= 0.5
        values = self.standardise(descriptor, counts).clamp(-_FARTHEST, _FARTHEST)
        if presence is not None:
            values = values * presence[:, None]
        logits: Tensor = self.output(functional.leaky_relu(self.description(self.dropout(values))))
        return logits
