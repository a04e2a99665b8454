"""Segmentation heads: how the channels of the decoder's 1x1 convolutions become one logit per region."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_mtl.networks.layout import Layout


class DeepestStage(NamedTuple):
    """Tensors of the encoder's deepest stage that a segmentation head may read.

    The decoder starts from another tensor, the bottleneck: the normalised and activated output of the deepest stage,
    behind the parts at `encoder_attention` and `bottleneck_conditioning`. In DoDNet's network one tensor is both.

    Attributes:
        before_norm: Input of the deepest stage's last normalisation, (B, C, *spatial). Only the part at
            `encoder_conditioning` has an influence on this tensor. In DoDNet's network: the output of the fusion. None
            if the head does not have `reads_deepest`.
        tokens: Tokens (B, T, D) from the part at `bottleneck_conditioning`; None if that part gives none.
    """

    before_norm: Tensor | None = None
    tokens: Tensor | None = None


class RegionHead(nn.Module):
    """A head in which every region has its own output channel, as in nnU-Net's head. Other heads derive from it.

    Attributes:
        conditioned: Whether the task enters in the head.
        reads_deepest: Whether `context` reads `DeepestStage.before_norm`.
        reads_tokens: Whether `context` reads `DeepestStage.tokens`. A network whose parts give no tokens is refused.
        shared: Whether tasks share output channels. The loss of a sample then covers one task only.

    Args:
        layout: The regions, with their tasks, slots and label values.
        deepest_channels: C, channels of `DeepestStage.before_norm`.
    """

    conditioned: ClassVar[bool] = False
    reads_deepest: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    def __init__(self, layout: Layout, deepest_channels: int) -> None:
        super().__init__()

    @staticmethod
    def channels(layout: Layout) -> int:
        """Return the number of output channels the decoder's segmentation layers need."""
        return layout.num_regions

    def seg_layer(self, convolution: nn.Module, layout: Layout) -> nn.Module:
        """Return the layer that computes the output of one scale from the features of that scale.

        Args:
            convolution: The decoder's 1x1 convolution of the scale; this class returns it unchanged.
            layout: The regions, with their tasks, slots and label values.
        """
        return convolution

    def context(self, deepest: DeepestStage, *task: Tensor) -> Any:
        """Return a value that `forward` gets at every scale. It is computed once in a pass; in this class it is None.

        Args:
            deepest: Tensors of the encoder's deepest stage.
            task: Task indices, (B,) long, if the head is conditioned; nothing otherwise.
        """
        return None

    def forward(self, features: Tensor, seg_layer: Callable[[Tensor], Tensor], context: Any = None) -> Tensor:
        """Return the output that the loss reads, (B, P, *spatial), from decoder features (B, C, *spatial)."""
        return seg_layer(features)

    def regions(self, raw: Tensor) -> Tensor:
        """Return the logits of the regions, (B, R, *spatial), before the sigmoid, from what `forward` returned."""
        return raw


class SlotHead(RegionHead):
    """Tasks share one output channel per slot ("organ", "tumour"); a region reads the channel of its slot.

    The channels are valid only for the task for which the features were computed. The regions of the other tasks repeat
    the same channels: the loss has to mask them, and `TaskPasses` leaves them out.

    Args:
        layout: The regions and the slot that every region reads.
        deepest_channels: Not used.
    """

    shared: ClassVar[bool] = True
    slot_of_region: Tensor

    def __init__(self, layout: Layout, deepest_channels: int) -> None:
        super().__init__(layout, deepest_channels)
        slots = torch.tensor(layout.slot_of_region, dtype=torch.long, device="cpu")
        self.register_buffer("slot_of_region", slots, persistent=False)

    @staticmethod
    def channels(layout: Layout) -> int:
        """Return the number of output channels the decoder's segmentation layers need."""
        return layout.num_slots

    def forward(self, features: Tensor, seg_layer: Callable[[Tensor], Tensor], context: Any = None) -> Tensor:
        """Return logits (B, R, *spatial) from decoder features (B, C, *spatial)."""
        return seg_layer(features).index_select(1, self.slot_of_region)
