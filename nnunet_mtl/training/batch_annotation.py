"""What is known of the samples of a batch."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from nnunet_mtl.training.regression import VoxelTargets


class BatchAnnotation(NamedTuple):
    """What is known of the samples of a batch.

    Attributes:
        keys: Case identifiers, B of them.
        annotated: Regions the loss may read, (B, R) bool, on the CPU.
        task: Task each sample was drawn for, (B,) long, on the CPU.
        voxels: Targets of the regression tasks; None without any.
    """

    keys: Sequence[str]
    annotated: Tensor
    task: Tensor
    voxels: VoxelTargets | None = None
