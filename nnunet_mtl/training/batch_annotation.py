"""The annotation of the samples of a batch, which tells the loss what to read."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from nnunet_mtl.training.regression import VoxelTargets


class BatchAnnotation(NamedTuple):
    """The annotation of the samples of a batch.

    Attributes:
        keys: Case identifiers, B of them.
        annotated: Regions that the loss may read, (B, R) bool, on the CPU.
        task: Index of the drawn task of every sample, (B,) long, on the CPU.
        voxels: Targets of the regression tasks; None without regression tasks.
    """

    keys: Sequence[str]
    annotated: Tensor
    task: Tensor
    voxels: VoxelTargets | None = None
