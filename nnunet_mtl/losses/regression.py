"""The loss of a value per voxel: the mean absolute error (L1) over the voxels in which the value is known."""

from typing import NamedTuple

from torch import Tensor

from nnunet_mtl.losses.partial import mean_over_processes


class AbsoluteError(NamedTuple):
    """Sums over the voxels that count, for the P samples with a target.

    Attributes:
        total: Sum of the absolute errors, in the unit of the target, (P,) float32.
        voxels: Number of voxels that count, (P,) float32.
    """

    total: Tensor
    voxels: Tensor


def absolute_error(values: Tensor, target: Tensor, inside: Tensor, known: Tensor) -> AbsoluteError:
    """Add up the absolute errors, in float32 for any dtype of the values and also under autocast.

    Args:
        values: Values predicted by the network, (B, 1, *spatial), any floating dtype.
        target: (B, 1, *spatial) float32. Only the voxels that count are read; the others may hold anything, NaN too.
        inside: Voxels that count, (B, 1, *spatial) bool.
        known: Samples that have a target, (B,) bool; best on the CPU, where finding them does not wait for a device.

    Returns:
        The sums of the P samples that have a target; P may be 0.

    Raises:
        ValueError: If the shapes of `values`, `target` and `inside` differ.
    """
    if not values.shape == target.shape == inside.shape:
        raise ValueError(f"values {tuple(values.shape)}, target {tuple(target.shape)}, inside {tuple(inside.shape)}")
    rows = known.nonzero()[:, 0].to(values.device, non_blocking=True)
    predicted, truth, mask = (tensor.index_select(0, rows) for tensor in (values.float(), target.float(), inside))
    # where() comes before abs(), so that a NaN target in a voxel that does not count reaches no gradient.
    difference = (predicted - truth).where(mask, 0.0)
    return AbsoluteError(difference.abs().flatten(1).sum(1), mask.flatten(1).sum(1).float())


def masked_l1_loss(values: Tensor, target: Tensor, inside: Tensor, known: Tensor) -> Tensor:
    """Return the mean absolute error over all voxels that count, in the samples with a target: a scalar, float32.

    The arguments are those of `absolute_error`. Under `torch.distributed` the mean divides by the number of voxels of
    all processes' batches, and every process must call this function equally often. The result is zero, but attached
    to `values`, if no voxel counts.
    """
    error = absolute_error(values, target, inside, known)
    return mean_over_processes(error.total, error.voxels.sum())
