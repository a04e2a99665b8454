"""How many decoders there are: one for all tasks, or one for each."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunet_mtl.networks.unused_parameters import zero_of


class SharedDecoder(nn.Module):
    """The network's own decoder serves every task.

    Args:
        decoder: Not kept, like the other; here so that both are built alike.
        num_tasks: Not used.
    """

    conditioned: ClassVar[bool] = False

    def __init__(self, decoder: nn.Module, num_tasks: int) -> None:
        super().__init__()


class TaskDecoders(nn.Module):
    """A decoder for each task; a sample passes through that of its own task and no other sees it.

    The first task's is the network's own, the others start as nnU-Net initialises them. This is the Multi-Head network
    of TGNet's comparison, after Chen, Ma, Zheng, Med3D: transfer learning for 3D medical image analysis, 2019
    (arXiv:1904.00625). It adds K - 1 times the weights of a decoder.

    Args:
        decoder: The network's own.
        num_tasks: K.
    """

    conditioned: ClassVar[bool] = True

    def __init__(self, decoder: Any, num_tasks: int) -> None:
        super().__init__()
        # The stock decoder refers to the encoder, which is not to be copied.
        memo = {id(decoder.encoder): None}
        self.others = nn.ModuleList(copy.deepcopy(decoder, dict(memo)) for _ in range(num_tasks - 1))

    def forward(self, run: Callable[..., Any], decoder: nn.Module, tensors: Any, task: Tensor) -> Any:
        """Run every sample through its task's decoder.

        Args:
            run: Called with a decoder, the samples' tensors and their tasks; returns tensors, in tuples or lists.
            decoder: The network's own.
            tensors: Tensors (B, ...) in tuples, lists and None.
            task: (B,) long. Read on the host, for it decides what is run.

        Returns:
            What `run` returns, its samples in the order of the batch.
        """
        decoders = (decoder, *self.others)
        of_sample: list[int] = task.tolist()
        present = sorted(set(of_sample))
        rows = [[row for row, one in enumerate(of_sample) if one == index] for index in present]
        groups = [torch.tensor(of_task, device=task.device) for of_task in rows]
        order = torch.tensor([row for of_task in rows for row in of_task], device=task.device).argsort()
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
