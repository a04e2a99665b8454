"""How much of a head's gradient reaches the features that it shares with the others."""

from typing import Any

import torch
from torch import Tensor


def scale_gradient(x: Tensor, factor: float, *, attached: bool = False) -> Tensor:
    """Return `x`, whose gradient will be multiplied by `factor`, without a copy; with 0 none is computed.

    Args:
        x: Any shape.
        factor: 0 to 1.
        attached: Whether a gradient of 0 is computed too, as DistributedDataParallel needs it of every weight.
    """
    if factor == 1:
        return x
    if factor == 0 and not attached:
        return x.detach()
    scaled: Tensor = _ScaledGradient.apply(x, factor)
    return scaled


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient * ctx.factor, None
