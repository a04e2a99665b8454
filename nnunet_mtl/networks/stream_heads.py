"""The head that answers each question from the question's own stream."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_mtl.networks.classification import Perceptron, Question


class StreamFeatures(NamedTuple):
    """What heads read of a network with streams, as of `nnunet_mtl.networks.classification.Features`.

    Attributes:
        encoder: What the last normalisation of every encoder stage reads, full resolution first, shared by all tasks.
        decoder: What that of the coarsest decoder stage reads, of the decoder of the evidence's task.
        attended: None: there is no attention to it beside the streams.
        streams: What each question sees of the deepest stage, (B, C, *spatial); none if the head reads no streams.
    """

    encoder: list[Tensor]
    decoder: Tensor
    attended: Tensor | None
    streams: list[Tensor]


class StreamHead(nn.Module):
    """Reads the mean over the patch of what a question sees of the deepest stage.

    A stream of a question is made of what the deepest stage's last normalisation reads, for behind an InstanceNorm a
    mean is the same for every image.

    Attributes:
        reads_streams: Whether questions have streams.

    Args:
        questions: The questions.
        encoder_channels: Channels of the encoder's stages, full resolution first.
        decoder_channels: Not used.
        dropout: Probability with which a value of the descriptor is dropped in training.
    """

    reads_streams: ClassVar[bool] = True

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
            Perceptron(encoder_channels[-1], question["outputs"], dropout) for question in self.questions
        )

    def forward(self, index: int, features: StreamFeatures, evidence: Tensor | None) -> Tensor:
        """Return the logits of one question, (B, outputs), float32; `evidence` is not read.

        Args:
            index: Of the question.
            features: Of one pass.
            evidence: (B, 1, *spatial) at full resolution; None for a question without.
        """
        stream = features.streams[index]
        dtype = torch.promote_types(stream.dtype, torch.float32)
        logits: Tensor = self.answers[index](stream.flatten(2).mean(2, dtype=dtype))
        return logits
