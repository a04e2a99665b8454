"""Runs stages and blocks of nnU-Net, and also returns the input of their last normalisation.

InstanceNorm gives every channel the same mean and variance in every image, so that pooled values behind it are nearly
constant. Only tensors before a normalisation have a spatial mean that depends on the image. Autograd keeps the input of
a normalisation anyway, so that pooling there costs no memory.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from torch import Tensor, nn


def run_encoder(encoder: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Run an encoder exactly as a call of the encoder does; also return the input of every stage's last normalisation.

    Args:
        encoder: A plain or residual encoder that returns its skips.
        x: Image, (B, C, *spatial).

    Returns:
        The outputs of all stages, and the inputs of their last normalisations, both full resolution first. In a
        residual stage the last normalisation follows the last block's last convolution, before the shortcut is added.
    """
    stem = getattr(encoder, "stem", None)
    x = x if stem is None else stem(x)
    skips, before_norm = [], []
    for stage in cast(nn.Sequential, encoder.stages):
        x, feature = run_stage(stage, x)
        skips.append(x)
        before_norm.append(feature)
    return skips, before_norm


def run_stage(stage: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run a stage exactly as a call of the stage does; also return the input of the stage's last normalisation.

    Args:
        stage: Stage of an encoder or decoder: convolution or residual blocks, perhaps behind a pooling.
        x: (B, C, *spatial).

    Returns:
        The stage's output and the input of its last normalisation, both (B, C', *spatial). The second tensor is
        activated if the blocks activate before they normalise; it is the output itself if there is no normalisation.
    """
    pooling, blocks = stage_blocks(stage)
    return run_blocks([*pooling, *blocks], x)


def run_blocks(blocks: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    """Run one or more blocks of a stage; return their output and the input of their last normalisation."""
    *first, last = blocks
    for module in first:
        x = module(x)
    if is_residual(last):
        return run_residual_block(last, x)
    x, before_norm = _run_convolution(last, x)
    return x, x if before_norm is None else before_norm


def stage_blocks(stage: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the pooling modules of a stage, if any, and the convolution or residual blocks, in their order."""
    *pooling, last = stage if isinstance(stage, nn.Sequential) else (stage,)
    return pooling, list(cast(Any, last.blocks if hasattr(last, "blocks") else last.convs))


def is_residual(block: nn.Module) -> bool:
    """Return whether a block is one that `run_residual_block` can run."""
    return isinstance(block, BasicBlockD | BottleneckD | GuidedBlock)


def run_modules(modules: Iterable[nn.Module], norm: nn.Module | None, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Run modules in order; also return the input of `norm`, one of these modules, or None if `norm` is None."""
    before_norm: Tensor | None = None
    for module in modules:
        if module is norm:
            before_norm = x
        x = module(x)
    return x, before_norm


def unguided(shortcut: Tensor, first: Tensor) -> Tensor:
    """Return the shortcut unchanged, as in nnU-Net's blocks."""
    return shortcut


class GuidedBlock(nn.Module):
    """Base of residual blocks that normalise before they convolve; no normalisation follows their output.

    Args:
        output_channels: Channels of the block's first convolution and of the block's output.
    """

    def __init__(self, output_channels: int) -> None:
        super().__init__()
        self.output_channels = output_channels

    def run(self, x: Tensor, guide: Callable[[Tensor, Tensor], Tensor] = unguided) -> Tensor:
        """Return the block's output; arguments as in `run_residual_block`."""
        raise NotImplementedError


def run_residual_block(
    block: Any, x: Tensor, guide: Callable[[Tensor, Tensor], Tensor] = unguided
) -> tuple[Tensor, Tensor]:
    """Run a residual block as a call of the block does, except that `guide` may change the shortcut.

    Args:
        block: A `BasicBlockD`, `BottleneckD` or `GuidedBlock`.
        x: (B, C, *spatial).
        guide: Function of the shortcut and of the output of the block's first convolution, before its normalisation;
            returns the tensor that is added to the block's other branch.

    Returns:
        The block's output and the input of the last convolution's normalisation. A block without normalisation and a
        `GuidedBlock` return the output twice.
    """
    if isinstance(block, GuidedBlock):
        x = block.run(x, guide)
        return x, x
    bottleneck = isinstance(block, BottleneckD)
    convolution, *others = block.conv1.all_modules
    shortcut = block.skip(x)
    x = convolution(x)
    shortcut = guide(shortcut, x)
    for module in others:
        x = module(x)
    if bottleneck:
        x = block.conv2(x)
    x, before_norm = _run_convolution(block.conv3 if bottleneck else block.conv2, x)
    if block.apply_stochastic_depth:
        x = block.drop_path(x)
    if block.apply_se:
        x = block.squeeze_excitation(x)
    x += shortcut
    x = (block.nonlin3 if bottleneck else block.nonlin2)(x)
    return x, x if before_norm is None else before_norm


def _run_convolution(block: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    return run_modules(block.all_modules, getattr(block, "norm", None), x)
