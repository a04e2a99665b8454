"""Jaccard and focal loss of every annotated region of every sample: the segmentation loss of MA-MTLN.

Zhang Y. et al., MA-MTLN, IEEE TMI 2021, and its released code, re-implemented from equations. The code has -Jaccard
where this has 1 - Jaccard: the gradients are equal, and a learnt uncertainty would make the most of a negative loss.
It adds 0.1 times the sum of the focal loss over the voxels of a patch, where this adds the mean: a sum outweighs the
Jaccard term the more the larger the planned patch is. Of a mean, a tenth would hardly count, and in an empty region,
where it alone teaches, false positives would cost next to nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_mtl.losses.partial import MaskedLoss, Overlap, gather_pairs, mean_over_processes, overlap

_FOREGROUND, _BACKGROUND = 0.8, 0.2  # alpha; gamma is 1
_SMOOTH = 1e-5


class _PairSums(NamedTuple):
    overlap: Overlap
    focal: Tensor  # (P,)
    n_voxels: Tensor  # likewise


class JaccardFocalLoss(MaskedLoss):
    """The means over annotated (sample, region) pairs of 1 - Jaccard and of the focal loss.

    With p the probability of the region and y whether a voxel lies in it, n the number of voxels that count, p_y = p
    where y and 1 - p elsewhere, alpha 0.8 where y and 0.2 elsewhere::

        jaccard = 1 - (sum(p y) + e) / (sum(p) + sum(y) - sum(p y) + e),    e = 1e-5 voxels
        focal   = 1/n * sum over voxels of alpha (1 - p_y) -log(p_y)

    The published two-class softmax of one region is the sigmoid of a logit. Where a region is empty the Jaccard term is
    all but constant, and the focal loss alone teaches. Under `torch.distributed` the means run over the batches of all
    processes.

    Args:
        use_ignore_label: Whether the last channel of the targets marks voxels to ignore.
        dice_weight: Weight of "jaccard".
        bce_weight: Weight of "focal".
    """

    def __init__(self, *, use_ignore_label: bool, dice_weight: float = 1.0, bce_weight: float = 1.0) -> None:
        super().__init__(use_ignore_label=use_ignore_label, dice_weight=dice_weight, bce_weight=bce_weight)

    def terms(self, logits: Tensor, target: Tensor, annotated: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms "jaccard" and "focal"; arguments and errors as of `MaskedDiceBCELoss`.

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
        return {
            "jaccard": mean_over_processes(jaccard, count),
            "focal": mean_over_processes(sums.focal / sums.n_voxels, count),
        }


def _pair_sums(logits: Tensor, target: Tensor, valid: Tensor | None) -> _PairSums:
    """Sum over the voxels of each pair, in float32 whatever the dtype of the logits: (P, *spatial) each, P may be 0."""
    logits, truth = logits.float(), target.float()
    weight = torch.ones_like(truth) if valid is None else valid.float()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, truth, weight, reduction="none")
    probability = logits.sigmoid()
    error = (truth - probability).abs()  # 1 - p_y, not rounded to 0 or 1 before its logarithm is taken
    alpha = _BACKGROUND + (_FOREGROUND - _BACKGROUND) * truth
    focal = (alpha * error * cross_entropy).flatten(1).sum(1)
    return _PairSums(overlap(probability, truth, weight), focal, weight.flatten(1).sum(1).clamp_min(1))
