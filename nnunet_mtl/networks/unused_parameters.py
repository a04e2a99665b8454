"""What a training pass does not use, all the same attached to its result."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def zero_of(modules: Iterable[nn.Module]) -> Tensor | float:
    """Return a zero attached to every weight: DistributedDataParallel waits for the gradient of each.

    Args:
        modules: What was not run; without any, or where nothing is to be learnt, the zero is a number.
    """
    weights = [weight.sum() for module in modules for weight in module.parameters()]
    return 0.0 * torch.stack(weights).sum() if weights and torch.is_grad_enabled() else 0.0
