"""A learned prompt that all tasks share; the decoder reads one channel of it, that of the task: UniSeg."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op, get_matching_instancenorm
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, cat, nn
from torch.nn import functional

from nnunet_mtl.networks.off_parts import NoBottleneckConditioning


class UniversalPrompt(NoBottleneckConditioning):
    """Appends a channel computed from the encoder's last feature x and a prompt U, another one for every task.

        P = F([x || U]),    x' = [x || P_t]

    U holds K channels of the size of x at the planned patch size and starts as N(0, 1). F is three blocks of
    convolution, InstanceNorm and LeakyReLU, (C + K) -> m -> m -> K with m = (C + K) // 4: every task's prompt depends
    on all of U and on the image. All this is the released code's; ours are the kernel, 3 along every axis, prompts
    picked per sample (there a batch has one task), and U resampled linearly where x has another size.

    It has K n + 3^d (m (C + K) + m^2 + m K) + 3 (2 m + K) parameters, n the voxels and d the axes of U; the decoder's
    first transposed convolution reads one channel more.

    Args:
        channels: C.
        num_tasks: K.
        bottleneck_size: Spatial size of x at the planned patch size, 2D or 3D.

    Source: Ye, Xie, Zhang, Chen, Xia, UniSeg: a prompt-driven universal segmentation model as well as a strong
    representation learner, MICCAI 2023, and its released code, re-implemented from equations.
    """

    conditioned: ClassVar[bool] = True

    def __init__(self, channels: int, num_tasks: int, bottleneck_size: Sequence[int]) -> None:
        super().__init__(channels, num_tasks, bottleneck_size)
        self.prompt = nn.Parameter(torch.randn(1, num_tasks, *bottleneck_size))
        self.interpolation = "bilinear" if len(bottleneck_size) == 2 else "trilinear"
        conv_op = convert_dim_to_conv_op(len(bottleneck_size))
        hidden = max(1, (channels + num_tasks) // 4)
        self.fusion = StackedConvBlocks(
            3,
            conv_op,
            channels + num_tasks,
            (hidden, hidden, num_tasks),
            kernel_size=3,
            initial_stride=1,
            conv_bias=True,
            norm_op=get_matching_instancenorm(conv_op),
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        )

    @staticmethod
    def extra_channels() -> int:
        """Return 1."""
        return 1

    def forward(self, x: Tensor, task: Tensor) -> Tensor:  # type: ignore[override]
        """Return (B, C + 1, *spatial) from (B, C, *spatial) and task indices (B,)."""
        prompt: Tensor = self.prompt
        if prompt.shape[2:] != x.shape[2:]:
            prompt = functional.interpolate(prompt, x.shape[2:], mode=self.interpolation, align_corners=False)
        prompts = self.fusion(cat((x, prompt.expand(x.shape[0], -1, *x.shape[2:])), dim=1))
        task_prompt = torch.take_along_dim(prompts, task.reshape(-1, *[1] * (x.ndim - 1)), dim=1)
        return cat((x, task_prompt.to(x.dtype)), dim=1)
