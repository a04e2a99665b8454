"""Convolutions that sample where the image tells them to, in 2D and 3D.

    y(p) = b + sum_k w_k m_k(p) x(p + p_k + o_k(p)),    o, m / 2 = conv(x), sigmoid(conv(x))

p_k are the places of a kernel, o_k an offset and m_k a factor for each of them at every voxel. x between voxels is
interpolated linearly, and zero outside.

Source: Zhu, Hu, Lin, Dai, Deformable ConvNets v2: more deformable, better results, CVPR 2019. 2D is torchvision's
operator; 3D is written from the equation.
"""

from math import prod
from typing import cast

import torch
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchvision.ops import deform_conv2d  # nnU-Net brings torchvision

# What is sampled is as large as this many copies of the input, in the forward and in the backward pass.
_PLACES_AT_ONCE = 3


class DeformableConvolution(nn.Module):
    """A convolution with kernel 3 whose places move and weigh by the image.

    It starts as an ordinary convolution exactly, offsets 0 and factors 2 sigmoid(0) = 1. Everything is computed in at
    least float32, under autocast too: an offset in half precision would be off by a good part of a voxel's share.

    With k = 3^d it has k C C' + C' parameters, and (d + 1) k (k C + 1) for offsets and factors.

    Args:
        input_channels: C.
        output_channels: C'.
        dimensions: d, 2 or 3.
    """

    def __init__(self, input_channels: int, output_channels: int, dimensions: int) -> None:
        super().__init__()
        # A convolution that is never called: nnU-Net initialises its weights like any other's.
        self.convolution = convert_dim_to_conv_op(dimensions)(input_channels, output_channels, 3, padding=1)
        self.places = 3**dimensions
        self.predict = ZeroConvolution(input_channels, (dimensions + 1) * self.places, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', *spatial), at least float32, from (B, C, *spatial)."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            predicted = self.predict(x)
            offsets, factors = predicted[:, : -self.places], predicted[:, -self.places :]
            weight, bias = self.convolution.weight, cast(Tensor, self.convolution.bias)
            return deformable_convolution(x, offsets, 2 * torch.sigmoid(factors), weight, bias)


class ZeroConvolution(nn.Module):
    """A convolution with kernel 3 that starts at zero and stays so: nnU-Net initialises `nn.Conv2d` and `nn.Conv3d`.

    Args:
        input_channels: C.
        output_channels: C'.
        dimensions: 2 or 3.
    """

    def __init__(self, input_channels: int, output_channels: int, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(output_channels, input_channels, *[3] * dimensions))
        self.bias = nn.Parameter(torch.zeros(output_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', *spatial) from (B, C, *spatial)."""
        convolve = functional.conv2d if x.ndim == 4 else functional.conv3d
        return convolve(x, self.weight, self.bias, padding=1)


def deformable_convolution(x: Tensor, offsets: Tensor, factors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve with a kernel whose places move, in steps of one voxel, to an output of the input's size.

    Args:
        x: (B, C, *spatial), 2D or 3D, float32 or float64.
        offsets: In voxels, (B, k d, *spatial): for each of the k places of the kernel, in the order of its memory, one
            along each of the d axes, in the order of `spatial`.
        factors: (B, k, *spatial).
        weight: (C', C, *kernel), odd along every axis.
        bias: (C',).

    Returns:
        (B, C', *spatial).
    """
    if x.ndim == 4:
        padding = [edge // 2 for edge in weight.shape[2:]]
        result: Tensor = deform_conv2d(x, offsets, weight, bias, padding=padding, mask=factors)
        return result
    return _deformable_convolution_3d(x, offsets, factors, weight, bias)


def _deformable_convolution_3d(x: Tensor, offsets: Tensor, factors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `deformable_convolution`, a few places of the kernel at a time: what they sampled is not kept for backward."""
    offsets = offsets.reshape(x.shape[0], -1, 3, *x.shape[2:])
    kernel = weight.flatten(2)
    places = _lattice(weight.shape[2:], x) - x.new_tensor([edge // 2 for edge in weight.shape[2:]])
    result = bias.reshape(-1, 1, 1, 1).expand(x.shape[0], -1, *x.shape[2:])
    for first in range(0, prod(weight.shape[2:]), _PLACES_AT_ONCE):
        some = slice(first, first + _PLACES_AT_ONCE)
        result = result + checkpoint(
            _sampled_and_weighted,
            x,
            offsets[:, some],
            factors[:, some],
            kernel[:, :, some],
            places[some],
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return result


def _sampled_and_weighted(x: Tensor, offsets: Tensor, factors: Tensor, kernel: Tensor, places: Tensor) -> Tensor:
    """Return what n places of a kernel add, (B, C', *spatial).

    Args:
        x: (B, C, *spatial).
        offsets: (B, n, 3, *spatial).
        factors: (B, n, *spatial).
        kernel: (C', C, n).
        places: Relative to the kernel's centre, (n, 3).
    """
    size = x.shape[2:]
    centres = _lattice(size, x).reshape(*size, 3)
    at = offsets.movedim(2, -1) + places[:, None, None, None] + centres  # (B, n, *spatial, 3)
    # Grid units are half an image, counted from its middle; the last axis comes first there.
    grid = ((2 * at + 1) / x.new_tensor(size) - 1).flip(-1)
    sampled = functional.grid_sample(x, grid.flatten(1, 2), padding_mode="zeros", align_corners=False)
    weighted = sampled.reshape(*x.shape[:2], -1, *size) * factors[:, None]  # (B, C, n, *spatial)
    added: Tensor = kernel.flatten(1) @ weighted.flatten(3).flatten(1, 2)  # (C', C n) @ (B, C n, voxels)
    return added.reshape(x.shape[0], -1, *size)


def _lattice(size: torch.Size, like: Tensor) -> Tensor:
    """Return the coordinates of every point of a box, (points, 3), in the order of its memory."""
    axes = [torch.arange(edge, dtype=like.dtype, device=like.device) for edge in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
