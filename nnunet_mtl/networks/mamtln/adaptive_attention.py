"""MA-MTLN's adaptive spatial attention: at every voxel a level and the fusion of all levels are weighed.

With F a level's feature and G the fusion of all, brought to the level's size::

    A = w_0 Att(F) F + w_1 Att(G) G,    (w_0, w_1) = softmax(C [c(F) || c'(G)])  at every voxel
    S = refine [F || A * G]             as in the released code; refine [F || A] as the text reads

Att is one small network of both features, c and c' reduce to 16 channels.

Source: Zhang Y. et al., MA-MTLN, IEEE TMI 2021, and its released code, re-implemented from equations.
"""

from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from nnunet_mtl.networks.mamtln.pyramid_blocks import (
    ConvNormAct,
    RepeatedDownsampling,
    Shape,
    pointwise,
    same_size_convolution,
)

AdaptiveOutput = Literal["product", "alone"]
_COMPARED = 16  # channels of what the weights are computed from, as published


class NoAdaptiveAttention(nn.Module):
    """Leaves the feature of a level unchanged; the fusion is not read."""

    reads_fused: ClassVar[bool] = False

    def __init__(self, shape: Shape, level: int, output: AdaptiveOutput) -> None:
        super().__init__()

    def forward(self, feature: Tensor, fused: Tensor | None) -> Tensor:
        """Return `feature`."""
        return feature


class AdaptiveAttention(nn.Module):
    """One level's attention.

    Args:
        shape: Numbers of the pyramid.
        level: Index of the level, 0 the finest; the fusion is brought to its size by one block, applied once for every
            level between.
        output: What `refine` reads beside F: "product", A * G, or "alone", A.

    Attributes:
        reads_fused: Whether the fusion is read.
    """

    reads_fused: ClassVar[bool] = True

    def __init__(self, shape: Shape, level: int, output: AdaptiveOutput) -> None:
        super().__init__()
        conv_op, width, one, kernel = shape.conv_op, shape.width, pointwise(shape), shape.levels[level].kernel
        self.down = RepeatedDownsampling(shape, level) if level else nn.Identity()
        self.attend = nn.Sequential(
            ConvNormAct(conv_op, width, width, one),
            ConvNormAct(conv_op, width, width, kernel),
            same_size_convolution(conv_op, width, width, kernel),
            nn.Sigmoid(),
        )
        # as released, in groups of a single channel: these channels are compared voxel by voxel, and never pooled
        reduce = partial(ConvNormAct, conv_op, width, _COMPARED, one, per_group=1, bias=False)
        self.reduce_feature, self.reduce_fused = reduce(), reduce()
        self.compare = same_size_convolution(conv_op, 2 * _COMPARED, 2, one)
        self.refine = nn.Sequential(
            ConvNormAct(conv_op, 2 * width, width, one),
            *(ConvNormAct(conv_op, width, width, kernel) for _ in range(2)),
        )
        self.multiplies = output == "product"

    def weights(self, feature: Tensor, fused: Tensor) -> Tensor:
        """Return the weights of the level and of the fusion, (B, 2, *spatial), which sum to 1 at every voxel."""
        compared = torch.cat((self.reduce_feature(feature), self.reduce_fused(fused)), dim=1)
        return torch.softmax(self.compare(compared), dim=1)

    def forward(self, feature: Tensor, fused: Tensor) -> Tensor:
        """Return (B, W, *spatial).

        Args:
            feature: F, the feature of the level, (B, W, *spatial).
            fused: G, the fusion of all levels, (B, W, *spatial of the finest level).
        """
        fused = self.down(fused)
        feature_weight, fused_weight = self.weights(feature, fused).to(feature.dtype).chunk(2, dim=1)
        attended = feature_weight * self.attend(feature) * feature + fused_weight * self.attend(fused) * fused
        if self.multiplies:
            attended = attended * fused
        refined: Tensor = self.refine(torch.cat((feature, attended), dim=1))
        return refined
