"""Values pooled from an image, on the scale on which images differ from one another."""

import torch
from torch import Tensor, nn


class RunningStandardiser(nn.Module):
    """Removes mean and scale over images, with running estimates in training and in evaluation alike.

    Unlike in batch normalisation no sample is scaled by its neighbours in the batch.

    Args:
        channels: Number of values per image.
        momentum: Weight of a new batch in the running estimates, once so many have been seen; a plain average before.
    """

    mean: Tensor
    var: Tensor
    num_batches: Tensor

    def __init__(self, channels: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.register_buffer("num_batches", torch.zeros(()))

    def forward(self, values: Tensor, counts: Tensor | None = None) -> Tensor:
        """Return standardised values (B, C).

        Args:
            values: (B, C).
            counts: Which samples enter the estimates, (B,) bool; all of them by default. All are standardised.
        """
        if self.training:
            counts = torch.ones_like(values[:, 0], dtype=torch.bool) if counts is None else counts
            self._update(values.detach(), counts[:, None])
        return (values - self.mean) / (self.var + 1e-6).sqrt()

    @torch.no_grad()
    def _update(self, values: Tensor, counts: Tensor) -> None:
        """Move the estimates; a batch none of whose samples counts leaves them where they are."""
        any_counts = counts.any().to(values.dtype)
        self.num_batches += any_counts
        weight = any_counts / self.num_batches.clamp_min(1).clamp_max(1 / self.momentum)
        _blend(self.mean, _mean(values, counts), weight)
        _blend(self.var, _mean((values - self.mean).square(), counts), weight)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    # selected, not multiplied: a sample that does not count may be infinite
    return torch.where(counts, values, torch.zeros_like(values)).sum(0) / counts.sum().clamp_min(1)


def _blend(estimate: Tensor, seen: Tensor, weight: Tensor) -> None:
    updated = estimate.lerp(seen, weight)
    # An overflow under mixed precision must not stay in the estimate for good.
    estimate.copy_(torch.where(updated.isfinite(), updated, estimate))
