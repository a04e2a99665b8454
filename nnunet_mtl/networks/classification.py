"""Heads that answer questions about the whole image from what the U-Net computed for one patch.

Fine texture survives in the shallow stages, the class of a lesion in the deep ones, and both drown in a mean over the
patch: so every stage is read, and read under the structure that the question is about.
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
# Standard deviations. A channel that was constant so far, or another scanner, must not outvote all the others.
_FARTHEST = 5.0
# Least probability that is evidence. Smaller ones add up to a structure where there is none: to 10 to 30 voxels in
# patches of 24 x 32 x 32 in which the demonstration's network finds no voxel of the tumour.
_LEAST = 0.1


class Question(TypedDict):
    """A question about the whole image, as it stands in the plans.

    Attributes:
        name: Its name.
        outputs: Number of logits of its answer.
        evidence: Index of the region it is about; -1 for none.
        task: Index of the task that owns that region; -1 for none.
    """

    name: str
    outputs: int
    evidence: int
    task: int


class KnownEvidence(NamedTuple):
    """Where the evidence of Q questions was annotated.

    Attributes:
        mask: Ground truth of each question's region, (B, Q, *spatial) bool; not read where it is not known.
        known: Whether the region was annotated in this sample, (B, Q) bool.
    """

    mask: Tensor
    known: Tensor


class Features(NamedTuple):
    """Tensors that the last normalisation of a stage reads.

    Attributes:
        encoder: Of every encoder stage, full resolution first, each (B, C, *spatial).
        decoder: Of the coarsest decoder stage, (B, C, *spatial), computed under the sample's task.
        attended: Output of that stage and of its attention, (B, C, *spatial), or the descriptor of a branch of its
            own, (B, C); None if the network has no such.
        streams: What each question sees of the deepest stage, (B, C, *spatial); none if there are no streams.
    """

    encoder: list[Tensor]
    decoder: Tensor
    attended: Tensor | None = None
    streams: Sequence[Tensor] = ()


@torch.no_grad()
def evidence_mask(region_logits: Tensor, known_mask: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """Return the evidence of one question: the annotation where there is one, else the network's own probability.

    A probability below one tenth is no evidence, so that there is an outside in either case.

    Args:
        region_logits: Full-resolution logits of the question's region, (B, *spatial).
        known_mask: Ground truth, (B, *spatial) bool; None if nothing is known.
        known: Whether the ground truth is known, (B,) bool.

    Returns:
        Values between 0 and 1, (B, 1, *spatial), float32, without a gradient.
    """
    own = torch.sigmoid(region_logits.float())
    own = torch.where(own < _LEAST, torch.zeros_like(own), own)
    if known_mask is not None and known is not None:
        own = torch.where(known.reshape(-1, *[1] * (own.ndim - 1)), known_mask.to(own.dtype), own)
    return own.unsqueeze(1)


class ClassificationHead(nn.Module):
    """Base of the heads, which say how one question is answered: `answer` builds it, `forward` runs it.

    Args:
        questions: The questions.
        encoder_channels: Channels of the encoder's stages, full resolution first.
        decoder_channels: Channels of the decoder's stages, coarsest first.
        dropout: Probability with which a value of the descriptor is dropped in training.

    Attributes:
        reads_attended: Whether `Features.attended` is read, which not every network has.
        reads_streams: Whether `Features.streams` is read, and questions are to have streams.
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
        """Return what is built for one question; the other arguments are the constructor's."""
        raise NotImplementedError

    def forward(self, index: int, features: Features, evidence: Tensor | None) -> Tensor:
        """Return the logits of one question, (B, outputs), at least float32.

        Args:
            index: Of the question.
            features: Of one pass.
            evidence: (B, 1, *spatial) at full resolution; None for a question without.
        """
        raise NotImplementedError


class NoClassification(ClassificationHead):
    """No answers: how a network is told to have no head (a misspelt dotted path gives None, refused).

    Args:
        questions: Not used, like the others; here so that heads are built alike.
        others: Not used.
    """

    def __init__(self, questions: Sequence[Question], *others: Any) -> None:
        super().__init__((), *others)


class EvidenceHead(ClassificationHead):
    """Every stage of the encoder and the coarsest of the decoder, pooled under the evidence of the question.

    Questions share no parameters and do not disturb each other. A question without evidence reads the encoder only,
    which no task changes, pooled by attention.

    What lies outside the evidence is not read. It can still tell on a feature inside: within the receptive field, and
    where the U-Net itself pools over the patch, in its normalisations and in the gates on its skips.
    """

    def answer(self, question: Question, encoder: Sequence[int], decoder: Sequence[int], dropout: float) -> nn.Module:
        """As of the base."""
        if question["evidence"] < 0:
            return AnswerByAttention(encoder, question["outputs"], dropout)
        return AnswerUnderEvidence([*encoder, decoder[0]], question["outputs"], dropout)

    def forward(self, index: int, features: Features, evidence: Tensor | None) -> Tensor:
        """As of the base."""
        logits: Tensor = self.answers[index](features, evidence)
        return logits


class BottleneckHead(ClassificationHead):
    """The usual head, a control: reads the mean of the deepest stage before its normalisation, and no evidence."""

    def answer(self, question: Question, encoder: Sequence[int], decoder: Sequence[int], dropout: float) -> nn.Module:
        """As of the base."""
        return Perceptron(encoder[-1], question["outputs"], dropout)

    def forward(self, index: int, features: Features, evidence: Tensor | None) -> Tensor:
        """As of the base; `evidence` is not read."""
        logits: Tensor = self.answers[index](mean_over_patch(self.deepest(index, features)))
        return logits

    def deepest(self, index: int, features: Features) -> Tensor:
        """Return what a question is answered from, (B, C, *spatial)."""
        return features.encoder[-1]


def mean_over_patch(feature: Tensor) -> Tensor:
    """Return the mean of every channel of (B, C, *spatial), (B, C), at least float32."""
    return feature.flatten(2).mean(2, dtype=torch.promote_types(feature.dtype, torch.float32))


class AnswerUnderEvidence(nn.Module):
    """Answers one question from what lies under its evidence; without evidence the answer is the same for any image.

    Args:
        channels: Channels of the stages read: the encoder's, full resolution first, then the decoder's coarsest.
        outputs: Number of logits.
        dropout: Probability with which a value of the descriptor is dropped in training.
    """

    def __init__(self, channels: Sequence[int], outputs: int, dropout: float) -> None:
        super().__init__()
        self.perceptron = Perceptron(3 * sum(channels), outputs, dropout)

    def forward(self, features: Features, evidence: Tensor) -> Tensor:
        """Return logits (B, outputs) of the features of one pass and evidence (B, 1, *spatial)."""
        volume = evidence.flatten(1).sum(1)
        pyramid = []
        for feature in features.encoder:
            # from stage to stage: the same shares as from full resolution, without its large windows
            evidence = evidence_at(evidence, feature.shape[2:])
            pyramid.append(evidence)
        stages = zip([*features.encoder, features.decoder], [*pyramid, pyramid[-2]], strict=True)
        descriptor = torch.cat([pooled_under(feature, share) for feature, share in stages], dim=1)
        logits: Tensor = self.perceptron(descriptor, volume / (volume + 1))
        return logits


class AnswerByAttention(nn.Module):
    """Answers one question from where in the patch a learnt score says to look; evenly everywhere before training.

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
        """Return logits (B, outputs) of the encoder's features."""
        stages = zip(features.encoder, self.scores, strict=True)
        logits: Tensor = self.perceptron(torch.cat([pooled_by_score(*stage) for stage in stages], dim=1))
        return logits


class Perceptron(nn.Module):
    """One hidden layer on a standardised descriptor; the last layer starts at zero.

    Args:
        size: Values of the descriptor.
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
            presence: How much of a descriptor there is, 0 to 1, (B,): E / (E + 1) for evidence of E voxels. At 0 the
                standardised descriptor is that of the average image; below one half it does not count in the average.
        """
        counts = None if presence is None else presence >= 0.5
        values = self.standardise(descriptor, counts).clamp(-_FARTHEST, _FARTHEST)
        if presence is not None:
            values = values * presence[:, None]
        logits: Tensor = self.output(functional.leaky_relu(self.description(self.dropout(values))))
        return logits
