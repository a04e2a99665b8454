"""Task-guided channel attention on the skip connections."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

Gates = Literal["identity", "faithful"]


class NoTaskAttention(nn.Module):
    """The skip as it is: how a network is told to have no attention (a misspelt dotted path gives None, refused).

    Args:
        skip_channels: Not used, like the others; here so that attentions are built alike.
        feature_channels: Not used.
        num_tasks: Not used.
        gates: Not used.
    """

    conditioned: ClassVar[bool] = False

    def __init__(self, skip_channels: int, feature_channels: int, num_tasks: int, gates: Gates) -> None:
        super().__init__()

    def forward(self, skip: Tensor, feature: Tensor, task: Tensor | None = None) -> Tensor:
        """Return `skip`."""
        return skip


class TaskGuidedAttention(nn.Module):
    """Scales every channel of a skip by a factor computed from the coarser decoder feature and from the task.

    Args:
        skip_channels: Channels of the skip.
        feature_channels: Channels of the coarser decoder feature.
        num_tasks: K.
        gates: "identity": factors of a small perceptron, 2 sigmoid(.), exactly 1 before training; "faithful":
            sigmoid(W [v || e] + b), initialised as published, near one half.
    """

    conditioned: ClassVar[bool] = True
    task_indices: Tensor

    def __init__(self, skip_channels: int, feature_channels: int, num_tasks: int, gates: Gates) -> None:
        super().__init__()
        self.register_buffer("task_indices", torch.arange(num_tasks), persistent=False)
        self.hidden: nn.Module
        if gates == "identity":
            hidden_channels = max(skip_channels // 4, 8)
            self.scale = 2.0
            self.hidden = nn.Sequential(nn.Linear(2 * feature_channels + num_tasks, hidden_channels), nn.LeakyReLU())
            self.factor = nn.Linear(hidden_channels, skip_channels)
            # nnU-Net re-initialises convolutions after construction; linear layers keep what they have here.
            nn.init.zeros_(self.factor.weight)
            nn.init.zeros_(self.factor.bias)
        else:
            self.scale = 1.0
            self.hidden = nn.Identity()
            self.factor = nn.Linear(2 * feature_channels + num_tasks, skip_channels)

    def forward(self, skip: Tensor, feature: Tensor, task: Tensor) -> Tensor:
        """Return the gated skip.

        Args:
            skip: Encoder feature, (B, C, *spatial).
            feature: Coarser decoder feature before its normalisation, (B, C', *coarser spatial).
            task: Task index per sample, (B,) long.
        """
        factors = self.factors(feature, task).to(skip.dtype)
        return skip * factors.reshape(*factors.shape, *[1] * (skip.ndim - 2))

    def factors(self, feature: Tensor, task: Tensor) -> Tensor:
        """Return the factor of every skip channel, (B, C), in float32 under autocast too."""
        with torch.autocast(feature.device.type, enabled=False):
            code = (task[:, None] == self.task_indices).to(self.factor.weight.dtype)
            described = descriptor(feature).to(code.dtype)
            hidden = self.hidden(torch.cat((described, code), dim=1))
            return self.scale * torch.sigmoid(self.factor(hidden))


def descriptor(feature: Tensor) -> Tensor:
    """Return the mean and the standard deviation of every channel over space, (B, 2C), at least float32."""
    dims = tuple(range(2, feature.ndim))
    dtype = torch.promote_types(feature.dtype, torch.float32)
    mean = feature.mean(dims, dtype=dtype)
    # Accumulated in float32 without a float32 copy of the feature, which autograd would have to keep.
    rms = torch.linalg.vector_norm(feature, dim=dims, dtype=dtype) / math.sqrt(feature[0, 0].numel())
    deviation = (rms.square() - mean.square()).clamp_min(0).add(1e-5).sqrt()
    return torch.cat((mean, deviation), dim=1)
