"""GroupNorm for any number of channels: what is pooled behind it still says something about the image."""

from torch import nn


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Return a GroupNorm with about as many groups as are asked for.

    A group of one channel would be InstanceNorm, behind which the mean of a channel is the same in every image, and
    which undoes any factor on that channel.

    Args:
        channels: Of what it normalises.
        groups: The divisor of `channels` nearest to it that leaves two channels in a group is taken, of two as near
            the smaller; a prime number of channels is one group.
    """
    possible = [count for count in range(1, max(channels // 2, 1) + 1) if channels % count == 0]
    return nn.GroupNorm(min(possible, key=lambda count: abs(count - groups)), channels)
