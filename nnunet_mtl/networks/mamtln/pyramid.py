"""MA-MTLN's scale-aware features: a pyramid that is walked down and up, and the fusion of its levels.

With F_l the encoder's stages reduced to one width, 1 the finest and L the deepest, s the swish x sigmoid(x), w weights
of the sum that are never negative and divided by their own sum, VA visual attention::

    F'_L = VA(F_L)                      F'_l  = VA(s(w F_l + w up F'_{l+1}))
    F"_1 = s(w F_1 + w F'_1)            F"_l  = s(w F_l + w F'_l + w pool F"_{l-1})

As in the released code pool has kernel 1: of the voxels that its stride covers it reads one.

Source: Zhang Y. et al., MA-MTLN, IEEE TMI 2021, and its released code, re-implemented from equations; the weighted sum
is the "fast fusion" of Tan, Pang, Le, EfficientDet, CVPR 2020. Ours: any number of levels, every level smaller than the
one above by the plans' stride, where the published deepest two have one size; and weights kept from being negative by
ReLU where the code has PReLU, whose sum can pass through zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.mamtln.pyramid_blocks import ConvNormAct, Shape, downsampling, pointwise, resized

_EPS = 1e-4


class WeightedSum(nn.Module):
    """Swish of the weighted mean of features, their weights learnt; all 1 at first.

    Args:
        inputs: How many features.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))

    def shares(self) -> Tensor:
        """Return the weights the features are summed with, (inputs,), none negative, with a sum of almost 1."""
        weight = functional.relu(self.weight)
        return weight / (weight.sum() + _EPS)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, W, *spatial) of features of that shape."""
        first, *others = (share * feature for share, feature in zip(self.shares(), features, strict=True))
        return functional.silu(sum(others, first))


class BidirectionalPyramid(nn.Module):
    """Down from the deepest level to the finest, with visual attention, and up again.

    Args:
        shape: Numbers of the pyramid.
        visual_attention: Class of what a level passes on the way down.
    """

    def __init__(self, shape: Shape, visual_attention: type[nn.Module]) -> None:
        super().__init__()
        n_levels = len(shape.levels)
        self.visual_attention = nn.ModuleList(visual_attention(shape, level) for level in range(n_levels))
        self.down = nn.ModuleList(WeightedSum(2) for _ in range(n_levels - 1))
        self.up = nn.ModuleList(WeightedSum(2 if level == 0 else 3) for level in range(n_levels))
        self.pools = nn.ModuleList(downsampling(shape, pointwise(shape), level.stride) for level in shape.levels[1:])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the levels, finest first, (B, W, *spatial) each, of levels of these shapes."""
        *attentions, deepest = self.visual_attention
        downwards = [deepest(features[-1])]
        for feature, mix, attention in reversed(list(zip(features[:-1], self.down, attentions, strict=True))):
            downwards.append(attention(mix([feature, resized(downwards[-1], feature.shape[2:])])))
        first, *others = self.up
        pairs = list(zip(features, reversed(downwards), strict=True))
        upwards = [first(pairs[0])]
        for pair, mix, pool in zip(pairs[1:], others, self.pools, strict=True):
            upwards.append(mix([*pair, pool(upwards[-1])]))
        return upwards


class LevelFusion(nn.Module):
    """All levels at the size of the finest, made into one feature.

    Args:
        shape: Numbers of the pyramid.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, kernel = shape.width, shape.levels[0].kernel
        self.blocks = nn.Sequential(
            ConvNormAct(shape.conv_op, len(shape.levels) * width, width, pointwise(shape)),
            *(ConvNormAct(shape.conv_op, width, width, kernel) for _ in range(2)),
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return (B, W, *spatial of the finest) of levels (B, W, *spatial), finest first."""
        size = levels[0].shape[2:]
        fused: Tensor = self.blocks(torch.cat([resized(level, size) for level in levels], dim=1))
        return fused
