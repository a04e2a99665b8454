"""Features behind a GroupNorm whose groups keep what tells images apart: of DoDNet, TGNet and the CLIP-driven model."""

import torch
from torch import Tensor, nn
from torch.nn import functional

_MOST_GROUPS = 16  # DoDNet's released code


class NormalisedFeature(nn.Module):
    """ReLU(GN(g)), with groups of two channels or more: within a group, channels keep their means' differences.

    With one channel a group, GN would be InstanceNorm, behind which every image has the same mean.

    Args:
        channels: Of the feature; with a single one its mean is lost all the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups(channels), channels)

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, C, *spatial), at least float32, of a feature of that shape."""
        return functional.relu(self.norm(feature.to(_at_least_single(feature))), inplace=True)


class GlobalMean(nn.Module):
    """GAP: the mean of every channel over space."""

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, C, 1, ..., 1), at least float32, of a feature (B, C, *spatial)."""
        return feature.mean(tuple(range(2, feature.ndim)), keepdim=True, dtype=_at_least_single(feature))


def num_groups(channels: int) -> int:
    """Return the largest divisor of the number of channels that is 16 at most and leaves two channels in a group."""
    divisors = (groups for groups in range(1, min(_MOST_GROUPS, channels // 2) + 1) if channels % groups == 0)
    return max(divisors, default=1)


def _at_least_single(feature: Tensor) -> torch.dtype:
    return torch.promote_types(feature.dtype, torch.float32)
