"""Parts that decide how many decoders a network has: one for all tasks, or one for every task."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunet_mtl.networks.unused_parameters import zero_of


class SharedDecoder(nn.Module):
    """The network's own decoder serves all tasks; the arguments are not used."""

    conditioned: ClassVar[bool] = False

    def __init__(self, decoder: nn.Module, num_tasks: int) -> None:
        super().__init__()


class TaskDecoders(nn.Module):
    """A decoder for every task; a sample passes only through the decoder of its own task.

    The first task uses the network's own decoder. The decoders of the other tasks start as nnU-Net initialises them.
    This is the Multi-Head network of TGNet's comparison, after Chen, Ma, Zheng, Med3D: transfer learning for 3D medical
    image analysis, 2019 (arXiv:1904.00625). It adds K - 1 times the weights of a decoder.

    Args:
        decoder: The network's own decoder.
        num_tasks: K.
    """

    conditioned: ClassVar[bool] = True

    def __init__(self, decoder: Any, num_tasks: int) -> None:
        super().__init__()
        # nnU-Net's decoder refers to the encoder, which must not be copied.
        memo = {id(decoder.encoder): None}
        self.others = nn.ModuleList(copy.deepcopy(decoder, dict(memo)) for _ in range(num_tasks - 1))

    def forward(self, run: Callable[..., Any], decoder: nn.Module, tensors: Any, task: Tensor) -> Any:
        """Run every sample through its task's decoder.

        Args:
            run: Function of a decoder, the tensors of some samples and the tasks of these samples; returns tensors, in
                tuples or lists.
            decoder: The network's own decoder.
            tensors: Tensors (B, ...) or None, in nested tuples and lists.
            task: Task index of every sample, (B,) long. The host reads it, because it decides which decoders run.

        Returns:
            The tensors that `run` returns, with the samples in the order of the batch.
        """
        decoders = (decoder, *self.others)
        indices: list[int] = task.tolist()
        present = sorted(set(indices))
        rows = [[row for row, index in enumerate(indices) if index == wanted] for wanted in present]
        groups = [torch.tensor(group, device=task.device) for group in rows]
        order = torch.tensor([row for group in rows for row in group], device=task.device).argsort()
        results = [
            run(decoders[index], _map(partial(_selected, group), tensors), task[group])
            for index, group in zip(present, groups, strict=True)
        ]
        unused = [decoders[index] for index in range(len(decoders)) if index not in present]
        return _map(partial(_joined, order, zero_of(unused)), *results)


def _selected(group: Tensor, tensor: Tensor) -> Tensor:
    return tensor.index_select(0, group)


def _joined(order: Tensor, zero: Tensor | float, *tensors: Tensor) -> Tensor:
    """Put the samples of all groups back in the batch's order."""
    return torch.cat(tensors).index_select(0, order) + zero


def _map(function: Callable[..., Tensor], *trees: Any) -> Any:
    """Apply a function to the tensors at the same place of several trees of tuples and lists."""
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(*trees)
    items = [_map(function, *parts) for parts in zip(*trees, strict=True)]
    return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
