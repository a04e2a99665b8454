"""Tensors before a normalisation: the only ones whose spatial mean says something about the image.

InstanceNorm gives every channel the same mean and variance in every image, so what is pooled behind it is nearly
constant. Autograd keeps the input of a normalisation for its backward pass: pooling there costs no memory.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from torch import Tensor, nn


def run_encoder(encoder: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Run an encoder exactly as calling it does, and return what each stage's last normalisation read too.

    Args:
        encoder: A plain or residual encoder that returns its skips.
        x: Image, (B, C, *spatial).

    Returns:
        The output of every stage and the input of its last normalisation, full resolution first. In a residual stage
        the latter is that of the last block's last convolution, before the shortcut is added.
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
    """Run a stage of an encoder or decoder exactly as calling it does, and return what its last normalisation read too.

    Args:
        stage: Convolution or residual blocks, after a pooling or not.
        x: (B, C, *spatial).

    Returns:
        The stage's output and the input of its last normalisation, both (B, C', *spatial). In blocks that activate
        before they normalise the latter is activated; without a normalisation it is the output itself.
    """
    pooling, blocks = stage_blocks(stage)
    return run_blocks([*pooling, *blocks], x)


def run_blocks(blocks: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    """Run some blocks of a stage, at least one, and return the same of them as `run_stage` does of all."""
    *first, last = blocks
    for module in first:
        x = module(x)
    if is_residual(last):
        return run_residual_block(last, x)
    x, before_norm = _run_convolution(last, x)
    return x, x if before_norm is None else before_norm


def stage_blocks(stage: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return what a stage pools with, if it does, and its convolution or residual blocks, in their order."""
    *pooling, last = stage if isinstance(stage, nn.Sequential) else (stage,)
    return pooling, list(cast(Any, last.blocks if hasattr(last, "blocks") else last.convs))


def is_residual(block: nn.Module) -> bool:
    """Return whether `run_residual_block` runs a block."""
    return isinstance(block, BasicBlockD | BottleneckD | GuidedBlock)


def run_modules(modules: Iterable[nn.Module], norm: nn.Module | None, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Run modules one after the other, and return what one of them, a normalisation, read too; None without one."""
    before_norm: Tensor | None = None
    for module in modules:
        if module is norm:
            before_norm = x
        x = module(x)
    return x, before_norm


def unguided(shortcut: Tensor, first: Tensor) -> Tensor:
    """Return the shortcut as it is, as in a stock block."""
    return shortcut


class GuidedBlock(nn.Module):
    """A residual block of this package, which normalises before it convolves and so returns what nothing normalised.

    Args:
        output_channels: Of its first convolution and of its output.
    """

    def __init__(self, output_channels: int) -> None:
        super().__init__()
        self.output_channels = output_channels

    def run(self, x: Tensor, guide: Callable[[Tensor, Tensor], Tensor] = unguided) -> Tensor:
        """Return the block's output; arguments as of `run_residual_block`."""
        raise NotImplementedError


def run_residual_block(
    block: Any, x: Tensor, guide: Callable[[Tensor, Tensor], Tensor] = unguided
) -> tuple[Tensor, Tensor]:
    """Run a residual block as calling it does, but for what becomes of its shortcut.

    Args:
        block: A `BasicBlockD`, `BottleneckD` or `GuidedBlock`.
        x: (B, C, *spatial).
        guide: Given the shortcut and the output of the block's first convolution, which nothing has changed yet;
            returns what is added to the block's other branch.

    Returns:
        The block's output and the input of its last normalisation, that of the last convolution; without one, and
        of a `GuidedBlock`, the output twice.
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
