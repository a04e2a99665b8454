"""The task in the encoder: a gate on the shortcut of one residual block of every stage, the last.

    u = f(x),    a = sigmoid(W [GAP(u) || e_t] + b),    R(x) = P(x) * a + f'(u)

f and f' are convolutions, P the shortcut, e_t the task's one-hot code. The gate stands on the shortcut, not on the
other branch, and pools u before anything has normalised it. In nnU-Net what f reads was normalised in the block before:
the mean of u does vary over images, but little. One guided block per stage is what the paper's number of parameters
suggests; that it is the last one is our choice.

Source: Wu, Pang, Sowmya, TGNet: a task-guided network architecture for multi-organ and tumour segmentation from
partially labelled datasets, ISBI 2022, task-guided residual block. Written from the paper. Its blocks normalise and
activate before they convolve, as the blocks of `nnunet_mtl.networks.dodnet.residual_unet` do; nnU-Net's blocks keep
their own order.
"""

import copy
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from nnunet_mtl.networks.normalised_feature import GlobalMean
from nnunet_mtl.networks.pre_norm import GuidedBlock, is_residual, run_modules, run_residual_block, stage_blocks
from nnunet_mtl.networks.tgnet.descriptor_gate import DescriptorGate


class TaskGuidedResidual(nn.Module):
    """Runs a stage of the encoder whose last residual block has a gate on its shortcut.

    It adds (C' + K) C + C parameters to a stage of C channels, C' those of u: C in a `BasicBlockD` and in the published
    blocks, the narrow ones in a `BottleneckD`.

    A plain stage has no residual blocks: its last two convolutions become one, the shortcut joins before their last
    activation. P is the identity if they change neither size nor channels. If they do, as in stages of two convolutions
    (nnU-Net's default), it is a convolution with kernel 1 and their stride and a normalisation like theirs, which adds
    C_in C + 2 C parameters. In a stage of one convolution that one is f, and f' what follows it.

    Args:
        stage: A stage of a plain, residual or published encoder; read, not kept.
        num_tasks: K.
    """

    conditioned: ClassVar[bool] = True

    def __init__(self, stage: nn.Module, num_tasks: int) -> None:
        super().__init__()
        _, guided = _split(stage)
        first = guided[0].conv1 if is_residual(guided[0]) and not isinstance(guided[0], GuidedBlock) else guided[0]
        channels = guided[-1].output_channels
        self.gate = DescriptorGate(GlobalMean(), first.output_channels, num_tasks, channels, "faithful")
        self.projection = nn.Identity() if is_residual(guided[0]) else _projection(guided)

    def run(self, stage: nn.Module, x: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """Run the stage.

        Args:
            stage: That of the constructor.
            x: (B, C_in, *spatial).
            task: Task index per sample, (B,) long.

        Returns:
            The stage's output and the input of its last normalisation, as `run_stage` does.
        """
        unguided, guided = _split(stage)
        for module in unguided:
            x = module(x)
        if is_residual(guided[0]):
            return run_residual_block(guided[0], x, partial(self._gated, task))
        return self._run_convolutions(guided, x, task)

    def _run_convolutions(self, blocks: list[Any], x: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        last = blocks[-1]
        convolution, *others = [module for block in blocks for module in block.all_modules]
        # Blocks that activate before they normalise have no activation to follow the sum.
        activated = bool(others) and others[-1] is getattr(last, "nonlin", None)
        activation: nn.Module = others.pop() if activated else nn.Identity()
        shortcut = self.projection(x)
        x = convolution(x)
        shortcut = self._gated(task, shortcut, x)
        x, before_norm = run_modules(others, getattr(last, "norm", None), x)
        x += shortcut
        x = activation(x)
        return x, x if before_norm is None else before_norm

    def _gated(self, task: Tensor, shortcut: Tensor, first: Tensor) -> Tensor:
        factors: Tensor = self.gate(first, task)
        return shortcut * factors.to(shortcut.dtype)


def _split(stage: nn.Module) -> tuple[list[nn.Module], list[Any]]:
    """Return what runs as ever, and the residual block or the convolution blocks, at most two, that are guided."""
    pooling, blocks = stage_blocks(stage)
    unguided = len(blocks) - 1 if is_residual(blocks[-1]) else max(len(blocks) - 2, 0)
    return [*pooling, *blocks[:unguided]], blocks[unguided:]


def _projection(blocks: list[Any]) -> nn.Module:
    """Return the shortcut over convolution blocks, of which only the first may have a stride."""
    first, last = blocks[0], blocks[-1]
    if first.input_channels == last.output_channels and all(step == 1 for step in first.stride):
        return nn.Identity()
    convolution = type(first.conv)(first.input_channels, last.output_channels, 1, first.stride, bias=False)
    return nn.Sequential(convolution, copy.deepcopy(last.norm) if hasattr(last, "norm") else nn.Identity())
