"""Where the task enters a network: the points, what stands at each, and what stands there when nothing does.

A part says whether it is conditioned. If so it is called with the task index of every sample after its other arguments,
else without. The points are the image (`input_conditioning`), the stages of the encoder (`encoder_conditioning`), its
last feature (`bottleneck_conditioning`), the skips (`task_attention`), the merged features of the decoder
(`decoder_conditioning`), the decoder as a whole (`decoders`) and the head (`segmentation_head`). Nothing at all is
always an object: a misspelt dotted path gives None, which is refused.
"""

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, cat, nn

from nnunet_mtl.networks.pre_norm import run_stage


class NoConditioning(nn.Module):
    """The image, or merged decoder features, as they are.

    Args:
        num_tasks: Not used; here so that parts are built alike.
    """

    conditioned: ClassVar[bool] = False

    def __init__(self, num_tasks: int) -> None:
        super().__init__()

    @staticmethod
    def extra_channels(num_tasks: int) -> int:
        """Return how many channels are appended."""
        return 0

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x


class NoEncoderConditioning(nn.Module):
    """A stage of the encoder runs as it is.

    Args:
        stage: Not used; here so that parts are built alike.
        num_tasks: Not used.
    """

    conditioned: ClassVar[bool] = False

    def __init__(self, stage: nn.Module, num_tasks: int) -> None:
        super().__init__()

    def run(self, stage: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stage's output and what its last normalisation read, both (B, C, *spatial)."""
        return run_stage(stage, x)


class NoBottleneckConditioning(nn.Module):
    """The encoder's last feature as it is.

    Args:
        channels: Not used; here so that parts are built alike.
        num_tasks: Not used.
        prompt_size: Not used.
    """

    conditioned: ClassVar[bool] = False

    def __init__(self, channels: int, num_tasks: int, prompt_size: Sequence[int]) -> None:
        super().__init__()

    @staticmethod
    def extra_channels() -> int:
        """Return how many channels are appended."""
        return 0

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x


class TaskCode(NoConditioning):
    """Appends the task's one-hot code as K constant channels.

    At the image this is Cond-Input, which TGNet's comparison takes from Chen, Xu, Koltun, Fast image processing with
    fully-convolutional networks, ICCV 2017; at the merged features of every decoder stage it is Cond-Dec, after
    Dmitriev and Kaufman, Learning multi-class segmentations from single-class datasets, CVPR 2019. Nothing else
    changes: with zero weights for these channels both are the network without a task.

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
        """Return K."""
        return num_tasks

    def forward(self, x: Tensor, task: Tensor) -> Tensor:  # type: ignore[override]
        """Return (B, C + K, *spatial) of (B, C, *spatial) and task indices (B,)."""
        code = (task[:, None] == self.task_indices).to(x.dtype)
        return cat((x, code.reshape(*code.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])), dim=1)


def call(part: nn.Module, *arguments: Tensor, task: tuple[Tensor, ...]) -> Tensor:
    """Call a part with the task if it is conditioned; `task` is empty before the task enters."""
    return cast(Tensor, part(*arguments, *(task if part.conditioned else ())))


def widen(convolution: nn.Module, extra: int) -> None:
    """Let a convolution read `extra` more channels, appended to those it reads; it is then initialised anew.

    Args:
        convolution: A convolution or transposed convolution of one group, changed in place, so that its name and its
            keys in the state dict stay.
        extra: At least 0.
    """
    if not extra:
        return
    module = cast(nn.Conv3d, convolution)
    axis = 0 if module.transposed else 1
    shape = list(module.weight.shape)
    shape[axis] += extra
    module.in_channels += extra
    module.weight = nn.Parameter(module.weight.new_empty(shape))
    module.reset_parameters()
