"""Tensors before a normalisation: the only ones whose spatial mean says something about the image.

InstanceNorm gives every channel the same mean and variance in every image, so what is pooled behind it is nearly
constant. Autograd keeps the input of a normalisation for its backward pass: pooling there costs no memory.
"""

from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor


def run_stage(stage: StackedConvBlocks, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run a stage of convolution blocks exactly as calling it does, and return what its last normalisation read too.

    Args:
        stage: A stage of the decoder.
        x: (B, C, *spatial).

    Returns:
        The stage's output and the input of its last normalisation, both (B, C', *spatial). In blocks that activate
        before they normalise the latter is activated; without a normalisation it is the output itself.
    """
    for block in stage.convs[:-1]:
        x = block(x)
    last = stage.convs[-1]
    norm = getattr(last, "norm", None)
    before_norm: Tensor | None = None
    for module in last.all_modules:
        if module is norm:
            before_norm = x
        x = module(x)
    return x, x if before_norm is None else before_norm
