"""ACSNet's gate: how much of an encoder output reaches the decoder, one number per image and level.

    z = conv(ReLU(GN(conv(x)))),    s = mean sigmoid(z_0) + max sigmoid(z_1),    0 < s < 2

All convolutions have kernel 3; the first makes C / 8 channels, the second two; mean and maximum are over space.

Source: He et al., ACSNet, 2024 (segmentation and classification of breast ultrasound), gate unit of the released code,
re-implemented from equations.
"""

from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.acsnet.group_norm import group_norm
from nnunet_mtl.networks.off_parts import NoStageAttention


class GateUnit(NoStageAttention):
    """The gate in the published order: out = ReLU(GN(conv(s x))).

    The normalisation follows the factor and so undoes it: s remains only in the share that the convolution's bias and
    the normalisation's epsilon have in the result. nnU-Net starts biases at zero. `GateAfterNorm` has the other order.

    With k = 3^d and h = max(C / 8, 2) it has k (C h + 2 h + C^2) + 3 h + 3 C + 2 parameters.

    Args:
        channels: C.
        level: Not used.
        dimensions: d, 2 or 3.
        **options: Not used.
    """

    def __init__(self, channels: int, level: int, dimensions: int, **options: Any) -> None:
        super().__init__(channels, level, dimensions, **options)
        convolution = convert_dim_to_conv_op(dimensions)
        hidden = max(channels // 8, 2)  # with a single channel GN would be InstanceNorm
        self.scores = nn.Sequential(
            convolution(channels, hidden, 3, padding=1),
            group_norm(hidden, channels // 16),
            nn.ReLU(inplace=True),
            convolution(hidden, 2, 3, padding=1),
        )
        self.refine = convolution(channels, channels, 3, padding=1)
        self.norm = group_norm(channels, channels // 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the decoder reads of `x`; both (B, C, *spatial)."""
        return self.gated(x, self.scalar(x))

    def scalar(self, x: Tensor) -> Tensor:
        """Return s, (B, 1, ..., 1) with as many axes as `x`, at least float32."""
        z = self.scores(x)
        opened = torch.sigmoid(z.to(torch.promote_types(z.dtype, torch.float32))).flatten(2)
        s = opened[:, 0].mean(1) + opened[:, 1].amax(1)
        return s.reshape(-1, *[1] * (x.ndim - 1))

    def gated(self, x: Tensor, s: Tensor) -> Tensor:
        """Return the output for given factors.

        Args:
            x: (B, C, *spatial).
            s: As from `scalar`.
        """
        return functional.relu(self.norm(self.refine(s.to(x.dtype) * x))).to(x.dtype)


class GateAfterNorm(GateUnit):
    """The gate behind the normalisation, out = s ReLU(GN(conv(x))): the output is proportional to s.

    Not the paper's order; arguments and parameters are those of `GateUnit`.
    """

    def gated(self, x: Tensor, s: Tensor) -> Tensor:
        """Return the output for given factors; arguments as in `GateUnit.gated`."""
        return (s * functional.relu(self.norm(self.refine(x)))).to(x.dtype)
