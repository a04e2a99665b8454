"""Standardises values pooled from images by their mean and variance over images."""

import torch
from torch import Tensor, nn


class RunningStandardiser(nn.Module):
    """Subtracts the mean over images and divides by the standard deviation, both running estimates.

    Training and evaluation both use the running estimates. Unlike in batch normalisation, a sample therefore does not
    depend on the other samples of its batch.

    Args:
        channels: Number of values per image.
        momentum: Weight of a new batch in the estimates. Until 1 / momentum batches have been seen, all batches weigh
            the same.
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
            counts: Which samples enter the estimates, (B,) bool; by default all. All samples are standardised.
        """
        if self.training:
            counts = torch.ones_like(values[:, 0], dtype=torch.bool) if counts is None else counts
            self._update(values.detach(), counts[:, None])
        return (values - self.mean) / (self.var + 1e-6).sqrt()

    @torch.no_grad()
    def _update(self, values: Tensor, counts: Tensor) -> None:
        """Update the estimates; a batch without a sample that counts does not change them."""
        any_counts = counts.any().to(values.dtype)
        self.num_batches += any_counts
        weight = any_counts / self.num_batches.clamp_min(1).clamp_max(1 / self.momentum)
        _blend(self.mean, _mean(values, counts), weight)
        _blend(self.var, _mean((values - self.mean).square(), counts), weight)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    # where() and not a product, because a sample that does not count may be infinite.
    return torch.where(counts, values, torch.zeros_like(values)).sum(0) / counts.sum().clamp_min(1)


def _blend(estimate: Tensor, seen: Tensor, weight: Tensor) -> None:
    updated = estimate.lerp(seen, weight)
    # An overflow under mixed precision must not stay in the estimate for ever.
    estimate.copy_(torch.where(updated.isfinite(), updated, estimate))
