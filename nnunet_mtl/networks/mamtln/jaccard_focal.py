"""Jaccard and focal loss of every annotated region of every sample: the segmentation loss of MA-MTLN.

Zhang Y. et al., MA-MTLN, IEEE TMI 2021, and its released code, re-implemented from equations. The code has -Jaccard
where this has 1 - Jaccard: the gradients are equal, and a learnt uncertainty would make the most of a negative loss.
Jaccard is averaged and focal summed, as there: the focal term weighs the more, the larger patch and batch are.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_mtl.losses.partial import MaskedLoss, Overlap, gather_pairs, mean_over_processes, overlap, process_count

_FOREGROUND, _BACKGROUND = 0.8, 0.2  # alpha; gamma is 1
_FOCAL = 0.1
_SMOOTH = 1e-5


class _PairSums(NamedTuple):
    overlap: Overlap
    focal: Tensor  # (P,)


class JaccardFocalLoss(MaskedLoss):
    """1 - Jaccard, averaged over the annotated (sample, region) pairs, and the focal loss, summed over their voxels.

    With p the probability of the region and y whether a voxel lies in it, p_y = p where y and 1 - p elsewhere, alpha
    0.8 where y and 0.2 elsewhere::

        jaccard = mean over pairs of  1 - (sum(p y) + e) / (sum(p) + sum(y) - sum(p y) + e),    e = 1e-5 voxels
        focal   = 0.1 * sum over pairs and voxels of  alpha [1 - p_y] -log(p_y)

    The factor in brackets is a constant, through which no gradient passes. The published two-class softmax of one
    region is the sigmoid of a logit. Where a region is empty the Jaccard term is all but constant, and the focal loss
    alone teaches. Under `torch.distributed` mean and sum run over the batches of all processes.

    Args:
        use_ignore_label: Whether the last channel of the targets marks voxels to ignore.
        dice_weight: Weight of "jaccard".
        bce_weight: Weight of "focal".
    """

    def __init__(self, *, use_ignore_label: bool, dice_weight: float = 1.0, bce_weight: float = 1.0) -> None:
        super().__init__(use_ignore_label=use_ignore_label, dice_weight=dice_weight, bce_weight=bce_weight)

    def terms(self, logits: Tensor, target: Tensor, annotated: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms "jaccard" and "focal"; arguments and errors as in `MaskedDiceBCELoss`.

        Returns:
            Scalars, float32, never negative; zero, but attached to `logits`, if nothing is annotated.
        """
        self._check(logits, target, annotated, logits.shape[1])
        pairs = annotated.nonzero().to(logits.device, non_blocking=True)
        valid = (~target[:, -1]).index_select(0, pairs[:, 0]) if self.use_ignore_label else None
        sums = _pair_sums(gather_pairs(logits, pairs), gather_pairs(target, pairs), valid)
        intersection, sum_pred, sum_gt = sums.overlap
        jaccard = 1 - (intersection + _SMOOTH) / (sum_pred + sum_gt - intersection + _SMOOTH)
        count = jaccard.new_full((), jaccard.numel())
        # DistributedDataParallel averages gradients, so that every process counts as many times as there are processes
        focal = _FOCAL * process_count() * sums.focal.sum()
        return {"jaccard": mean_over_processes(jaccard, count), "focal": focal}


def _pair_sums(logits: Tensor, target: Tensor, valid: Tensor | None) -> _PairSums:
    """Sum over the voxels of each pair, in float32 whatever the dtype of the logits: (P, *spatial) each, P may be 0."""
    logits, truth = logits.float(), target.float()
    weight = torch.ones_like(truth) if valid is None else valid.float()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, truth, weight, reduction="none")
    probability = logits.sigmoid()
    error = (truth - probability.detach()).abs()  # 1 - p_y
    alpha = _BACKGROUND + (_FOREGROUND - _BACKGROUND) * truth
    return _PairSums(overlap(probability, truth, weight), (alpha * error * cross_entropy).flatten(1).sum(1))
