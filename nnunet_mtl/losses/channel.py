"""Dice and cross-entropy averaged channel by channel, where tasks share channels: the loss of DoDNet and TGNet.

Zhang, Xie, Xia, Shen, DoDNet, CVPR 2021, and its released code, re-implemented from equations. TGNet's paper prints
the same two terms with the smoothing inside the sum and the cross-entropy without a mean; we read them as in DoDNet's
code.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_mtl.losses.partial import MaskedLoss, annotated_sums, sum_over_processes


class ChannelDiceBCELoss(MaskedLoss):
    """For every channel the mean over the samples in which it is annotated, then the mean over these channels.

    A_c are the annotated (sample, region) pairs whose region reads channel c, n is the number of voxels that count::

        dice = mean over c with A_c of mean over A_c of 1 - 2 sum(p y) / (sum(p) + sum(y) + 1)
        bce  = mean over c with A_c of mean over A_c of 1/n * sum over voxels of BCE

    The smoothing of one voxel stands in the denominator only. The Dice term of an empty region is therefore the
    constant 1, and only the cross-entropy has a gradient. The Dice is computed for every sample, never for the batch.
    Under `torch.distributed` the means run over the batches of all processes, as in the other losses; this is our
    choice, the published code averages within a process.

    Args:
        slot_of_region: Channel that every region reads, (R,).
        use_ignore_label: Whether the last channel of the targets marks voxels to ignore.
        dice_weight: Weight of the Dice term.
        bce_weight: Weight of the cross-entropy term.
    """

    slot_of_region: Tensor

    def __init__(
        self,
        slot_of_region: Sequence[int],
        *,
        use_ignore_label: bool,
        dice_weight: float = 1.0,
        bce_weight: float = 1.0,
    ) -> None:
        super().__init__(use_ignore_label=use_ignore_label, dice_weight=dice_weight, bce_weight=bce_weight)
        self.slot_of_region = torch.tensor(slot_of_region, dtype=torch.long)

    def terms(self, logits: Tensor, target: Tensor, annotated: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms "dice" and "bce"; arguments, result and errors as in `MaskedDiceBCELoss`."""
        self._check(logits, target, annotated, len(self.slot_of_region))
        pairs, valid, sums = annotated_sums(logits, target, annotated, use_ignore_label=self.use_ignore_label)
        intersection, sum_pred, sum_gt = sums.overlap
        dice = 1 - 2 * intersection / (sum_pred + sum_gt + 1)
        n_voxels = torch.full_like(sum_gt, logits[0, 0].numel())
        if valid is not None:
            n_voxels = valid.flatten(1).sum(1).clamp_min(1).index_select(0, pairs[:, 0]).to(sum_gt.dtype)
        rows = torch.stack([dice, sums.cross_entropy / n_voxels, torch.ones_like(dice)])
        channel = self.slot_of_region.to(pairs.device).index_select(0, pairs[:, 1])
        n_channels = int(self.slot_of_region.max()) + 1
        *totals, count = sum_over_processes(rows.new_zeros(len(rows), n_channels).index_add(1, channel, rows))
        n_present = (count > 0).sum().clamp_min(1)
        means = [(total / count.clamp_min(1)).sum() / n_present for total in totals]
        return dict(zip(("dice", "bce"), means, strict=True))
