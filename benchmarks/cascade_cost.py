"""What a cascade of networks costs, and the one network it is replaced by: parameters, FLOPs of a tile, tiles.

The model cascade and OM-Net: Zhou, Ding, Wang, Lu, Tao, IEEE TIP 2020.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

from nnunet_mtl.datasets.per_task.extracted_labels import TaskLabels
from nnunet_mtl.lab.methods.cost import NetworkCost, architecture_of, build, network_cost, stock_network
from nnunet_mtl.lab.methods.setting import Setting
from nnunet_mtl.training.trainer import MultiTaskTrainer


@dataclass(frozen=True)
class CascadeCost:
    """Of a stock network per task, and of one network for all.

    Attributes:
        networks: By task, in their order; each as it is trained on a stock extract.
        together: The one network, all tasks in one pass.
        parents: Of the tasks; None for the whole image.
    """

    networks: dict[str, NetworkCost]
    together: NetworkCost
    parents: dict[str, str | None]

    @property
    def parameters(self) -> int:
        """Of all networks of the cascade."""
        return sum(network.parameters for network in self.networks.values())

    def flops(self, tiles: dict[str, int]) -> int:
        """Return the operations of the cascade for an image.

        Args:
            tiles: Of each task's network: it looks at the box around the parent alone, see `tiles_of`.
        """
        return sum(network.tile_flops * tiles[task] for task, network in self.networks.items())

    def table(self) -> str:
        """Return a line per network and sums, in Markdown."""
        lines = ["| network | parameters | FLOPs of a tile |", "| --- | ---: | ---: |"]
        for task, network in self.networks.items():
            where = f"{task}, inside {self.parents[task]}" if self.parents[task] else f"{task}, whole image"
            lines.append(_line(where, network))
        every = NetworkCost(self.parameters, sum(network.tile_flops for network in self.networks.values()))
        lines.append(_line(f"cascade of {len(self.networks)}, a tile each", every))
        return "\n".join([*lines, _line("one network, one pass", self.together)])


def cascade_cost(trainer: type[MultiTaskTrainer], setting: Setting) -> CascadeCost:
    """Count a cascade of stock networks on some plans, and a trainer's one network for the same tasks.

    Args:
        trainer: Such as OM-Net's.
        setting: Plans, and tasks with `parent`.

    Raises:
        UserError: If the trainer refuses the plans, or a settings value.
    """
    tasks = setting.tasks
    with torch.device("meta"):
        stock = {task.name: stock_network(setting, _channels(setting, task.name)) for task in tasks.tasks}
        one = build(architecture_of(trainer, setting), setting)
    networks = {name: network_cost(network, setting) for name, network in stock.items()}
    return CascadeCost(networks, network_cost(one, setting), {task.name: task.parent for task in tasks.tasks})


def tiles_of(shape: Sequence[int], patch_size: Sequence[int], step_size: float = 0.5) -> int:
    """Return how many tiles nnU-Net's sliding window has in an image.

    Args:
        shape: In voxels of the plans' spacing, in their axis order.
        patch_size: In voxels; one axis fewer for 2D plans, which take every slice by itself.
        step_size: In patches.
    """
    slices, plane = shape[: len(shape) - len(patch_size)], shape[len(shape) - len(patch_size) :]
    # nnU-Net fills up what is smaller than a patch
    padded = tuple(max(size, patch) for size, patch in zip(plane, patch_size, strict=True))
    steps = compute_steps_for_sliding_window(padded, tuple(patch_size), step_size)
    return prod(slices) * prod(len(of_axis) for of_axis in steps)


def _channels(setting: Setting, task: str) -> int:
    """Return the output channels of a stock network of one task: its regions, or background and a label."""
    labels = TaskLabels.of_tasks(setting.tasks, [task])
    return len(labels.regions) + (labels.order is None)


def _line(name: str, cost: NetworkCost) -> str:
    return f"| {name} | {cost.parameters / 1e6:.2f} M | {cost.tile_flops / 1e9:.1f} G |"
