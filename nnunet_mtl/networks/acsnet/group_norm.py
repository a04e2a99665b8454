"""GroupNorm for any number of channels: what is pooled behind it still says something about the image."""

from torch import nn


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Return a GroupNorm with about `groups` groups.

    A group of one channel would be InstanceNorm, behind which the mean of a channel is the same in every image, and
    which undoes any factor on that channel.

    Args:
        channels: Channels of the feature.
        groups: Wanted number of groups. The GroupNorm gets the nearest divisor of `channels` that leaves two channels
            in a group; of two equally near divisors, the smaller one. A prime number of channels is one group.
    """
    possible = [count for count in range(1, max(channels // 2, 1) + 1) if channels % count == 0]
    return nn.GroupNorm(min(possible, key=lambda count: abs(count - groups)), channels)
