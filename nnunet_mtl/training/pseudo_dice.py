"""nnU-Net's pseudo Dice of the validation patches, counted over annotated regions only."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_mtl.tasks import TaskSet

FloatArray = NDArray[np.float64]


def region_counts(logits: Tensor, target: Tensor, annotated: Tensor) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Count true positives, false positives and false negatives of each region.

    Args:
        logits: Region logits, (B, R, *spatial).
        target: Region targets, (B, R, *spatial) bool; one more channel is nnU-Net's ignore mask. Channels of
            un-annotated regions are not read.
        annotated: Which regions are annotated, (B, R) bool.

    Returns:
        Three arrays (R,) in voxels; zero for a region that no sample of the batch has annotated.
    """
    n_regions = logits.shape[1]
    sample, region = annotated.to(logits.device).nonzero(as_tuple=True)
    predicted = logits[sample, region] > 0  # the sigmoid's one half, (n, *spatial)
    truth = target[sample, region].bool()
    if target.shape[1] > n_regions:
        valid = ~target[sample, -1].bool()
        predicted, truth = predicted & valid, truth & valid
    axes = tuple(range(1, predicted.ndim))
    counts = ((predicted & truth).sum(axes), (predicted & ~truth).sum(axes), (~predicted & truth).sum(axes))
    tp, fp, fn = (_sum_per_region(count, region, n_regions) for count in counts)
    return tp, fp, fn


def label_counts(logits: Tensor, target: Tensor, ignore_label: int | None) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Count as `region_counts` does, for softmax logits and label maps; channel 0 (background) is not counted.

    Args:
        logits: Softmax logits, (B, R, *spatial).
        target: Label map, (B, 1, *spatial).
        ignore_label: Value of voxels that are not counted, or None.

    Returns:
        Three arrays (R,) in voxels.
    """
    labels = torch.arange(logits.shape[1], device=logits.device).view(-1, *(1,) * (logits.ndim - 2))
    ignored = target == ignore_label if ignore_label is not None else torch.zeros_like(target, dtype=torch.bool)
    regions = torch.cat((target == labels, ignored), 1)
    one_hot = (logits.argmax(1, keepdim=True) == labels).float() - 0.5  # a logit above zero where the label wins
    annotated = torch.ones(logits.shape[:2], dtype=torch.bool)
    annotated[:, 0] = False
    return region_counts(one_hot, regions, annotated)


def pseudo_dice_counts(logits: Tensor, target: Tensor, annotated: Tensor, tasks: TaskSet) -> dict[str, FloatArray]:
    """Return nnU-Net's counts of a validation step, by nnU-Net's names, over annotated regions only.

    Args:
        logits: Logits, (B, R, *spatial).
        target: Region targets, or the label map of a data set without regions.
        annotated: Which regions are annotated, (B, R) bool; not read without regions.
        tasks: The tasks that are trained.
    """
    if tasks.has_regions:
        counts = region_counts(logits, target, annotated)
    else:
        counts = label_counts(logits, target, tasks.ignore_label)
    return dict(zip(("tp_hard", "fp_hard", "fn_hard"), counts, strict=True))


def dice(tp: FloatArray, fp: FloatArray, fn: FloatArray) -> FloatArray:
    """Return the Dice of every region; NaN for a region without a voxel in truth and prediction."""
    volume = 2 * tp + fp + fn
    values: FloatArray = np.divide(2 * tp, volume, out=np.full(volume.shape, np.nan), where=volume > 0)
    return values


def nan_mean(values: Sequence[float] | FloatArray) -> float:
    """Return the mean of the values that are not NaN; NaN, without NumPy's warning, if all are."""
    available = [float(value) for value in values if not np.isnan(value)]
    return float(np.mean(available)) if available else float("nan")


def _sum_per_region(count: Tensor, region: Tensor, n_regions: int) -> FloatArray:
    total = torch.zeros(n_regions, dtype=torch.float64, device=count.device)
    return total.index_add_(0, region, count.double()).cpu().numpy()
