"""Segmentation heads: how the channels of the decoder's 1x1 convolutions become one logit per region."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_mtl.networks.layout import Layout


class DeepestStage(NamedTuple):
    """What a head may read of the encoder's deepest stage.

    The decoder starts from another tensor, the bottleneck: the stage's output, normalised and activated, behind the
    parts at `encoder_attention` and `bottleneck_conditioning`. DoDNet's network has one tensor for both.

    Attributes:
        before_norm: What the stage's last normalisation reads, (B, C, *spatial), as no part but that at
            `encoder_conditioning` has changed it; in DoDNet's network the output of the fusion. None unless the head
            has `reads_deepest`.
        tokens: Tokens (B, T, D) that the part at `bottleneck_conditioning` hands on; None if it does not.
    """

    before_norm: Tensor | None = None
    tokens: Tensor | None = None


class RegionHead(nn.Module):
    """Every region owns an output channel: the layout of nnU-Net's own head, and what other heads derive from.

    Attributes:
        conditioned: Whether the task enters here.
        reads_deepest: Whether `context` reads `DeepestStage.before_norm`.
        reads_tokens: Whether `context` reads `DeepestStage.tokens`; refused in a network whose parts give none.
        shared: Whether tasks share output channels, so that a sample's loss may only be about one task.

    Args:
        layout: The regions.
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
        """Return what makes a scale's logits of its features; here the decoder's own 1x1 convolution.

        Args:
            convolution: That of one scale.
            layout: The regions.
        """
        return convolution

    def context(self, deepest: DeepestStage, *task: Tensor) -> Any:
        """Return what every scale needs, computed once for a pass; here nothing.

        Args:
            deepest: What the head may read of the deepest stage.
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
        deepest_channels: Not read here.
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
        """Return logits (B, R, *spatial) of decoder features (B, C, *spatial)."""
        return seg_layer(features).index_select(1, self.slot_of_region)
