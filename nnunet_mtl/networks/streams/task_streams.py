"""Task streams: what each of several tasks sees of the features of one shared encoder.

The encoder runs once. Streams turn its features into features of every stage for every task. Decoders and heads read
the streams and need not know how a stream was made: the shared features themselves (hard parameter sharing), features
masked by attention of the task (`mtan_encoder`), or features masked and exchanged between tasks (`ctan_encoder`).

Tasks are in the order segmentation, regression, questions. The first two are pixel-level and have a decoder; a question
is image-level: what it sees of the deepest stage is pooled and answered.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

_Made = TypeVar("_Made")


class StageFeatures(NamedTuple):
    """What a stage of the shared encoder computed.

    Attributes:
        inner: Output of the block that masks read, p, (B, C, *spatial), see `SharedStreams.inner_blocks`; a block is a
            convolution with normalisation and activation, or a residual block.
        last: Output of its last block, u, (B, C, *spatial).
        before_norm: What the last normalisation of the stage reads, (B, C, *spatial).
    """

    inner: Tensor
    last: Tensor
    before_norm: Tensor


class StreamTasks(NamedTuple):
    """How many tasks have a stream.

    Attributes:
        pixel: Tasks with an answer per voxel, which have a decoder; they come first.
        image: Questions that are answered from a stream.
    """

    pixel: int
    image: int

    @property
    def number(self) -> int:
        """Of all."""
        return self.pixel + self.image


class EncoderPlan(NamedTuple):
    """What has to be known of the encoder to build something beside it; not the encoder, which is registered once.

    Attributes:
        channels: Of every stage, full resolution first.
        kernel_sizes: Per stage and axis.
        strides: Per stage and axis, of its first convolution.
        conv_op: Convolution class.
        norm_op: Normalisation class; None for none.
        norm_op_kwargs: Its arguments.
    """

    channels: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    conv_op: Callable[..., nn.Module]
    norm_op: Callable[..., nn.Module] | None
    norm_op_kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, encoder: Any) -> "EncoderPlan":
        """Read it off a plain or residual encoder."""
        strides = tuple(tuple(int(step) for step in stride) for stride in encoder.strides)
        sizes = [[size] * len(strides[0]) if isinstance(size, int) else size for size in encoder.kernel_sizes]
        return cls(
            tuple(int(count) for count in encoder.output_channels),
            tuple(tuple(int(edge) for edge in size) for size in sizes),
            strides,
            encoder.conv_op,
            encoder.norm_op,
            encoder.norm_op_kwargs or {},
        )

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.strides[0])

    def norm(self, channels: int) -> nn.Module:
        """Return the normalisation of the plans, for so many channels."""
        return nn.Identity() if self.norm_op is None else self.norm_op(channels, **self.norm_op_kwargs)

    def block(self, channels_in: int, channels_out: int, stage: int) -> nn.Sequential:
        """Return convolution, normalisation and ReLU with the kernel of a stage; the size stays."""
        return nn.Sequential(
            self.spatial(channels_in, channels_out, stage), self.norm(channels_out), nn.ReLU(inplace=True)
        )

    def spatial(self, channels_in: int, channels_out: int, stage: int) -> nn.Module:
        """Return a convolution with the kernel of a stage; the size stays."""
        kernel = self.kernel_sizes[stage]
        return self.conv_op(channels_in, channels_out, kernel, padding=[(edge - 1) // 2 for edge in kernel])

    def layer(self, channels_in: int, channels_out: int) -> nn.Module:
        """Return a convolution with kernel 1."""
        return self.conv_op(channels_in, channels_out, 1)

    def pooled(self, x: Tensor, stage: int) -> Tensor:
        """Return the maxima of `x`, (B, C, *spatial), in windows of a stage's stride; a rest at the edge is kept.

        Whatever the kernel, the planned stage makes the same size of it.
        """
        pool = functional.max_pool3d if self.dimensions == 3 else functional.max_pool2d
        return pool(x, self.strides[stage], ceil_mode=True)


class SharedStreams(nn.Module):
    """Every task sees the shared features: hard parameter sharing, and what other streams derive from.

    Args:
        plan: Of the encoder.
        tasks: How many.
        **options: Numbers of the method.
    """

    def __init__(self, plan: EncoderPlan, tasks: StreamTasks, **options: Any) -> None:
        super().__init__()
        self.tasks = tasks

    @staticmethod
    def inner_blocks(blocks: int) -> int:
        """Return behind how many of a stage's blocks, of which it has at least one, masks read it: behind the first."""
        return 1

    def forward(self, stages: Sequence[StageFeatures]) -> Any:
        """Return what the streams of all tasks have in common, computed once; here nothing but the features."""
        return stages

    def of_task(self, index: int, shared: Any) -> list[Tensor]:
        """Return what a task sees of every stage, full resolution first, each (B, C, *spatial).

        Args:
            index: Of the task.
            shared: What `forward` returned.
        """
        return [*(stage.last for stage in shared[:-1]), self.deepest(index, shared[-1])]

    def deepest(self, index: int, stage: StageFeatures) -> Tensor:
        """Return what a task may see of the deepest stage, (B, C, *spatial).

        An image-level task will have it pooled: it sees what the last normalisation reads, for behind an
        InstanceNorm every channel has the same mean in every image.
        """
        return stage.last if index < self.tasks.pixel else stage.before_norm


class NoStreamBottleneck(nn.Module):
    """Tasks do not meet at the bottleneck, and what meets there derives from it.

    Attributes:
        exchanges: Whether the streams of all tasks have to be there before any is decoded.

    Args:
        channels: Of the deepest stage.
        tasks: How many have a stream.
        **options: Numbers of the method.
    """

    exchanges: ClassVar[bool] = False

    def __init__(self, channels: int, tasks: int, **options: Any) -> None:
        super().__init__()

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """Return what each task sees of the deepest stage, (B, C, *spatial) each, of that of all tasks."""
        return streams


class Recompute:
    """Computes parts of a network anew in the backward pass, where that costs less than keeping what they computed.

    Args:
        modules: All that the parts consist of. If one draws random numbers, or moves running estimates, which a
            second forward pass would move again, nothing is recomputed.
        wanted: Whether anything is.
    """

    def __init__(self, *modules: nn.Module, wanted: bool) -> None:
        parts = [part for module in modules for part in module.modules()]
        self.on = wanted and not any(isinstance(part, _DropoutNd) or [*part.buffers(recurse=False)] for part in parts)

    def __call__(self, part: Callable[..., _Made], *tensors: Tensor) -> _Made:
        """Return what a part makes of tensors."""
        if not self.on or not torch.is_grad_enabled():
            return part(*tensors)
        made: _Made = checkpoint(part, *tensors, use_reentrant=False, preserve_rng_state=False)
        return made


def each_of(streams: SharedStreams, bottleneck: NoStreamBottleneck, shared: Any) -> Callable[[int], list[Tensor]]:
    """Return what gives the features a task sees, by its index.

    One task's are computed when they are asked for, and can be freed before the next one's, unless tasks meet.

    Args:
        streams: The streams.
        bottleneck: What the deepest features pass.
        shared: What the streams returned for a batch.
    """
    if not bottleneck.exchanges:
        return partial(streams.of_task, shared=shared)
    every = [streams.of_task(index, shared) for index in range(streams.tasks.number)]
    deepest = bottleneck([of_task[-1] for of_task in every])
    return [[*of_task[:-1], last] for of_task, last in zip(every, deepest, strict=True)].__getitem__
