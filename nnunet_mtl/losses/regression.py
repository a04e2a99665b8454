"""The loss of a value per voxel: the mean absolute error (L1) over the voxels in which the value is known."""

from typing import NamedTuple

from torch import Tensor

from nnunet_mtl.losses.partial import mean_over_processes


class AbsoluteError(NamedTuple):
    """Sums over the voxels that count, for each sample with a target, (P,) float32 each.

    Attributes:
        total: Of the absolute errors, in the unit of the target.
        voxels: Number of voxels.
    """

    total: Tensor
    voxels: Tensor


def absolute_error(values: Tensor, target: Tensor, inside: Tensor, known: Tensor) -> AbsoluteError:
    """Sum the absolute errors, in float32 whatever the dtype of the values and under autocast.

    Args:
        values: What the network says, (B, 1, *spatial), any floating dtype.
        target: (B, 1, *spatial) float32; read where it counts and nowhere else, it may hold anything there.
        inside: Voxels that count, (B, 1, *spatial) bool.
        known: Samples that have a target, (B,) bool; best on the CPU, where finding them does not wait for a device.

    Returns:
        P is the number of samples with a target, which may be 0.
    """
    if not values.shape == target.shape == inside.shape:
        raise ValueError(f"values {tuple(values.shape)}, target {tuple(target.shape)}, inside {tuple(inside.shape)}")
    rows = known.nonzero()[:, 0].to(values.device, non_blocking=True)
    picked, wanted, mask = (each.index_select(0, rows) for each in (values.float(), target.float(), inside))
    # where() before abs(): a target that is no number, in a voxel that does not count, reaches no gradient
    difference = (picked - wanted).where(mask, 0.0)
    return AbsoluteError(difference.abs().flatten(1).sum(1), mask.flatten(1).sum(1).float())


def masked_l1_loss(values: Tensor, target: Tensor, inside: Tensor, known: Tensor) -> Tensor:
    """Return the mean absolute error over the voxels that count of the samples that have a target; a scalar, float32.

    Arguments as of `absolute_error`. Under `torch.distributed` the number of voxels is that of the union of all
    processes' batches, as of the other losses, and every process must call this equally often. Zero, but attached to
    `values`, where nothing counts.
    """
    error = absolute_error(values, target, inside, known)
    return mean_over_processes(error.total, error.voxels.sum())
