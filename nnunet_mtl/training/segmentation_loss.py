"""The segmentation loss as the trainer calls it, with deep supervision or not."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn

from nnunet_mtl.losses.channel import ChannelDiceBCELoss
from nnunet_mtl.losses.partial import MaskedDiceBCELoss
from nnunet_mtl.networks.architecture import SupervisedOutput
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.mamtln.jaccard_focal import JaccardFocalLoss
from nnunet_mtl.networks.multitalent.summed import SummedDiceBCELoss
from nnunet_mtl.networks.tal.marginal import MarginalDiceCELoss
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings

LossMode = Literal["masked", "channel", "pair", "summed", "marginal", "jaccard_focal"]


def segmentation_loss(mode: LossMode, layout: Layout, **options: Any) -> nn.Module:
    """Return the loss of one scale, called with what the head returns, region targets and the annotation mask.

    Args:
        mode: "masked": Dice and cross-entropy of the annotated channels, averaged; "channel": averaged for each channel
            that tasks share, then over channels (DoDNet's published loss); "pair": with the same Dice averaged over all
            regions of all samples (the CLIP-driven model's); "summed": summed (MultiTalent); "marginal": of the label
            values of all regions, those nobody told apart merged (TAL); "jaccard_focal": of each region of each sample
            (MA-MTLN).
        layout: The regions.
        options: `batch_dice`, `use_ignore_label`, `dice_weight`, `bce_weight`.
    """
    if mode == "marginal":
        return MarginalDiceCELoss(layout.membership, **options)
    # the Dice of these is always over the batch, or always of the sample
    others = {name: value for name, value in options.items() if name != "batch_dice"}
    if mode == "summed":
        return SummedDiceBCELoss(**others)
    if mode == "jaccard_focal":
        return JaccardFocalLoss(**others)
    if mode in ("channel", "pair"):
        # of one channel that all regions share, the mean over channels is that over the regions of all samples
        channels = layout.slot_of_region if mode == "channel" else (0,) * layout.num_regions
        return ChannelDiceBCELoss(channels, **others)
    return MaskedDiceBCELoss(**options)


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
        loss: The loss that nnU-Net's trainer builds.
        offset: Added to it. Its Dice term is -Dice, at least -1: with 1 the sum is not negative, as terms that are
            weighted must be.
    """

    def __init__(self, loss: nn.Module, *, offset: float = 0.0) -> None:
        super().__init__()
        self.loss = loss
        self.offset = offset

    def forward(self, segmentation: Tensor | list[Tensor], target: Tensor | list[Tensor], annotated: Tensor) -> Tensor:
        """Loss of logits and label maps: a scalar; the mask is not read."""
        return cast(Tensor, self.loss(segmentation, target) + self.offset)


def build_criterion(
    stock: Any,
    mode: LossMode,
    tasks: TaskSet,
    settings: Settings,
    *,
    batch_dice: bool,
    outputs: Sequence[SupervisedOutput] | None,
) -> RegionCriterion | LabelCriterion:
    """Return what computes the segmentation loss of a run.

    Args:
        stock: nnU-Net's loss, under deep supervision a `DeepSupervisionWrapper`; takes the weights of `outputs`.
        mode: What the loss of region targets is computed on, see `segmentation_loss`.
        tasks: The tasks that are trained.
        settings: Settings of the run.
        batch_dice: Whether the Dice is of the batch, as the plans say.
        outputs: What deep supervision is of, none for nnU-Net's stages and weights; None without deep supervision.
    """
    if outputs:
        stock.weight_factors = tuple(output.weight for output in outputs)
    if not tasks.has_regions:
        least_dice = 1.0 if outputs is None else sum(stock.weight_factors)
        return LabelCriterion(stock, offset=least_dice if settings.loss_weighting != "equal" else 0.0)
    loss = segmentation_loss(
        mode,
        Layout.from_tasks(tasks),
        batch_dice=batch_dice,
        use_ignore_label=tasks.ignore_label is not None,
        dice_weight=settings.dice_weight,
        bce_weight=settings.bce_weight,
    )
    return RegionCriterion(loss if outputs is None else DeepSupervisionWrapper(loss, stock.weight_factors))


def supervised_scales(outputs: Sequence[SupervisedOutput], strides: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the size of every supervised output relative to the patch, (outputs, axes).

    Args:
        outputs: What deep supervision is of.
        strides: Strides of the encoder's stages, (stages, axes).
    """
    size_of_stage = 1 / np.cumprod(np.vstack(strides), axis=0)
    return [size_of_stage[output.stage].tolist() for output in outputs]
