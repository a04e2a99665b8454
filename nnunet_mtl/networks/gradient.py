"""Scales the gradient that a head sends back into features which it shares with other heads."""

from typing import Any

import torch
from torch import Tensor


def scale_gradient(x: Tensor, factor: float, *, attached: bool = False) -> Tensor:
    """Return `x` without a copy; in the backward pass its gradient is multiplied by `factor`.

    Args:
        x: Any shape.
        factor: 0 to 1. With 0 no gradient is computed, unless `attached`.
        attached: Whether weights behind `x` get a gradient of 0 if `factor` is 0. DistributedDataParallel needs a
            gradient of every weight.
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
