"""Task-guided channel attention on the skip connections.

What a gate reads decides whether its factors depend on the image. The following shares of the variance of trained
"identity" gates (patches x tasks) come from the image: 36, 59 and 62 % at three skips from the coarsest, with the mean
and the standard deviation of a convolution before its normalisation, standardised over images (seed 1: 11, 12 and
36 %); 0 % without the standardisation; 0 to 2 % with layer normalisation in its place. The interaction of image and
task has 1 to 4 %. Measured by `python benchmarks/gates.py`, seed 0, Dice 0.92.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.standardisation import RunningStandardiser

Gates = Literal["identity", "faithful"]


class TaskGuidedAttention(nn.Module):
    """Scales every channel of a skip by a factor computed from the coarser decoder feature and from the task.

    The descriptor v of the feature is standardised over the images seen in training. Pooled features differ little
    between images compared with what all images have in common; without standardisation gates learn the task alone.

    Args:
        skip_channels: Channels of the skip.
        feature_channels: Channels of the coarser decoder feature.
        num_tasks: K.
        gates: "identity": the factors are 2 sigmoid(perceptron(v, e)), exactly 1 before training; v holds the mean and
            the standard deviation of every channel, e is the task's one-hot code. "faithful": the factors are
            sigmoid(W [v || e] + b), near one half before training, initialised as published; v holds the means of the
            channels, averaged to as many values as the skip has channels.

    Source: Wu, Pang, Sowmya, TGNet: a task-guided network architecture for multi-organ and tumour segmentation from
    partially labelled datasets, ISBI 2022. Written from the paper; the descriptor and "identity" are ours.
    """

    conditioned: ClassVar[bool] = True
    task_indices: Tensor

    def __init__(self, skip_channels: int, feature_channels: int, num_tasks: int, gates: Gates) -> None:
        super().__init__()
        self.register_buffer("task_indices", torch.arange(num_tasks), persistent=False)
        self.gate: nn.Module
        if gates == "identity":
            self.gate = IdentityGate(skip_channels, feature_channels, num_tasks)
        else:
            self.gate = PublishedGate(skip_channels, feature_channels, num_tasks)

    def forward(self, skip: Tensor, feature: Tensor, upsampled: Tensor, task: Tensor) -> Tensor:
        """Return the gated skip.

        Args:
            skip: Encoder feature, (B, C, *spatial).
            feature: Coarser decoder feature before its normalisation, (B, C', *coarser spatial).
            upsampled: Not read.
            task: Task index per sample, (B,) long.
        """
        factors = self.factors(feature, task).to(skip.dtype)
        return skip * factors.reshape(*factors.shape, *[1] * (skip.ndim - 2))

    def factors(self, feature: Tensor, task: Tensor) -> Tensor:
        """Return the factor of every skip channel, (B, C), in float32 also under autocast."""
        with torch.autocast(feature.device.type, enabled=False):
            mean, deviation = pooled(feature)
            code = (task[:, None] == self.task_indices).to(mean.dtype)
            factors: Tensor = self.gate(mean, deviation, code)
        return factors


class IdentityGate(nn.Module):
    """A perceptron of one hidden layer, whose last layer starts at zero: 2 sigmoid(0) = 1.

    Args:
        skip_channels: Number of factors.
        feature_channels: Channels of the pooled feature.
        num_tasks: K.
    """

    def __init__(self, skip_channels: int, feature_channels: int, num_tasks: int) -> None:
        super().__init__()
        hidden = max(skip_channels // 4, 8)
        self.standardise = RunningStandardiser(2 * feature_channels)
        self.description = nn.Linear(2 * feature_channels, hidden)
        self.task_embedding = nn.Linear(num_tasks, hidden, bias=False)
        self.output = nn.Linear(hidden, skip_channels)
        # Image and task both reach the hidden layer with unit variance. By default the task's code, one of many inputs,
        # would hardly count. nnU-Net re-initialises convolutions after construction, never linear layers.
        nn.init.normal_(self.description.weight, std=1 / math.sqrt(2 * feature_channels))
        nn.init.zeros_(self.description.bias)
        nn.init.normal_(self.task_embedding.weight)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, mean: Tensor, deviation: Tensor, code: Tensor) -> Tensor:
        """Return factors (B, C) between 0 and 2 from pooled features (B, C') and the task's one-hot code (B, K)."""
        described = self.description(self.standardise(torch.cat((mean, deviation), dim=1)))
        return 2 * torch.sigmoid(self.output(functional.leaky_relu(described + self.task_embedding(code))))


class PublishedGate(nn.Module):
    """One linear layer on the pooled feature and the task's code.

    Args:
        skip_channels: Number of factors.
        feature_channels: Channels of the pooled feature.
        num_tasks: K.
    """

    def __init__(self, skip_channels: int, feature_channels: int, num_tasks: int) -> None:
        super().__init__()
        self.skip_channels = skip_channels
        self.standardise = RunningStandardiser(skip_channels)
        self.output = nn.Linear(skip_channels + num_tasks, skip_channels)

    def forward(self, mean: Tensor, deviation: Tensor, code: Tensor) -> Tensor:
        """Return factors (B, C) between 0 and 1 from pooled features (B, C') and the task's one-hot code (B, K)."""
        # The published descriptor has as many values as the skip has channels; with the number of channels of the
        # coarser stage W would be larger than published.
        described = self.standardise(functional.adaptive_avg_pool1d(mean, self.skip_channels))
        return torch.sigmoid(self.output(torch.cat((described, code), dim=1)))


def pooled(feature: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of every channel over space, (B, C) each, at least float32."""
    dims = tuple(range(2, feature.ndim))
    dtype = torch.promote_types(feature.dtype, torch.float32)
    mean = feature.mean(dims, dtype=dtype)
    # Adds up in float32 without a float32 copy of the feature, which autograd would have to keep.
    rms = torch.linalg.vector_norm(feature, dim=dims, dtype=dtype) / math.sqrt(feature[0, 0].numel())
    return mean, (rms.square() - mean.square()).clamp_min(0).add(1e-6).sqrt()
