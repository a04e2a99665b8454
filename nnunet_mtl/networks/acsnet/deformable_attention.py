"""ACSNet's deformable spatial attention of the decoder.

    c = ReLU(GN(D(x))),    o_1 = c * sigmoid(conv(mean_C c)),    o_2 = c * sigmoid(conv(max_C c))
    out = ReLU(GN(D'([o_1 || o_2])))

D and D' are deformable convolutions, D' of 2 C channels to C; the convolutions read the mean and the maximum over
channels, one channel each, with kernel 3.

Source: He et al., ACSNet, 2024 (segmentation and classification of breast ultrasound), module DSA of the released code,
re-implemented from equations.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.acsnet.deformable import DeformableConvolution
from nnunet_mtl.networks.acsnet.group_norm import group_norm
from nnunet_mtl.networks.off_parts import NoStageAttention


def plain_convolution(input_channels: int, output_channels: int, dimensions: int) -> nn.Module:
    """Return a convolution with kernel 3, what a `DeformableConvolution` with the same arguments starts as."""
    convolution: nn.Module = convert_dim_to_conv_op(dimensions)(input_channels, output_channels, 3, padding=1)
    return convolution


class SpatialAttention(nn.Module):
    """The attention of the equations above, on one stage.

    With k = 3^d it has k (3 C^2 + 2) + 6 C + 2 parameters and, where the convolutions are deformable,
    (d + 1) k (3 k C + 2) more.

    Args:
        channels: C.
        dimensions: d, 2 or 3.
        convolution: Builds D and D' of their input and output channels and d.
    """

    def __init__(self, channels: int, dimensions: int, convolution: Callable[[int, int, int], nn.Module]) -> None:
        super().__init__()
        self.first = convolution(channels, channels, dimensions)
        self.first_norm = group_norm(channels, channels // 4)
        self.of_mean = plain_convolution(1, 1, dimensions)
        self.of_maximum = plain_convolution(1, 1, dimensions)
        self.second = convolution(2 * channels, channels, dimensions)
        self.second_norm = group_norm(channels, channels // 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, *spatial), of the dtype of `x`, (B, C, *spatial)."""
        c = functional.relu(self.first_norm(self.first(x)))
        by_mean = c * torch.sigmoid(self.of_mean(c.mean(1, keepdim=True)))
        by_maximum = c * torch.sigmoid(self.of_maximum(c.amax(1, keepdim=True)))
        both = torch.cat((by_mean, by_maximum), dim=1)
        return functional.relu(self.second_norm(self.second(both))).to(x.dtype)


class DeformableAttention(NoStageAttention):
    """Spatial attention with deformable convolutions at the deepest stages of the decoder; the others as they are.

    Args:
        channels: Channels of the stage.
        level: Index of the stage, 0 the deepest.
        dimensions: 2 or 3.
        deformable_stages: How many stages have it; all of them if there are fewer.
        **options: Not used.
    """

    convolution: ClassVar[Callable[[int, int, int], nn.Module]] = DeformableConvolution

    def __init__(
        self, channels: int, level: int, dimensions: int, *, deformable_stages: int = 2, **options: Any
    ) -> None:
        super().__init__(channels, level, dimensions, **options)
        here = level < deformable_stages
        self.attend = SpatialAttention(channels, dimensions, type(self).convolution) if here else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, *spatial) from a feature of the same shape."""
        attended: Tensor = self.attend(x)
        return attended


class PlainAttention(DeformableAttention):
    """The same with ordinary convolutions: a control, and what the deformable one starts as with the same weights."""

    convolution: ClassVar[Callable[[int, int, int], nn.Module]] = staticmethod(plain_convolution)
