"""Building blocks of MA-MTLN's pyramid: levels, convolution blocks, downsampling and interpolation.

All strides and kernels come from the plans. Features are enlarged to a given size, never by a factor.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional


class Level(NamedTuple):
    """One level of the pyramid: a stage of the encoder.

    Attributes:
        kernel: Kernel of the level's convolutions per axis: 1 where the plans' kernel is 1, else 3.
        stride: Stride from the next finer stage of the encoder, per axis.
        size: Spatial size of the level's features at the planned patch size; empty if it is not known.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    size: tuple[int, ...] = ()


class Shape(NamedTuple):
    """The numbers every part of a pyramid is built from.

    Attributes:
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        width: Channels of every level, W.
        levels: Finest first, L of them.
    """

    conv_op: type[nn.Conv2d] | type[nn.Conv3d]
    width: int
    levels: tuple[Level, ...]


class ConvNormAct(nn.Sequential):
    """Convolution, GroupNorm and PReLU; with a stride s an axis of n voxels becomes one of n / s, rounded up.

    InstanceNorm would leave every image the same means, and the answers to questions are read from means.

    Args:
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        channels: Number of input channels.
        output_channels: Number of output channels.
        kernel: Kernel size per axis, odd.
        stride: Stride per axis.
        per_group: Channels of a group of the GroupNorm, see `equal_groups`; 2 in most blocks as released.
        bias: Whether the convolution has a bias.
    """

    def __init__(
        self,
        conv_op: type[nn.Conv2d] | type[nn.Conv3d],
        channels: int,
        output_channels: int,
        kernel: Sequence[int],
        stride: Sequence[int] | int = 1,
        *,
        per_group: int = 2,
        bias: bool = True,
    ) -> None:
        super().__init__(
            same_size_convolution(conv_op, channels, output_channels, kernel, stride=stride, bias=bias),
            nn.GroupNorm(equal_groups(output_channels, per_group), output_channels),
            nn.PReLU(),
        )


class RepeatedDownsampling(nn.Module):
    """One block with shared weights, applied once for every level to descend, with the stride of that level.

    Args:
        shape: Numbers of the pyramid.
        level: Index of the level to descend to from the finest, at least 1.
    """

    def __init__(self, shape: Shape, level: int) -> None:
        super().__init__()
        self.strides = [coarser.stride for coarser in shape.levels[1 : level + 1]]
        self.block = downsampling(shape, shape.levels[level].kernel, 1)
        self._convolve = functional.conv2d if shape.conv_op is nn.Conv2d else functional.conv3d

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, W, *size of the level) of a feature (B, W, *size of the finest)."""
        convolution, norm, activation = self.block
        weight, padding = (cast(Any, getattr(convolution, name)) for name in ("weight", "padding"))
        for stride in self.strides:
            x = self._convolve(x, weight, None, stride, padding)
            x = activation(norm(x))
        return x


def downsampling(shape: Shape, kernel: Sequence[int], stride: Sequence[int] | int) -> ConvNormAct:
    """Return a strided block of a pyramid, W channels to W; as released, four channels to a group and no bias.

    Args:
        shape: Numbers of the pyramid.
        kernel: Odd, per axis; 1 reads one voxel of those that a stride covers.
        stride: Stride per axis.
    """
    return ConvNormAct(shape.conv_op, shape.width, shape.width, kernel, stride, per_group=4, bias=False)


def same_size_convolution(
    conv_op: type[nn.Conv2d] | type[nn.Conv3d],
    channels: int,
    output_channels: int,
    kernel: Sequence[int],
    *,
    stride: Sequence[int] | int = 1,
    dilation: Sequence[int] | int = 1,
    bias: bool = True,
) -> nn.Conv2d | nn.Conv3d:
    """Return a convolution that keeps the size of what it reads, but for its stride.

    Args:
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        channels: Number of input channels.
        output_channels: Number of output channels.
        kernel: Kernel size per axis, odd.
        stride: Stride per axis.
        dilation: Dilation per axis.
        bias: Whether the convolution has a bias.
    """
    strides, dilations = ([value] * len(kernel) if isinstance(value, int) else [*value] for value in (stride, dilation))
    padding = [(edge - 1) // 2 * apart for edge, apart in zip(kernel, dilations, strict=True)]
    arguments = {"stride": tuple(strides), "padding": tuple(padding), "dilation": tuple(dilations), "bias": bias}
    return conv_op(channels, output_channels, tuple(kernel), **arguments)  # type: ignore[arg-type]


def pointwise(shape: Shape) -> tuple[int, ...]:
    """Return the kernel that reads a single voxel."""
    return (1,) * len(shape.levels[0].kernel)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return a feature (B, C, *spatial) at another size, linearly interpolated; itself if it has that size."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return functional.interpolate(x, size=tuple(size), mode=mode, align_corners=False)


def equal_groups(channels: int, per_group: int) -> int:
    """Return the largest number of equal groups that leaves `per_group` channels or more in each; 1 if none does."""
    return max((groups for groups in range(1, channels // per_group + 1) if channels % groups == 0), default=1)
