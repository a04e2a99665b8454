"""Task streams: for every task its own version of the features of one shared encoder.

The encoder runs once. The stream of a task holds a feature for every stage of the encoder. Decoders and heads read
streams and do not depend on how a stream is made: from the shared features unchanged (hard parameter sharing), from
features masked by the task's attention (`mtan_encoder`), or from features that are masked and then exchanged between
tasks (`ctan_encoder`).

The order of the tasks is segmentation, regression, questions. Segmentation and regression tasks are pixel-level and
have a decoder. A question is image-level: a head pools the deepest stage of its stream and answers it.
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
    """Features of one stage of the shared encoder.

    A block is a convolution with normalisation and activation, or a residual block.

    Attributes:
        inner: p, output of the block that the masks read, (B, C, *spatial), see `SharedStreams.inner_blocks`.
        last: u, output of the last block, (B, C, *spatial).
        before_norm: Input of the last normalisation of the stage, (B, C, *spatial).
    """

    inner: Tensor
    last: Tensor
    before_norm: Tensor


class StreamTasks(NamedTuple):
    """Numbers of the tasks that have a stream.

    Attributes:
        pixel: Number of segmentation and regression tasks, which have a decoder and come first.
        image: Number of questions that are answered from a stream.
    """

    pixel: int
    image: int

    @property
    def number(self) -> int:
        """Number of all tasks."""
        return self.pixel + self.image


class EncoderPlan(NamedTuple):
    """The numbers and classes of an encoder that parts beside the encoder are built from.

    Parts get this description and not the encoder itself, because PyTorch would register the encoder a second time.

    Attributes:
        channels: Channels of every stage, full resolution first.
        kernel_sizes: Kernel per stage and axis.
        strides: Stride of the stage's first convolution, per stage and axis.
        conv_op: Class of the convolutions.
        norm_op: Class of the normalisations; None for an encoder without.
        norm_op_kwargs: Arguments of the normalisations.
    """

    channels: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    conv_op: Callable[..., nn.Module]
    norm_op: Callable[..., nn.Module] | None
    norm_op_kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, encoder: Any) -> "EncoderPlan":
        """Return the plan of a plain or residual encoder of nnU-Net."""
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
        """Number of spatial axes, 2 or 3."""
        return len(self.strides[0])

    def norm(self, channels: int) -> nn.Module:
        """Return a normalisation as in the plans."""
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
        """Return the maxima of `x`, (B, C, *spatial), in windows of a stage's stride; incomplete windows count too.

        The result has the spatial size that the stage itself makes of `x`, whatever the kernel of the stage.
        """
        pool = functional.max_pool3d if self.dimensions == 3 else functional.max_pool2d
        return pool(x, self.strides[stage], ceil_mode=True)


class SharedStreams(nn.Module):
    """Hard parameter sharing: the stream of every task is the shared features. Other streams derive from this class.

    Args:
        plan: Numbers and classes of the encoder.
        tasks: Numbers of the tasks with a stream.
        **options: Numbers of the method; this class uses none.
    """

    def __init__(self, plan: EncoderPlan, tasks: StreamTasks, **options: Any) -> None:
        super().__init__()
        self.tasks = tasks

    @staticmethod
    def inner_blocks(blocks: int) -> int:
        """Return after how many of a stage's `blocks` (1 or more) the masks read the feature; here after the first."""
        return 1

    def forward(self, stages: Sequence[StageFeatures]) -> Any:
        """Compute once what the streams of all tasks share, and return it; here the features of the stages."""
        return stages

    def of_task(self, index: int, shared: Any) -> list[Tensor]:
        """Return the stream of a task: a feature of every stage, full resolution first, (B, C, *spatial).

        Args:
            index: Index of the task.
            shared: Return value of `forward`.
        """
        return [*(stage.last for stage in shared[:-1]), self.deepest(index, shared[-1])]

    def deepest(self, index: int, stage: StageFeatures) -> Tensor:
        """Return the feature of the deepest stage from which the stream of a task is made, (B, C, *spatial).

        For a question this is the input of the last normalisation, because the feature will be pooled, and behind an
        InstanceNorm every channel has the same mean in every image.
        """
        return stage.last if index < self.tasks.pixel else stage.before_norm


class NoStreamBottleneck(nn.Module):
    """Leaves the streams unchanged. Parts that exchange information between the deepest features derive from it.

    Attributes:
        exchanges: Whether the part needs the streams of all tasks before any task is decoded.

    Args:
        channels: Channels of the deepest stage.
        tasks: Number of tasks with a stream.
        **options: Numbers of the method; this class uses none.
    """

    exchanges: ClassVar[bool] = False

    def __init__(self, channels: int, tasks: int, **options: Any) -> None:
        super().__init__()

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """Return new deepest features of all streams, (B, C, *spatial), from the present ones of the same shape."""
        return streams


class Recompute:
    """Computes parts of a network again in the backward pass, to keep fewer tensors in memory.

    Args:
        modules: All modules of the parts. If one of them draws random numbers or updates running estimates, which a
            second forward pass would update again, nothing is recomputed.
        wanted: Whether to recompute at all.
    """

    def __init__(self, *modules: nn.Module, wanted: bool) -> None:
        parts = [part for module in modules for part in module.modules()]
        self.on = wanted and not any(isinstance(part, _DropoutNd) or [*part.buffers(recurse=False)] for part in parts)

    def __call__(self, part: Callable[..., _Made], *tensors: Tensor) -> _Made:
        """Return the result of `part` for these tensors."""
        if not self.on or not torch.is_grad_enabled():
            return part(*tensors)
        result: _Made = checkpoint(part, *tensors, use_reentrant=False, preserve_rng_state=False)
        return result


def each_of(streams: SharedStreams, bottleneck: NoStreamBottleneck, shared: Any) -> Callable[[int], list[Tensor]]:
    """Return a function that gives the stream of a task, behind the bottleneck, by the index of the task.

    If the bottleneck does not exchange information, the function computes a stream only when it is called, so that a
    stream can be freed before the next one is computed.

    Args:
        streams: The part that makes the streams.
        bottleneck: The part that the deepest features of the streams pass.
        shared: Return value of `streams.forward` for a batch.
    """
    if not bottleneck.exchanges:
        return partial(streams.of_task, shared=shared)
    all_streams = [streams.of_task(index, shared) for index in range(streams.tasks.number)]
    deepest = bottleneck([stream[-1] for stream in all_streams])
    return [[*stream[:-1], last] for stream, last in zip(all_streams, deepest, strict=True)].__getitem__
