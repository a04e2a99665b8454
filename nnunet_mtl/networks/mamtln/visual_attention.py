"""MA-MTLN's visual attention: gates computed from a feature with fields of view of several widths.

    VA(x) = PReLU(C [x * g_1(x) || ... || x * g_n(x)] + x),    g_r(x) = sigmoid(K_r(x))

K_r is a chain of convolutions with nothing between them, the last of them dilated, and C one with kernel 1.

Source: Zhang Y. et al., MA-MTLN, IEEE TMI 2021, and its released code, re-implemented from equations. Ours: dilations
are clipped to the size of the feature, and none is where the plans' kernel is 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunet_mtl.networks.mamtln.pyramid_blocks import Shape, pointwise, same_size_convolution

_MOST_BRANCHES, _LEAST_BRANCHES = 4, 2


class _Branch(NamedTuple):
    convolutions: int  # before the dilated one, with kernel 3 unless `narrow`
    narrow: bool
    dilation: tuple[int, int, int]  # of the last axes; published for 3D


_BRANCHES = (
    _Branch(1, narrow=True, dilation=(1, 1, 1)),
    _Branch(1, narrow=False, dilation=(3, 3, 3)),
    _Branch(2, narrow=False, dilation=(5, 5, 5)),
    _Branch(3, narrow=False, dilation=(5, 7, 7)),
)


class NoVisualAttention(nn.Module):
    """Leaves the feature of a level unchanged."""

    def __init__(self, shape: Shape, level: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x


class VisualAttention(nn.Module):
    """Four branches at the finest level, three at the next, two below.

    Args:
        shape: Numbers of the pyramid.
        level: Index of the level, 0 the finest.
    """

    def __init__(self, shape: Shape, level: int) -> None:
        super().__init__()
        kinds = _BRANCHES[: max(_LEAST_BRANCHES, _MOST_BRANCHES - level)]
        self.branches = nn.ModuleList(_branch(shape, level, kind) for kind in kinds)
        self.mix = same_size_convolution(shape.conv_op, len(kinds) * shape.width, shape.width, pointwise(shape))
        self.activation = nn.PReLU()

    def gates(self, x: Tensor) -> list[Tensor]:
        """Return the factors of every branch, each like `x`, between 0 and 1."""
        return [torch.sigmoid(branch(x)) for branch in self.branches]

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, W, *spatial) of a feature of that shape."""
        attended: Tensor = self.activation(self.mix(torch.cat([x * gate for gate in self.gates(x)], dim=1)) + x)
        return attended


def dilations(published: tuple[int, int, int], kernel: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the dilation of a branch per axis, at least 1, clipped so that the kernel is not wider than the feature.

    Args:
        published: Published dilation of the last three axes.
        kernel: Kernel of the level per axis; an axis with kernel 1 has the dilation 1.
        size: Spatial size of the level; empty if it is not known, and then nothing is clipped.
    """
    steps = published[-len(kernel) :]
    clipped = [min(step, max(1, (edge - 1) // 2)) for step, edge in zip(steps, size or [10**9] * 3, strict=False)]
    return tuple(1 if edge == 1 else step for step, edge in zip(clipped, kernel, strict=True))


def _branch(shape: Shape, level: int, kind: _Branch) -> nn.Sequential:
    kernel, _, size = shape.levels[level]
    first = pointwise(shape) if kind.narrow else kernel
    kernels = [first] * kind.convolutions + [kernel]
    apart = [(1,) * len(kernel)] * kind.convolutions + [dilations(kind.dilation, kernel, size)]
    return nn.Sequential(
        *(
            same_size_convolution(shape.conv_op, shape.width, shape.width, size, dilation=dilation)
            for size, dilation in zip(kernels, apart, strict=True)
        )
    )
