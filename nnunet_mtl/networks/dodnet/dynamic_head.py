"""A head whose 1x1 convolutions are computed from the image and from the task: DoDNet's."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, cat, nn
from torch.nn import functional

from nnunet_mtl.networks.heads import DeepestStage, SlotHead
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.normalised_feature import GlobalMean, NormalisedFeature
from nnunet_mtl.networks.task_code import TaskCode

WIDTH = 8
"""Channels of the published dynamic layers."""


def theta_size(width: int, outputs: int) -> int:
    """Return how many weights and biases the three layers of `dynamic_layers` have: 162 for width 8, two outputs."""
    return sum(map(math.prod, _weight_shapes(width, outputs))) + 2 * width + outputs


def dynamic_layers(x: Tensor, theta: Tensor, outputs: int) -> Tensor:
    """Apply three 1x1 convolutions with ReLU between, whose weights differ by sample, in float32 also under autocast.

    The convolutions are batched matrix products, because a convolution with one group for every sample would be
    compiled again for every batch size.

    Args:
        x: Feature that all H heads of a sample read, (B, W, *spatial).
        theta: Weights and biases of every head, (B, H, T), T = `theta_size(W, outputs)`: first the weights of the three
            layers, each (out, in) row by row, then their three biases.
        outputs: Channels that a head returns.

    Returns:
        (B, H, outputs, *spatial), at least float32.
    """
    batch, heads = theta.shape[:2]
    shapes = _weight_shapes(x.shape[1], outputs)
    with torch.autocast(x.device.type, enabled=False):
        dtype = torch.promote_types(x.dtype, torch.float32)
        sizes = [*map(math.prod, shapes), *(out for out, _ in shapes)]
        numbers = torch.split(theta.to(dtype), sizes, dim=2)
        # The first layers of all heads are one product, because broadcasting would copy the features for every head.
        y, together = x.to(dtype).flatten(2), heads
        for layer, (out, width) in enumerate(shapes):
            weight = numbers[layer].reshape(-1, together * out, width)
            bias = numbers[layer + 3].reshape(-1, together * out, 1)
            y = functional.relu(y, inplace=True) if layer else y
            y = torch.baddbmm(bias, weight, y).reshape(batch * heads, out, -1)
            together = 1
        return y.reshape(batch, heads, outputs, *x.shape[2:])


def initialise_controller(
    controller: nn.Linear, sources: Sequence[tuple[int, float]], width: int, last: float = 1.0
) -> None:
    """Initialise a controller such that its layers start like nnU-Net's convolutions, with He's variance and bias 0.

    All sources contribute the same share to the variance of the computed weights. With PyTorch's initialisation the
    task's code, one of hundreds of inputs, would contribute almost nothing, and the layers would make features vanish.

    Args:
        controller: Linear layer that computes `theta_size(width, outputs)` numbers; changed in place.
        sources: For every vector that is concatenated to the controller's input its length and its expected sum of
            squares.
        width: Channels of the computed layers.
        last: Factor on the weights of the last computed layer; if it is small, logits start near 0.
    """
    outputs = (controller.out_features - theta_size(width, 0)) // (width + 1)
    share = 2 / width / len(sources)
    deviations = [torch.full((count,), math.sqrt(share / squares)) for count, squares in sources]
    with torch.no_grad():
        controller.weight.normal_().mul_(cat(deviations))
        controller.weight[2 * width**2 : (2 * width + outputs) * width].mul_(last)
        controller.weight[(2 * width + outputs) * width :].zero_()
        controller.bias.zero_()


class PooledDescriptor(nn.Sequential):
    """v = GAP(ReLU(GroupNorm(x))), a number (B, C) per channel of a feature (B, C, *spatial) before its normalisation.

    GroupNorm's weights start such that the squares of v sum to about 4. The pooled numbers are positive and nearly the
    same in every image. With weights of 1 they would act as one bias with a learning rate C / (2 pi) times that of the
    other parameters, and training could destroy the small dynamic layers of a wide network in its first steps.

    Args:
        channels: C.
    """

    squares: ClassVar[float] = 4.0

    def __init__(self, channels: int) -> None:
        normalised = NormalisedFeature(channels)
        super().__init__(normalised, GlobalMean(), nn.Flatten())
        # The mean of ReLU of a standard normal value is (2 pi)^-1/2.
        nn.init.constant_(normalised.norm.weight, math.sqrt(2 * math.pi * self.squares / channels))


class DynamicHead(SlotHead):
    """One shared head per slot, whose weights are computed from the image and from the task.

    From the decoder's features 1x1 convolutions (the decoder's own segmentation layers) make W channels at every scale.
    From v, the descriptor of the deepest stage, and e_t, the task's one-hot code, a linear layer computes theta =
    A [v || e_t] + a: the weights of three 1x1 layers W-W-S, which make one logit per slot of the W channels. Nothing
    else depends on the task: all tasks cost one pass of the network and K of this head.

    It has (C + K + 1) T + 2 C parameters, T = 2 W^2 + W S + 2 W + S: 53,776 for C = 320, K = 7 and S = 2. In the
    published network (C = 256) these are 43,280, and the layer before, GroupNorm-ReLU-convolution at the one scale
    there, has 328 more. Here it is the convolution alone: nnU-Net's decoder ends in a normalisation and an activation.
    That one theta serves all scales of deep supervision is our choice, and so is the initialisation.

    Args:
        layout: The regions and the slot that every region reads.
        deepest_channels: C.
        width: W.

    Source: Zhang, Xie, Xia, Shen, DoDNet: learning to segment multi-organ and tumors from multiple partially labeled
    datasets, CVPR 2021, and its released code, re-implemented from equations.
    """

    conditioned: ClassVar[bool] = True
    reads_deepest: ClassVar[bool] = True

    def __init__(self, layout: Layout, deepest_channels: int, width: int = WIDTH) -> None:
        super().__init__(layout, deepest_channels)
        self.num_slots = layout.num_slots
        self.descriptor = PooledDescriptor(deepest_channels)
        self.task_code = TaskCode(layout.num_tasks)
        self.controller = nn.Linear(deepest_channels + layout.num_tasks, theta_size(width, self.num_slots))
        sources = (deepest_channels, PooledDescriptor.squares), (layout.num_tasks, 1.0)
        initialise_controller(self.controller, sources, width)

    @staticmethod
    def channels(layout: Layout, width: int = WIDTH) -> int:
        """Return W."""
        return width

    def context(self, deepest: DeepestStage, task: Tensor) -> Tensor:  # type: ignore[override]
        """Return theta, (B, T), in float32 also under autocast.

        Args:
            deepest: With `before_norm`, (B, C, *spatial).
            task: (B,) long.
        """
        before_norm = cast(Tensor, deepest.before_norm)
        with torch.autocast(before_norm.device.type, enabled=False):
            return cast(Tensor, self.controller(self.task_code(self.descriptor(before_norm), task)))

    def forward(  # type: ignore[override]
        self, features: Tensor, seg_layer: Callable[[Tensor], Tensor], context: Tensor
    ) -> Tensor:
        """Return logits (B, R, *spatial), float32 also under autocast; those of other tasks' regions mean nothing.

        Args:
            features: Decoder features of any scale, (B, C', *spatial).
            seg_layer: That scale's projection to W channels.
            context: theta.
        """
        slots = dynamic_layers(seg_layer(features), context[:, None], self.num_slots)[:, 0]
        return slots.index_select(1, self.slot_of_region)


def _weight_shapes(width: int, outputs: int) -> tuple[tuple[int, int], ...]:
    """Return (out, in) of the three layers."""
    return (width, width), (width, width), (outputs, width)
