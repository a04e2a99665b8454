"""The segmentation loss of a trainer, with or without deep supervision."""

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
    """Return the loss of one scale; its arguments are the head's output, region targets and the annotation mask.

    Args:
        mode: "masked": mean of Dice and cross-entropy over annotated regions. "channel": mean within every channel that
            tasks share, then over channels (DoDNet's published loss). "pair": the Dice of "channel", averaged over all
            regions of all samples (CLIP-driven model). "summed": sum over annotated regions (MultiTalent).
            "marginal": loss over label values, merged if the annotation does not tell them apart (TAL).
            "jaccard_focal": Jaccard and focal loss of every region of every sample (MA-MTLN).
        layout: Layout of the regions.
        options: `batch_dice`, `use_ignore_label`, `dice_weight`, `bce_weight`.
    """
    if mode == "marginal":
        return MarginalDiceCELoss(layout.membership, **options)
    # the other losses fix whether their Dice is over the batch or over a sample
    others = {name: value for name, value in options.items() if name != "batch_dice"}
    if mode == "summed":
        return SummedDiceBCELoss(**others)
    if mode == "jaccard_focal":
        return JaccardFocalLoss(**others)
    if mode in ("channel", "pair"):
        # "pair" puts all regions into one channel, whose mean is over the regions of all samples
        channels = layout.slot_of_region if mode == "channel" else (0,) * layout.num_regions
        return ChannelDiceBCELoss(channels, **others)
    return MaskedDiceBCELoss(**options)


class RegionCriterion(nn.Module):
    """The loss of region targets, which reads annotated regions only.

    Args:
        loss: A masked loss, or nnU-Net's `DeepSupervisionWrapper` around one.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, segmentation: Tensor | list[Tensor], target: Tensor | list[Tensor], annotated: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (B, R, *spatial), or a list of them, under the mask (B, R)."""
        if isinstance(segmentation, list):
            return cast(Tensor, self.loss(segmentation, target, [annotated] * len(segmentation)))
        return cast(Tensor, self.loss(segmentation, target, annotated))


class LabelCriterion(nn.Module):
    """nnU-Net's own loss for label maps of a data set without regions, in which every case is wholly annotated.

    Args:
        loss: The loss that nnU-Net's trainer builds.
        offset: Added to the loss. nnU-Net's Dice term is -Dice, at least -1; with the offset 1 the loss is not
            negative, as loss weighting requires.
    """

    def __init__(self, loss: nn.Module, *, offset: float = 0.0) -> None:
        super().__init__()
        self.loss = loss
        self.offset = offset

    def forward(self, segmentation: Tensor | list[Tensor], target: Tensor | list[Tensor], annotated: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits and label maps; the mask is not read."""
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
    """Return the module that computes the segmentation loss of a run.

    Args:
        stock: nnU-Net's loss; with deep supervision a `DeepSupervisionWrapper`, whose weights are changed in place.
        mode: Kind of loss, see `segmentation_loss`.
        tasks: The tasks that are trained.
        settings: Settings of the run.
        batch_dice: Whether the plans compute the Dice over the batch.
        outputs: The supervised outputs; empty for nnU-Net's stages and weights, None without deep supervision.
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
        outputs: The supervised outputs.
        strides: Strides of the encoder's stages, (stages, axes).
    """
    size_of_stage = 1 / np.cumprod(np.vstack(strides), axis=0)
    return [size_of_stage[output.stage].tolist() for output in outputs]
