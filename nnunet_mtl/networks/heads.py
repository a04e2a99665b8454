"""Segmentation heads: how the channels of the decoder's 1x1 convolutions become one logit per region."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn


class RegionHead(nn.Module):
    """Every region owns an output channel: the layout of nnU-Net's own head.

    Args:
        slot_of_region: Not used; here so that heads are built alike.
    """

    conditioned: ClassVar[bool] = False

    def __init__(self, slot_of_region: Sequence[int]) -> None:
        super().__init__()

    @staticmethod
    def channels(slot_of_region: Sequence[int]) -> int:
        """Return the number of output channels the decoder's segmentation layers need."""
        return len(slot_of_region)

    def forward(self, features: Tensor, seg_layer: Callable[[Tensor], Tensor]) -> Tensor:
        """Return logits (B, R, *spatial) of decoder features (B, C, *spatial)."""
        return seg_layer(features)


class SlotHead(nn.Module):
    """Tasks share one output channel per slot ("organ", "tumour"); a region reads the channel of its slot.

    The channels mean something only for the task the features were computed for: the logits of other tasks' regions
    repeat them and have to be masked (in training) or left out (`TaskPasses` does).

    Args:
        slot_of_region: Index of the slot each of the R regions reads, 0 to S-1.
    """

    conditioned: ClassVar[bool] = False
    slot_of_region: Tensor

    def __init__(self, slot_of_region: Sequence[int]) -> None:
        super().__init__()
        slots = torch.tensor(slot_of_region, dtype=torch.long, device="cpu")
        self.register_buffer("slot_of_region", slots, persistent=False)

    @staticmethod
    def channels(slot_of_region: Sequence[int]) -> int:
        """Return the number of output channels the decoder's segmentation layers need."""
        return max(slot_of_region) + 1

    def forward(self, features: Tensor, seg_layer: Callable[[Tensor], Tensor]) -> Tensor:
        """Return logits (B, R, *spatial) of decoder features (B, C, *spatial)."""
        return seg_layer(features).index_select(1, self.slot_of_region)
