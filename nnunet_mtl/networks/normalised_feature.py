"""GroupNorm, ReLU and mean over space, whose means differ between images: for DoDNet, TGNet and CLIP-driven."""

import torch
from torch import Tensor, nn
from torch.nn import functional

_MOST_GROUPS = 16  # as in DoDNet's released code


class NormalisedFeature(nn.Module):
    """ReLU(GN(g)), with groups of two or more channels, so that the channels of a group keep different means.

    A GroupNorm with one channel in a group is an InstanceNorm, behind which every image has the same means.

    Args:
        channels: Number of channels, C; with C = 1 the mean is lost all the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups(channels), channels)

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, C, *spatial), at least float32, from a feature of the same shape."""
        return functional.relu(self.norm(feature.to(_at_least_single(feature))), inplace=True)


class GlobalMean(nn.Module):
    """GAP: the mean of every channel over space."""

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, C, 1, ..., 1), at least float32, from a feature (B, C, *spatial)."""
        return feature.mean(tuple(range(2, feature.ndim)), keepdim=True, dtype=_at_least_single(feature))


def num_groups(channels: int) -> int:
    """Return the largest divisor of `channels` that is at most 16 and gives groups of at least two channels; or 1."""
    divisors = (groups for groups in range(1, min(_MOST_GROUPS, channels // 2) + 1) if channels % groups == 0)
    return max(divisors, default=1)


def _at_least_single(feature: Tensor) -> torch.dtype:
    return torch.promote_types(feature.dtype, torch.float32)
