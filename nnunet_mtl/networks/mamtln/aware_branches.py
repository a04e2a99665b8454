"""MA-MTLN's task-aware branches: the shared levels read from deep to fine to segment, from fine to deep to answer.

With S_1 the finest of L shared levels and S_L the deepest, att two convolutions with kernel 1 and a sigmoid, and conv a
convolution, GroupNorm and PReLU, with a stride in pool::

    segmentation-aware     y_{L-1} = [up S_L || S_{L-1}],   y_l = conv(att[up y_{l+1} || S_l] * S_l),   y_1 segments
    classification-aware   c_1 = S_1,   c_l = conv(att[pool c_{l-1} || S_l] * S_l),   [GAP c_{L-1} || GAP S_L] answers

Source: Zhang Y. et al., MA-MTLN, IEEE TMI 2021, and its released code, re-implemented from equations. Ours: other
numbers of levels than the published four. Of two levels the deeper one guides the finer one and is guided by it, a
single one guides itself.
"""

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from nnunet_mtl.networks.classification import ClassificationHead, Features, Question, mean_over_patch
from nnunet_mtl.networks.mamtln.pyramid_blocks import (
    ConvNormAct,
    Shape,
    downsampling,
    pointwise,
    resized,
    same_size_convolution,
)


class AwareAttention(nn.Module):
    """Attention of a task to one level; it also reads the task's features of other levels, the context.

    Args:
        shape: Numbers of the pyramid.
        level: Index of the level, 0 the finest.
        context: Channels of the context; 0 for no context.
    """

    def __init__(self, shape: Shape, level: int, context: int) -> None:
        super().__init__()
        conv_op, width, one = shape.conv_op, shape.width, pointwise(shape)
        self.attend = nn.Sequential(
            ConvNormAct(conv_op, context + width, width, one),
            same_size_convolution(conv_op, width, width, one),
            nn.Sigmoid(),
        )
        self.refine = ConvNormAct(conv_op, width, width, shape.levels[level].kernel)

    def forward(self, feature: Tensor, *context: Tensor) -> Tensor:
        """Return (B, W, *spatial) of the level's feature and of the context at its size."""
        attention = self.attend(torch.cat((*context, feature), dim=1))
        aware: Tensor = self.refine(attention * feature)
        return aware


class NoSegmentationAwareness(nn.Module):
    """Returns the fusion of the shared levels as the feature that is segmented."""

    reads_fused: ClassVar[bool] = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def forward(self, levels: Sequence[Tensor], fused: Tensor | None) -> Tensor | None:
        """Return `fused`."""
        return fused


class SegmentationAwareBranch(nn.Module):
    """Walks from the deepest level to the finest, and returns the feature that is segmented.

    Args:
        shape: Numbers of the pyramid.

    Attributes:
        reads_fused: Whether the fusion of the shared levels is read.
    """

    reads_fused: ClassVar[bool] = False

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        n_levels = len(shape.levels)
        # The deepest two are only joined; with fewer than three levels there is then none left to attend to.
        n_attended = max(1, n_levels - 2)
        contexts = [shape.width] * n_attended
        contexts[-1] = shape.width * min(2, n_levels - 1)
        self.attention = nn.ModuleList(AwareAttention(shape, level, count) for level, count in enumerate(contexts))

    def forward(self, levels: Sequence[Tensor], fused: Tensor | None) -> Tensor:
        """Return the feature that is segmented, (B, W, *spatial of the finest level).

        Args:
            levels: Shared, finest first, (B, W, *spatial) each.
            fused: Not read.
        """
        attended = list(zip(levels, self.attention, strict=False))
        deeper = levels[len(attended) :]
        context = (
            [torch.cat([resized(level, deeper[0].shape[2:]) for level in reversed(deeper)], dim=1)] if deeper else []
        )
        for feature, attention in reversed(attended):
            context = [attention(feature, *(resized(deeper_one, feature.shape[2:]) for deeper_one in context))]
        return context[0]


class NoClassificationAwareness(nn.Module):
    """Returns the means of the deepest two levels as the descriptor."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the descriptor, (B, 2W), at least float32, of the shared levels."""
        return _means(levels[-2 if len(levels) > 1 else -1], levels[-1])


class ClassificationAwareBranch(nn.Module):
    """Walks from the finest level to the last but one; the deepest level is read unchanged.

    Args:
        shape: Numbers of the pyramid.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        n_levels = len(shape.levels)
        guided = range(1, max(2, n_levels - 1)) if n_levels > 1 else range(1)
        self.pools = nn.ModuleList(
            downsampling(shape, shape.levels[level].kernel, shape.levels[level].stride) for level in guided if level
        )
        self.attention = nn.ModuleList(AwareAttention(shape, level, shape.width if level else 0) for level in guided)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the descriptor, (B, 2W), at least float32.

        Args:
            levels: Shared, finest first, (B, W, *spatial) each.
        """
        if not self.pools:
            (alone,) = self.attention
            return _means(alone(levels[0]), levels[0])
        x = levels[0]
        for feature, pool, attention in zip(levels[1:], self.pools, self.attention, strict=False):
            x = attention(feature, pool(x))
        return _means(x, levels[-1])


class AwareHead(ClassificationHead):
    """A linear layer for every question, on the descriptor of the classification-aware branch; reads the whole patch.

    Args:
        questions: The questions.
        encoder_channels: Not used.
        decoder_channels: The first is the width of the pyramid, W.
        dropout: Probability with which a value of the descriptor is dropped in training.
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
        self.dropout = nn.Dropout(dropout)

    def answer(self, question: Question, encoder: Sequence[int], decoder: Sequence[int], dropout: float) -> nn.Module:
        """Return a linear layer on the descriptor, (B, 2 W)."""
        return nn.Linear(2 * decoder[0], question["outputs"])

    def forward(self, index: int, features: Features, evidence: Tensor | None) -> Tensor:
        """Return the logits of one question, (B, outputs); `evidence` is not read."""
        logits: Tensor = self.answers[index](self.dropout(cast(Tensor, features.attended)))
        return logits


def _means(*features: Tensor) -> Tensor:
    return torch.cat([mean_over_patch(feature) for feature in features], dim=1)
