"""The table of all methods, as text and as JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.lab.methods.catalogue import Method, methods
from nnunet_mtl.lab.methods.cost import (
    Cost,
    NetworkCost,
    Passes,
    cost_of,
    multi_nets_cost,
    network_cost,
    stock_network,
)
from nnunet_mtl.lab.methods.setting import Setting

_HEAD = (
    "trainer",
    "paper",
    "the task enters",
    "passes for K tasks",
    "FLOPs for K tasks",
    "added parameters",
    "of them in the head",
)
_NUMBERS = 3  # columns, the last ones
MULTI_NETS = "Multi-Nets"


@dataclass(frozen=True)
class MethodTable:
    """Every method in one setting.

    Attributes:
        setting: The stock network and the tasks.
        stock: Of the stock network, with a channel per region.
        multi_nets: Of a stock network for every task, together.
        rows: Every method and what it costs, or why its trainer refuses the plans.
    """

    setting: Setting
    stock: NetworkCost
    multi_nets: NetworkCost
    rows: tuple[tuple[Method, Cost | str], ...]

    def text(self) -> str:
        """Return the table, what was refused, and a last line that says what everything is compared with."""
        tasks, flops = self._num_tasks, ratio(self.multi_nets.tile_flops, self.stock.tile_flops)
        nets = (f"{MULTI_NETS} (extract)", "control", "nowhere", Passes(tasks, tasks, tasks).text(tasks), flops)
        lines = [_HEAD, *map(self._line, self.rows), (*nets, change(self.multi_nets_added, self.stock.parameters), "")]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = ["  ".join(map(_aligned, line, widths, range(len(line)))).rstrip() for line in lines]
        texts += [f"{method.name}: refused: {cost}" for method, cost in self.rows if isinstance(cost, str)]
        return "\n".join([*texts, self._stock_line()])

    def json(self) -> str:
        """Return the same as JSON."""
        return json.dumps(self.content(), indent=1)

    def content(self) -> dict[str, Any]:
        """Return the same as values that JSON knows; `passes` are calls of encoder, decoder and head."""
        return {
            "network": self.setting.title,
            "patch_size": list(self.setting.patch_size),
            "tasks": self._num_tasks,
            "regions": len(self.setting.tasks.regions),
            "stock_parameters": self.stock.parameters,
            "stock_flops": self.stock.tile_flops,
            "multi_nets_added": self.multi_nets_added,
            "multi_nets_flops": self.multi_nets.tile_flops,
            "methods": [_record(method, cost, self.stock) for method, cost in self.rows],
        }

    @property
    def multi_nets_added(self) -> int:
        """Parameters that a stock network for every task has more than a single one."""
        return self.multi_nets.parameters - self.stock.parameters

    @property
    def _num_tasks(self) -> int:
        return len(self.setting.tasks.tasks)

    def _line(self, row: tuple[Method, Cost | str]) -> tuple[str, ...]:
        method, cost = row
        if isinstance(cost, str):
            return (method.name, method.paper, "refused, see below", "", "", "", "")
        passes, flops = cost.passes.text(self._num_tasks), ratio(cost.flops, self.stock.tile_flops)
        added, of_head = change(cost.added, self.stock.parameters), f"{cost.added_by_head:+,}"
        return (method.name, method.paper, ", ".join(cost.enters) or "nowhere", passes, flops, added, of_head)

    def _stock_line(self) -> str:
        size = " x ".join(map(str, self.setting.patch_size))
        return (
            f"stock: {self.setting.title}, {self.stock.parameters:,} parameters, patch {size}, "
            f"{self.stock.tile_flops / 1e9:.1f} GFLOPs, in which all FLOPs are counted; "
            f"K = {self._num_tasks} tasks, {len(self.setting.tasks.regions)} regions"
        )


def change(added: int, stock: int) -> str:
    """Return what is added to the parameters of a stock network, absolute and in per cent."""
    share = round(100 * added / stock, 2)
    return f"{added:+,} ({share:+.2f} %)" if share else f"{added:+,} (0.00 %)"


def ratio(flops: int, stock: int) -> str:
    """Return operations in those of the stock network."""
    return f"{flops / stock:.3f}"


def method_table(setting: Setting, chosen: Iterable[Method] | None = None) -> MethodTable:
    """Compute the table of a setting; a trainer that refuses the setting has its reason in the place of a cost.

    Args:
        setting: The stock network and the tasks.
        chosen: The methods; by default all that nnU-Net finds.
    """
    rows: list[tuple[Method, Cost | str]] = []
    for method in methods() if chosen is None else chosen:
        try:
            rows.append((method, cost_of(method.trainer, setting)))
        except UserError as error:
            rows.append((method, str(error)))
    with torch.device("meta"):
        stock = stock_network(setting)
    return MethodTable(setting, network_cost(stock, setting), multi_nets_cost(setting), tuple(rows))


def _record(method: Method, cost: Cost | str, stock: NetworkCost) -> dict[str, Any]:
    what = {"trainer": method.name, "title": method.title, "paper": method.paper, "source": method.source}
    if isinstance(cost, str):
        return what | {"refused": cost}
    shares = {"added_share": cost.added / stock.parameters, "flops_ratio": cost.flops / stock.tile_flops}
    return what | asdict(cost) | {"passes": cost.passes._asdict()} | shares


def _aligned(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column >= len(_HEAD) - _NUMBERS else text.ljust(width)
