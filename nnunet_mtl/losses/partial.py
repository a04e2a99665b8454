"""Segmentation losses for partial annotations: the base of all of them, and nnU-Net's region loss.

A pair is a sample and a region; it is annotated if the annotator labelled the region in the sample. The losses of the
partial-label methods differ in what the logits mean and in how they combine the pairs:

- region (`MaskedDiceBCELoss`): a sigmoid for every region, the mean over annotated pairs. It serves tasks that share
  output channels too, if the mask leaves only the regions of the sample's task.
- summed (`multitalent.summed.SummedDiceBCELoss`): a sigmoid for every region, the sum over annotated pairs.
- marginal (`tal.marginal.MarginalDiceCELoss`): one softmax, in which labels that nobody annotated are merged.

The first two compute only on the channels of annotated pairs. The logits of all other channels are not read and get a
gradient of exactly zero. A batch without any annotation gives a loss of zero that is still attached to the network.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn


class Overlap(NamedTuple):
    """Sums over the valid voxels, for P (sample, region) pairs or for R regions; three tensors (P,) or (R,) float32."""

    intersection: Tensor
    sum_pred: Tensor
    sum_gt: Tensor


class PairSums(NamedTuple):
    """Sums over the valid voxels of P annotated pairs: those of the Dice, and the cross-entropy, (P,) float32."""

    overlap: Overlap
    cross_entropy: Tensor


def gather_pairs(volume: Tensor, pairs: Tensor) -> Tensor:
    """Pick channels of a batch.

    Args:
        volume: (B, C, *spatial); it is copied first if it is not contiguous.
        pairs: Sample and channel of every pair, (P, 2) long, on the device of `volume`.

    Returns:
        The channels of the pairs, (P, *spatial), same dtype. All other channels get a gradient of exactly zero.
    """
    # index_select and not volume[sample, channel]: the backward of the latter sorts its indices on CUDA.
    return volume.flatten(0, 1).index_select(0, pairs[:, 0] * volume.shape[1] + pairs[:, 1])


def overlap(probability: Tensor, truth: Tensor, weight: Tensor | None = None) -> Overlap:
    """Add up, over the voxels of every pair, the intersection, the prediction and the truth, from which Dice follows.

    Args:
        probability: (P, *spatial) float32.
        truth: Whether a voxel lies in the region, (P, *spatial), bool, or float32 of 0 and 1.
        weight: 1 where a voxel counts and 0 elsewhere, broadcast to the shape of `truth`; None if all voxels count.
    """
    axes = tuple(range(1, probability.ndim))
    if weight is not None:
        probability, truth = probability * weight, truth * weight
    return Overlap((probability * truth).sum(axes), probability.sum(axes), truth.sum(axes, dtype=torch.float32))


def pair_sums(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> PairSums:
    """Compute the sums for Dice and cross-entropy, in float32 for any dtype of the logits and also under autocast.

    Args:
        logits: Logits before the sigmoid, (P, *spatial), any floating dtype.
        target: Whether a voxel lies in the region, (P, *spatial) bool.
        valid: Voxels that count, (P, *spatial) bool; None if all voxels count.
    """
    logits, truth = logits.float(), target.float()
    weight = None if valid is None else valid.float()
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(logits, truth, weight, reduction="none")
    return PairSums(overlap(logits.sigmoid(), truth, weight), cross_entropy.flatten(1).sum(1))


def soft_dice(sums: Overlap, smooth: float) -> Tensor:
    """Return nnU-Net's soft Dice of every pair or region; 1 if region and prediction are empty and `smooth` > 0."""
    return (2 * sums.intersection + smooth) / (sums.sum_gt + sums.sum_pred + smooth).clamp_min(1e-8)


def process_count() -> int:
    """Return the number of processes that train together, 1 without `torch.distributed`."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """Add up a float tensor over all processes; every process must call this function.

    In the backward pass, the gradient of the local values is multiplied by the number of processes. If all processes
    compute the same function of the returned sums, the gradients that DistributedDataParallel then averages are those
    of the function on the union of the batches. The backward pass itself sends nothing between processes.
    """
    n_processes = process_count()
    if n_processes == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total + n_processes * (values - values.detach())


def mean_over_processes(values: Tensor, count: Tensor) -> Tensor:
    """Return the local share of a mean over all processes: the sum of `values` divided by the count of all processes.

    Args:
        values: Local values, (P,); P may be 0.
        count: Local count by which the mean divides, () float32; it gets no gradient.

    Returns:
        Scalar. The average of this scalar over the processes is the mean over the union of their batches; the same
        holds for the gradient. Zero, but attached to `values`, if the count of all processes is zero.
    """
    return values.sum() * (process_count() / sum_over_processes(count).clamp_min(1))


def batch_overlap(pairs: Overlap, region: Tensor, n_regions: int) -> tuple[Overlap, Tensor]:
    """Add up the pairs of every region, over the batch and over all processes.

    Args:
        pairs: Sums of every pair, (P,); P may be 0.
        region: Region of every pair, (P,) long.
        n_regions: R.

    Returns:
        The sums of every region, (R,); and for every region 1 if it is annotated in any sample, else 0, (R,) float32.
    """
    rows = torch.stack([*pairs, torch.ones_like(pairs.sum_gt)])
    total = sum_over_processes(rows.new_zeros(len(rows), n_regions).index_add(1, region, rows))
    return Overlap(*total[:3]), (total[3] > 0).float()


def mean_dice_loss(pairs: Overlap, region: Tensor, n_regions: int, *, batch_dice: bool, smooth: float) -> Tensor:
    """Return the mean of 1 - Dice over the regions annotated in any sample (`batch_dice`), or over the pairs."""
    if not batch_dice:
        loss = 1 - soft_dice(pairs, smooth)
        return mean_over_processes(loss, loss.new_full((), loss.numel()))
    regions, present = batch_overlap(pairs, region, n_regions)
    return ((1 - soft_dice(regions, smooth)) * present).sum() / present.sum().clamp_min(1)


def annotated_sums(
    logits: Tensor, target: Tensor, annotated: Tensor, *, use_ignore_label: bool
) -> tuple[Tensor, Tensor | None, PairSums]:
    """Sum over the voxels of the annotated (sample, region) pairs; arguments as of `MaskedDiceBCELoss.terms`.

    Returns:
        Sample and region of every pair, (P, 2) long; the voxels that count, (B, *spatial) bool, or None if all voxels
        count; and the sums of the pairs.
    """
    pairs = annotated.nonzero().to(logits.device, non_blocking=True)
    valid = ~target[:, -1] if use_ignore_label else None
    picked = None if valid is None else valid.index_select(0, pairs[:, 0])
    return pairs, valid, pair_sums(gather_pairs(logits, pairs), gather_pairs(target, pairs), picked)


class MaskedLoss(nn.Module, ABC):
    """Base of the segmentation losses: the weighted sum of a Dice term and a cross-entropy term.

    Args:
        use_ignore_label: Whether the last channel of the targets marks voxels to ignore.
        dice_weight: Weight of the term "dice".
        bce_weight: Weight of the cross-entropy term.
    """

    def __init__(self, *, use_ignore_label: bool, dice_weight: float, bce_weight: float) -> None:
        super().__init__()
        self.use_ignore_label = use_ignore_label
        self.dice_weight = dice_weight
        self.bce_weight = bce_weight

    def forward(self, logits: Tensor, target: Tensor, annotated: Tensor) -> Tensor:
        """Return the weighted sum of the two terms, a scalar; arguments as in `terms`."""
        dice, cross_entropy = self.terms(logits, target, annotated).values()
        return self.dice_weight * dice + self.bce_weight * cross_entropy

    @abstractmethod
    def terms(self, logits: Tensor, target: Tensor, annotated: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms: "dice" first, then the cross-entropy."""

    def _check(self, logits: Tensor, target: Tensor, annotated: Tensor, n_regions: int) -> None:
        channels = n_regions + self.use_ignore_label
        if target.shape != (logits.shape[0], channels, *logits.shape[2:]):
            raise ValueError(f"target is {tuple(target.shape)}; logits {tuple(logits.shape)} need {channels} channels")
        if annotated.shape != (logits.shape[0], n_regions):
            raise ValueError(f"annotated is {tuple(annotated.shape)}, expected {(logits.shape[0], n_regions)}")
        if target.dtype != torch.bool or annotated.dtype != torch.bool:
            raise TypeError(f"target and annotated must be bool, got {target.dtype} and {annotated.dtype}")


class MaskedDiceBCELoss(MaskedLoss):
    """nnU-Net's Dice and binary cross-entropy over the annotated (sample, region) pairs.

    If everything is annotated, the loss equals nnU-Net's loss for region training plus `dice_weight`, because the Dice
    term is 1 - Dice (never negative) and not -Dice; the gradients are equal. Under `torch.distributed` the loss divides
    by the counts of all processes' batches together. The mean of the processes' losses is then the loss of the joint
    batch, and the gradients averaged by DistributedDataParallel are its gradients. Every process must call the loss
    equally often, also for batches without annotations.

    Args:
        batch_dice: Whether to compute one Dice for every region from the sums over its annotated samples, and average
            over the regions that are annotated in any sample. Otherwise every annotated pair has its own Dice.
        use_ignore_label: Whether the last channel of the targets marks voxels to ignore.
        dice_weight: Weight of 1 - Dice.
        bce_weight: Weight of the cross-entropy.
        smooth: Added to numerator and denominator of Dice, in voxels.
    """

    def __init__(
        self,
        *,
        batch_dice: bool,
        use_ignore_label: bool,
        dice_weight: float = 1.0,
        bce_weight: float = 1.0,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__(use_ignore_label=use_ignore_label, dice_weight=dice_weight, bce_weight=bce_weight)
        self.batch_dice = batch_dice
        self.smooth = smooth

    def terms(self, logits: Tensor, target: Tensor, annotated: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms of the loss.

        Args:
            logits: Segmentation logits before the sigmoid, (B, R, *spatial).
            target: Region targets, (B, R, *spatial) bool; with an ignore label (B, R + 1, *spatial), the ignore label
                last. Targets of regions that are not annotated are not read.
            annotated: Which regions the annotator labelled, (B, R) bool, on the CPU or on the device of `logits`. The
                CPU is faster, because finding the pairs on a CUDA device waits for that device.

        Returns:
            "dice" and "bce", two float32 scalars, never negative; zero, but attached to `logits`, if nothing is
            annotated.

        Raises:
            ValueError: If the shapes do not fit together.
            TypeError: If `target` or `annotated` is not bool.
        """
        n_regions = logits.shape[1]
        self._check(logits, target, annotated, n_regions)
        pairs, valid, sums = annotated_sums(logits, target, annotated, use_ignore_label=self.use_ignore_label)
        return {
            "dice": mean_dice_loss(
                sums.overlap, pairs[:, 1], n_regions, batch_dice=self.batch_dice, smooth=self.smooth
            ),
            "bce": _mean_cross_entropy(sums.cross_entropy, logits[0, 0].numel(), valid, annotated),
        }


def _mean_cross_entropy(values: Tensor, n_voxels: int, valid: Tensor | None, annotated: Tensor) -> Tensor:
    if valid is None:
        return mean_over_processes(values / n_voxels, values.new_full((), values.numel()))
    # With an ignore label nnU-Net divides the sum over voxels and regions by the number of valid voxels, so that the
    # cross-entropy weighs R times as much as without one. This loss does the same: a completely annotated data set
    # trains as it does with nnU-Net.
    in_use = annotated.any(1).to(valid.device, non_blocking=True)
    return mean_over_processes(values, (valid.flatten(1).sum(1) * in_use).sum().float())
