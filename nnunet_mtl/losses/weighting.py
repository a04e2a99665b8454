"""How the terms of the loss are weighted against each other."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EqualWeights(nn.Module):
    """The sum of all terms."""

    def forward(self, losses: Mapping[str, Tensor], present: Mapping[str, bool]) -> Tensor:
        """Return the total, a scalar.

        Args:
            losses: The terms, scalars.
            present: Whether anything taught a term.
        """
        return torch.stack(list(losses.values())).sum()
