"""Segmentation heads: how the channels of the decoder's 1x1 convolutions become one logit per region."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunet_mtl.networks.layout import Layout


class RegionHead(nn.Module):
    """Every region owns an output channel: the layout of nnU-Net's own head, and what other heads derive from.

    Attributes:
        conditioned: Whether the task enters here.
        reads_bottleneck: Whether `context` reads the bottleneck.
        shared: Whether tasks share output channels, so that a sample's loss may only be about one task.

    Args:
        layout: The regions.
        bottleneck_channels: Channels of the encoder's last stage.
    """

    conditioned: ClassVar[bool] = False
    reads_bottleneck: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    def __init__(self, layout: Layout, bottleneck_channels: int) -> None:
        super().__init__()

    @staticmethod
    def channels(layout: Layout) -> int:
        """Return the number of output channels the decoder's segmentation layers need."""
        return layout.num_regions

    def seg_layer(self, convolution: nn.Module, layout: Layout) -> nn.Module:
        """Return what makes a scale's logits of its features; here the decoder's own 1x1 convolution.

        Args:
            convolution: That of one scale.
            layout: The regions.
        """
        return convolution

    def context(self, bottleneck: Tensor | None, *task: Tensor) -> Any:
        """Return what every scale needs, computed once for a pass; here nothing.

        Args:
            bottleneck: The encoder's last stage before its normalisation, (B, C, *spatial); None if it is not read.
            task: (B,) long, if the head is conditioned.
        """
        return None

    def forward(self, features: Tensor, seg_layer: Callable[[Tensor], Tensor], context: Any = None) -> Tensor:
        """Return what the loss reads, (B, P, *spatial), of decoder features (B, C, *spatial)."""
        return seg_layer(features)

    def regions(self, raw: Tensor) -> Tensor:
        """Return logits (B, R, *spatial) before the sigmoid (or softmax) of what `forward` returned."""
        return raw


class SlotHead(RegionHead):
    """Tasks share one output channel per slot ("organ", "tumour"); a region reads the channel of its slot.

    The channels mean something only for the task the features were computed for: the logits of other tasks' regions
    repeat them and have to be masked (in training) or left out (`TaskPasses` does).

    Args:
        layout: The regions, of which each reads its slot.
        bottleneck_channels: Not used.
    """

    shared: ClassVar[bool] = True
    slot_of_region: Tensor

    def __init__(self, layout: Layout, bottleneck_channels: int) -> None:
        super().__init__(layout, bottleneck_channels)
        slots = torch.tensor(layout.slot_of_region, dtype=torch.long, device="cpu")
        self.register_buffer("slot_of_region", slots, persistent=False)

    @staticmethod
    def channels(layout: Layout) -> int:
        """Return the number of output channels the decoder's segmentation layers need."""
        return layout.num_slots

    def forward(self, features: Tensor, seg_layer: Callable[[Tensor], Tensor], context: Any = None) -> Tensor:
        """Return logits (B, R, *spatial) of decoder features (B, C, *spatial)."""
        return seg_layer(features).index_select(1, self.slot_of_region)
