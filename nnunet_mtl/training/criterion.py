"""The segmentation loss as the trainer calls it, with deep supervision or not."""

from typing import cast

from torch import Tensor, nn


class RegionCriterion(nn.Module):
    """Region targets, of which only the annotated ones are read.

    Args:
        loss: A masked loss, or nnU-Net's `DeepSupervisionWrapper` around one.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, segmentation: Tensor | list[Tensor], target: Tensor | list[Tensor], annotated: Tensor) -> Tensor:
        """Loss of logits (B, R, *spatial), or a list of them, under the mask (B, R): a scalar."""
        if isinstance(segmentation, list):
            return cast(Tensor, self.loss(segmentation, target, [annotated] * len(segmentation)))
        return cast(Tensor, self.loss(segmentation, target, annotated))


class LabelCriterion(nn.Module):
    """Label maps of a data set without regions, where every case is annotated: nnU-Net's own loss, unchanged.

    Args:
        loss: What nnU-Net's trainer builds.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, segmentation: Tensor | list[Tensor], target: Tensor | list[Tensor], annotated: Tensor) -> Tensor:
        """Loss of logits and label maps: a scalar; the mask is not read."""
        return cast(Tensor, self.loss(segmentation, target))
