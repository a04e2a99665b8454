"""Attaches weights that a training pass did not use to the result of the pass."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def zero_of(modules: Iterable[nn.Module]) -> Tensor | float:
    """Return a zero that is attached to every weight of some modules.

    DistributedDataParallel waits for the gradient of every weight. A zero added to the result gives the weights of
    modules that did not run a gradient of 0.

    Args:
        modules: Modules that did not run. Without weights, or if gradients are off, the zero is a plain number.
    """
    weights = [weight.sum() for module in modules for weight in module.parameters()]
    return 0.0 * torch.stack(weights).sum() if weights and torch.is_grad_enabled() else 0.0
