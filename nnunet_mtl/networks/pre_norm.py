"""Tensors before a normalisation: the only ones whose spatial mean says something about the image.

InstanceNorm gives every channel the same mean and variance in every image, so what is pooled behind it is nearly
constant. Autograd keeps the input of a normalisation for its backward pass: pooling there costs no memory.
"""

from typing import Any, cast

from dynamic_network_architectures.building_blocks.residual import BottleneckD, StackedResidualBlocks
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
    if isinstance(stage, nn.Sequential):
        *first, stage = stage
        for module in first:
            x = module(x)
    residual = isinstance(stage, StackedResidualBlocks)
    *first, last = cast(Any, stage).blocks if residual else cast(Any, stage).convs
    for block in first:
        x = block(x)
    x, before_norm = _run_residual_block(last, x) if residual else _run_convolution(last, x)
    return x, x if before_norm is None else before_norm


def _run_convolution(block: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    norm = getattr(block, "norm", None)
    before_norm: Tensor | None = None
    for module in block.all_modules:
        if module is norm:
            before_norm = x
        x = module(x)
    return x, before_norm


def _run_residual_block(block: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    bottleneck = isinstance(block, BottleneckD)
    shortcut = block.skip(x)
    x = block.conv1(x)
    if bottleneck:
        x = block.conv2(x)
    x, before_norm = _run_convolution(block.conv3 if bottleneck else block.conv2, x)
    if block.apply_stochastic_depth:
        x = block.drop_path(x)
    if block.apply_se:
        x = block.squeeze_excitation(x)
    x += shortcut
    return (block.nonlin3 if bottleneck else block.nonlin2)(x), before_norm
