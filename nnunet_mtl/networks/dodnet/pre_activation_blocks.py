"""The blocks of DoDNet's backbone: weight-standardised convolutions in blocks that normalise before they convolve.

Source: Zhang, Xie, Xia, Shen, DoDNet: learning to segment multi-organ and tumors from multiple partially labeled
datasets, CVPR 2021, and its released code, re-implemented from equations. Weight standardisation is Qiao, Wang, Liu,
Shen, Yuille, Micro-batch training with batch-channel normalization and weight standardization, 2019 (arXiv:1903.10520).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.normalised_feature import NormalisedFeature
from nnunet_mtl.networks.pre_norm import GuidedBlock, unguided

_EPS = 1e-12


def standardised(weight: Tensor) -> Tensor:
    """Return filters (out, in, *kernel) whose weights have mean 0 and sample variance 1 each: (w - mean) / std.

    So a filter w and a w + b, a > 0, are the same but for 1e-12, which is added to the variance.
    """
    axes = tuple(range(1, weight.ndim))
    variance, mean = torch.var_mean(weight, axes, keepdim=True)
    return (weight - mean) / (variance + _EPS).sqrt()


class StandardisedConv2d(nn.Conv2d):
    """A 2D convolution with standardised filters."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', *spatial') from (B, C, *spatial)."""
        return functional.conv2d(x, standardised(self.weight), self.bias, self.stride, self.padding)


class StandardisedConv3d(nn.Conv3d):
    """A 3D convolution with standardised filters."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', *spatial') from (B, C, *spatial)."""
        return functional.conv3d(x, standardised(self.weight), self.bias, self.stride, self.padding)


def standardised_conv(
    conv_op: type[nn.Module],
    channels: int,
    output_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int] | None = None,
) -> StandardisedConv2d | StandardisedConv3d:
    """Return a standardised convolution without bias that keeps the size but for the stride, which rounds up.

    Args:
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        channels: Number of input channels.
        output_channels: Number of output channels.
        kernel_size: Odd, along every axis.
        stride: Along every axis; 1 by default.
    """
    convolution = StandardisedConv2d if conv_op is nn.Conv2d else StandardisedConv3d
    padding = [(edge - 1) // 2 for edge in kernel_size]
    return convolution(
        channels,
        output_channels,
        tuple(kernel_size),  # type: ignore[arg-type]  # as many numbers as there are axes
        tuple(stride or [1] * len(kernel_size)),  # type: ignore[arg-type]
        tuple(padding),  # type: ignore[arg-type]
        bias=False,
    )


def _unconditioned(activated: Tensor) -> Tensor:
    return activated


class PreActivationBlock(GuidedBlock):
    """A residual block: u = f(x), R(x) = P(x) + f'(u), f and f' GroupNorm, ReLU and convolution.

    P is the identity; where size or channels change it is GroupNorm, ReLU and a convolution with kernel 1 and the
    stride. GroupNorm has 16 groups; in narrow features fewer, of two channels (our choice).

    Args:
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        channels: Channels of x.
        output_channels: Channels of u and R(x).
        kernel_size: Kernel size along every axis.
        stride: Stride of f along every axis; 1 by default.
    """

    def __init__(
        self,
        conv_op: type[nn.Module],
        channels: int,
        output_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
    ) -> None:
        super().__init__(output_channels)
        self.norm1 = NormalisedFeature(channels)
        self.conv1 = standardised_conv(conv_op, channels, output_channels, kernel_size, stride)
        self.norm2 = NormalisedFeature(output_channels)
        self.conv2 = standardised_conv(conv_op, output_channels, output_channels, kernel_size)
        self.skip: nn.Module = nn.Identity()
        if channels != output_channels or any(step != 1 for step in stride or ()):
            point = [1] * len(kernel_size)
            projection = standardised_conv(conv_op, channels, output_channels, point, stride)
            self.skip = nn.Sequential(NormalisedFeature(channels), projection)

    def run(
        self,
        x: Tensor,
        guide: Callable[[Tensor, Tensor], Tensor] = unguided,
        condition: Callable[[Tensor], Tensor] = _unconditioned,
    ) -> Tensor:
        """Return R(x), behind which no normalisation stands.

        Args:
            x: (B, C, *spatial).
            guide: Function of P(x) and u; returns the tensor that is added to f'(u).
            condition: Function of the normalised x; returns the tensor that the first convolution reads.
        """
        first = self.conv1(condition(self.norm1(x)))
        shortcut = guide(self.skip(x), first)
        second: Tensor = self.conv2(self.norm2(first))
        return second + shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return R(x)."""
        return self.run(x)


class PreActivationStage(nn.Module):
    """Blocks in a row; the first block changes size and channels.

    Args:
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        channels: Channels of x.
        output_channels: Output channels of every block.
        kernel_size: Kernel size along every axis.
        n_blocks: Number of blocks, at least 1.
        stride: Stride of the first block.
    """

    def __init__(
        self,
        conv_op: type[nn.Module],
        channels: int,
        output_channels: int,
        kernel_size: Sequence[int],
        n_blocks: int,
        stride: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        first = PreActivationBlock(conv_op, channels, output_channels, kernel_size, stride)
        same = output_channels, output_channels, kernel_size
        self.blocks = nn.ModuleList([first, *(PreActivationBlock(conv_op, *same) for _ in range(n_blocks - 1))])

    def forward(self, x: Tensor, condition: Callable[[Tensor], Tensor] = _unconditioned) -> Tensor:
        """Return (B, C', *spatial'); `condition` is that of the first block."""
        first, *others = self.blocks
        x = first.run(x, condition=condition)  # type: ignore[operator]  # a PreActivationBlock
        for block in others:
            x = block(x)
        return x
