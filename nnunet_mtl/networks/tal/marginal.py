"""Cross-entropy and Dice of a softmax over labels, in which labels that the annotation does not tell apart are merged.

The target adaptive loss of Fang and Yan, Multi-organ segmentation over partially labeled datasets with multi-scale
feature abstraction, IEEE TMI 2020; also known as the marginal loss (Shi et al., Medical Image Analysis 2021). There the
un-annotated organs join the background. Here is the general rule, of which that is the case of disjoint regions; it is
needed for a tumour in its organ and for a vessel inside another organ.
"""

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor, autocast, nn

from nnunet_mtl.losses.partial import MaskedLoss, Overlap, mean_dice_loss, mean_over_processes, overlap


class _Sums(NamedTuple):
    """Sums over the voxels that count, of N samples with P annotated (sample, region) pairs."""

    cross_entropy: Tensor  # (N,)
    n_voxels: Tensor  # (N,) float32
    overlap: Overlap  # (P,) each


class MarginalDiceCELoss(MaskedLoss):
    """Cross-entropy and Dice on the summed probabilities of the labels that agree with the annotation.

    The logits are a softmax over leaves: background and every label value. A voxel of a sample whose annotated regions
    are A is observed to lie in some of them; a leaf is consistent with that if it lies in just the same ones. With p
    the softmax, u the consistent leaves and r in A::

        cross-entropy = -log(sum over u of p_u) = logsumexp(z) - logsumexp(z_u),  the mean over voxels
        Dice_r        = soft Dice of the sum of p over the leaves of r

    With everything annotated, and leaves that the regions tell apart, it is ordinary cross-entropy; with a single
    region it is that of p_r against 1 - p_r. How probability is spread within a group of leaves does not matter, yet
    the logits of un-annotated leaves do get a gradient, on a background voxel p_u (1 - 1 / sum of p over the group):
    nothing but their labels is left unread.

    Voxels with which no leaf is consistent are left out of both terms, as ignored ones are. Targets that nnU-Net makes
    of a label map have none: every voxel holds one label, and a label that is no leaf lies in no region. There can be
    some where each region has a mask of its own: two that overlap though no label value lies in both, a tumour outside
    its organ, or masks that were resampled one by one.

    The mean is over the voxels that count, of all samples with any annotation and of all processes; for Dice, the term
    names and `torch.distributed` see `MaskedDiceBCELoss`. Kept for the backward pass are, for each voxel of a sample
    with any annotation and in float32, the logits that are merged, their merged values, and two values for each of the
    G groups the annotation tells apart (G is 3 for an organ with its tumour, whatever the number of leaves), besides
    some bytes of indices and masks: less than ordinary cross-entropy with Dice, which keeps two values for each leaf.

    Args:
        membership: Which regions hold which leaf, R rows of L + 1, in the order of the logits' channels; background is
            the first and in no region.
        batch_dice: As in `MaskedDiceBCELoss`.
        use_ignore_label: Whether the last channel of the targets marks voxels to ignore.
        dice_weight: Weight of 1 - Dice.
        bce_weight: Weight of the cross-entropy.
        smooth: Added to numerator and denominator of Dice, in voxels.
    """

    def __init__(
        self,
        membership: Sequence[Sequence[bool]],
        *,
        batch_dice: bool,
        use_ignore_label: bool,
        dice_weight: float = 1.0,
        bce_weight: float = 1.0,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__(use_ignore_label=use_ignore_label, dice_weight=dice_weight, bce_weight=bce_weight)
        self.membership = tuple(tuple(map(bool, row)) for row in membership)
        self.batch_dice = batch_dice
        self.smooth = smooth

    def terms(self, logits: Tensor, target: Tensor, annotated: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted terms of the loss, in float32 for any dtype of the logits and also under autocast.

        Args:
            logits: Logits of the leaves before the softmax, (B, L + 1, *spatial), any floating dtype.
            target: Region targets, (B, R, *spatial) bool; with the ignore label (B, R + 1, *spatial), it comes last.
                Values of regions that are not annotated are not read.
            annotated: Which regions the annotator labelled, (B, R) bool; on the CPU, or each call waits for the device.

        Returns:
            "dice" and "ce", scalar float32, never negative; zero, but attached to `logits`, if nothing is annotated.

        Raises:
            ValueError: If the shapes do not fit together.
            TypeError: If `target` or `annotated` is not bool.
        """
        n_regions, n_leaves = len(self.membership), len(self.membership[0])
        if logits.shape[1] != n_leaves:
            raise ValueError(f"logits have {logits.shape[1]} channels, expected {n_leaves}: background and each label")
        self._check(logits, target, annotated, n_regions)
        with autocast(logits.device.type, enabled=False):
            sums = self._sums(logits, target, annotated)
            region = annotated.nonzero()[:, 1].to(logits.device, non_blocking=True)
            return {
                "dice": mean_dice_loss(sums.overlap, region, n_regions, batch_dice=self.batch_dice, smooth=self.smooth),
                "ce": mean_over_processes(sums.cross_entropy, sums.n_voxels.sum()),
            }

    def _sums(self, logits: Tensor, target: Tensor, annotated: Tensor) -> _Sums:
        """Put the sums of the samples with any annotation one after another."""
        # unbind and not logits[sample]: the backward of each such index would fill a batch of zeros
        samples = zip(logits.flatten(2).unbind(0), target.flatten(2), annotated.tolist(), strict=True)
        sums = [self._sample_sums(*sample) for sample in samples if any(sample[-1])]
        if not sums:
            nothing = logits[:0].float().flatten()
            return _Sums(nothing, nothing, Overlap(nothing, nothing, nothing))
        cross_entropy, n_voxels, overlaps = zip(*sums, strict=True)
        joined = [torch.cat(values) for values in zip(*overlaps, strict=True)]
        return _Sums(torch.cat(cross_entropy), torch.cat(n_voxels), Overlap(*joined))

    def _sample_sums(self, logits: Tensor, target: Tensor, annotated: Sequence[bool]) -> _Sums:
        """Sum over the voxels V of one sample: logits (L + 1, V), targets (R or R + 1, V) bool."""
        groups = self._groups(annotated)
        leaves = logits.unbind(0)
        log_probability = torch.stack([_merged([leaves[leaf] for leaf in group]) for group in groups.values()])
        log_probability = log_probability.log_softmax(0)  # (G, V)

        observed = torch.stack(list(compress(target, annotated)))  # (A, V)
        # 1 for each region in which voxel and group agree, -1 for each other: A only where they agree in all
        signs = 2 * torch.tensor(list(groups), dtype=torch.float32, device="cpu") - 1
        agreement, group = (signs.to(logits.device, non_blocking=True) @ (2 * observed.float() - 1)).max(0)
        counts = agreement == len(observed)
        if self.use_ignore_label:
            counts = counts & ~target[-1]

        cross_entropy = nn.functional.nll_loss(
            log_probability[None], group.masked_fill(~counts, -1)[None], ignore_index=-1, reduction="none"
        )
        # no matrix product: it may run in TF32, and its backward in the precision of the context that calls it
        probability = log_probability.exp().unbind(0)
        regions = torch.stack([_total(compress(probability, inside)) for inside in zip(*groups, strict=True)])
        return _Sums(
            cross_entropy.sum()[None],
            counts.sum(dtype=torch.float32)[None],
            overlap(regions, observed, counts),
        )

    def _groups(self, annotated: Sequence[bool]) -> dict[tuple[bool, ...], list[int]]:
        """Group the leaves that no annotated region tells apart, by whether they lie in each of these A regions."""
        groups: dict[tuple[bool, ...], list[int]] = {}
        for leaf, inside in enumerate(zip(*compress(self.membership, annotated), strict=True)):
            groups.setdefault(inside, []).append(leaf)
        return groups


def _merged(logits: Sequence[Tensor]) -> Tensor:
    """Return the logit of the summed probability of several leaves, (V,) float32."""
    return logits[0].float() if len(logits) == 1 else torch.stack(list(logits)).float().logsumexp(0)


def _total(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum(0)
