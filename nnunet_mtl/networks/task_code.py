"""The task's one-hot code, appended to a feature as constant channels: Cond-Input and Cond-Dec."""

from typing import ClassVar

import torch
from torch import Tensor, cat

from nnunet_mtl.networks.off_parts import NoConditioning


class TaskCode(NoConditioning):
    """Appends the task's one-hot code as K constant channels.

    At the image this is Cond-Input, which TGNet's comparison takes from Chen, Xu, Koltun, Fast image processing with
    fully-convolutional networks, ICCV 2017; at the merged features of every decoder stage it is Cond-Dec, after
    Dmitriev and Kaufman, Learning multi-class segmentations from single-class datasets, CVPR 2019. If the weights for
    these channels are zero, both networks equal the network without a task.

    Args:
        num_tasks: K.
    """

    conditioned: ClassVar[bool] = True
    task_indices: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.register_buffer("task_indices", torch.arange(num_tasks), persistent=False)

    @staticmethod
    def extra_channels(num_tasks: int) -> int:
        """Return the number of appended channels, K."""
        return num_tasks

    def forward(self, x: Tensor, task: Tensor) -> Tensor:  # type: ignore[override]
        """Return (B, C + K, *spatial) from a feature (B, C, *spatial) and task indices (B,)."""
        code = (task[:, None] == self.task_indices).to(x.dtype)
        return cat((x, code.reshape(*code.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])), dim=1)
