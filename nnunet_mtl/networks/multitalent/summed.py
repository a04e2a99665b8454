"""Dice and cross-entropy summed, not averaged, over what was annotated: the loss of MultiTalent.

Ulrich et al., MultiTalent: a multi-dataset approach to medical image segmentation, MICCAI 2023. Written from the
equations; the published code has -Dice where this has 1 - Dice, and the gradients are equal.
"""

from torch import Tensor

from nnunet_mtl.losses.partial import MaskedLoss, annotated_sums, batch_overlap, process_count, soft_dice


class SummedDiceBCELoss(MaskedLoss):
    """Binary cross-entropy and batch Dice, each summed over what is annotated.

    With A the set of annotated (sample, region) pairs, n_b the number of voxels of sample b that count, and regions r
    annotated in any sample::

        bce  = sum over (b, r) in A of 1/n_b * sum over voxels of BCE
        dice = sum over r of 1 - 2 TP_r / (2 TP_r + FP_r + FN_r)

    where TP, FP and FN are soft and added up over the samples in which r is annotated. A mean would make what a region
    teaches depend on how many others happen to be annotated in the batch; a sum does not. The denominator is clamped
    and nothing is added to it: a region that is annotated but empty in the whole batch has a Dice of 0 and no gradient
    through it; there the cross-entropy alone teaches.

    Under `torch.distributed` both sums run over the batches of all processes, so that splitting a batch among processes
    changes nothing: the mean of the processes' losses is the loss of the union, and gradients averaged by
    DistributedDataParallel are its gradients. For the cross-entropy this means that a process multiplies its own sum by
    the number of processes, which undoes the averaging; a plain local sum, which the published code has, weighs less
    against Dice the more processes there are. There a Dice is over one slot of all processes' batches, because their
    sums are stacked and not joined; here it is over all samples, as its text says. Every process must call the loss
    equally often, also with nothing annotated.

    Args:
        use_ignore_label: Whether the last channel of the targets marks voxels to ignore.
        dice_weight: Weight of the summed 1 - Dice.
        bce_weight: Weight of the summed cross-entropy.
    """

    def __init__(self, *, use_ignore_label: bool, dice_weight: float = 1.0, bce_weight: float = 1.0) -> None:
        super().__init__(use_ignore_label=use_ignore_label, dice_weight=dice_weight, bce_weight=bce_weight)

    def terms(self, logits: Tensor, target: Tensor, annotated: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms "dice" and "bce"; arguments, result and errors as in `MaskedDiceBCELoss`."""
        n_regions = logits.shape[1]
        self._check(logits, target, annotated, n_regions)
        pairs, valid, sums = annotated_sums(logits, target, annotated, use_ignore_label=self.use_ignore_label)
        regions, present = batch_overlap(sums.overlap, pairs[:, 1], n_regions)
        per_pair = sums.cross_entropy / _voxels_of(pairs[:, 0], valid, logits[0, 0].numel())
        return {
            "dice": ((1 - soft_dice(regions, smooth=0.0)) * present).sum(),
            "bce": per_pair.sum() * process_count(),
        }


def _voxels_of(sample: Tensor, valid: Tensor | None, n_voxels: int) -> Tensor | int:
    """Return how many voxels of each pair's sample count, (P,), at least 1."""
    return n_voxels if valid is None else valid.flatten(1).sum(1).clamp_min(1).index_select(0, sample)
