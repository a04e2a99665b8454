"""ACSNet's classification branch: three deep features, each under channel attention, pooled into one descriptor.

    CA(x) = ReLU(x * sigmoid(W_2 ReLU(W_1 [GAP(x) || GMP(x)])))
    logits = V_2 ReLU(V_1 GAP([CA(e_S-1) || up(CA(e_S)) || CA(d)]))

e_S-1 and e_S are the two deepest stages of the encoder, d the coarsest of the decoder behind its deformable attention;
up resamples the deepest linearly to the size of the other two. W_1 makes C / 16 of 2 C values, V_1 half of all C.

Of the encoder it reads what the last normalisation of a stage reads: behind nnU-Net's InstanceNorm the mean of a
channel is the same in every image, and this branch reads little else. d comes from a GroupNorm and is read as it is.

Source: He et al., ACSNet, 2024 (segmentation and classification of breast ultrasound), classification branch of the
released code, re-implemented from equations.
"""

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.classification import ClassificationHead, Features, Question, mean_over_patch


class ChannelAttention(nn.Module):
    """CA: a factor between 0 and 1 for every channel, from its mean and its maximum.

    With h = max(C / 16, 1) it has 2 C h + h C weights and h + C biases.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 1)
        self.factors = nn.Sequential(
            nn.Linear(2 * channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, *spatial), without negative values, from a feature of the same shape."""
        flat = x.flatten(2)
        factors: Tensor = self.factors(torch.cat((flat.mean(2), flat.amax(2)), dim=1))
        return functional.relu(x * factors.reshape(*factors.shape, *[1] * (x.ndim - 2)))


class ChannelAttentionHead(ClassificationHead):
    """The branch, with one last layer for every question.

    Beside the three CA it has T (T // 2) + T // 2 parameters, T the channels of its inputs together, and
    (T // 2 + 1) O for a question of O outputs.

    Args:
        questions: The questions; they share everything but the last layer. No evidence is read.
        encoder_channels: Channels of the encoder's stages, full resolution first; two or more.
        decoder_channels: Channels of the decoder's stages, coarsest first.
        dropout: Probability with which a value of the descriptor is dropped in training; the paper has none.
    """

    reads_attended: ClassVar[bool] = True

    def __init__(
        self,
        questions: Sequence[Question],
        encoder_channels: Sequence[int],
        decoder_channels: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__(questions, encoder_channels, decoder_channels, dropout)
        channels = (*encoder_channels[-2:], decoder_channels[0])
        self.attention = nn.ModuleList(ChannelAttention(count) for count in channels)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(sum(channels), sum(channels) // 2)

    def answer(self, question: Question, encoder: Sequence[int], decoder: Sequence[int], dropout: float) -> nn.Module:
        """Return the last layer for one question."""
        return nn.Linear(sum((*encoder[-2:], decoder[0])) // 2, question["outputs"])

    def forward(self, index: int, features: Features, evidence: Tensor | None) -> Tensor:
        """Return the logits of one question, (B, outputs); `evidence` is not read."""
        inputs = (*features.encoder[-2:], cast(Tensor, features.attended))
        finer, deepest, decoded = (
            attend(x.to(torch.promote_types(x.dtype, torch.float32)))
            for attend, x in zip(self.attention, inputs, strict=True)
        )
        mode = "bilinear" if deepest.ndim == 4 else "trilinear"
        deepest = functional.interpolate(deepest, finer.shape[2:], mode=mode, align_corners=False)
        descriptor = torch.cat([mean_over_patch(x) for x in (finer, deepest, decoded)], dim=1)
        logits: Tensor = self.answers[index](functional.relu(self.hidden(self.dropout(descriptor))))
        return logits
