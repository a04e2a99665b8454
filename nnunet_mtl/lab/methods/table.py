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
_NUMBERS = 3  # the last three columns are numbers
MULTI_NETS = "Multi-Nets"


@dataclass(frozen=True)
class MethodTable:
    """Every method in one setting.

    Attributes:
        setting: The stock network and the tasks.
        stock: Cost of the stock network, with a channel per region.
        multi_nets: Total cost of one stock network per task.
        rows: Every method with its cost, or with the reason why its trainer refuses the plans.
    """

    setting: Setting
    stock: NetworkCost
    multi_nets: NetworkCost
    rows: tuple[tuple[Method, Cost | str], ...]

    def text(self) -> str:
        """Return the table, the refused methods, and a last line that describes the stock network."""
        tasks, flops = self._num_tasks, ratio(self.multi_nets.tile_flops, self.stock.tile_flops)
        nets = (f"{MULTI_NETS} (extract)", "control", "nowhere", Passes(tasks, tasks, tasks).text(tasks), flops)
        lines = [_HEAD, *map(self._line, self.rows), (*nets, change(self.multi_nets_added, self.stock.parameters), "")]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = ["  ".join(map(_aligned, line, widths, range(len(line)))).rstrip() for line in lines]
        texts += [f"{method.name}: refused: {cost}" for method, cost in self.rows if isinstance(cost, str)]
        return "\n".join([*texts, self._stock_line()])

    def json(self) -> str:
        """Return the content of the table as JSON."""
        return json.dumps(self.content(), indent=1)

    def content(self) -> dict[str, Any]:
        """Return the content of the table as JSON-able values; `passes` are calls of encoder, decoder and head."""
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
        """Parameters of one stock network per task minus those of a single stock network."""
        return self.multi_nets.parameters - self.stock.parameters

    @property
    def _num_tasks(self) -> int:
        return len(self.setting.tasks.tasks)

    def _line(self, row: tuple[Method, Cost | str]) -> tuple[str, ...]:
        method, cost = row
        if isinstance(cost, str):
            return (method.name, method.paper, "refused, see below", "", "", "", "")
        passes, flops = cost.passes.text(self._num_tasks), ratio(cost.flops, self.stock.tile_flops)
        added, added_by_head = change(cost.added, self.stock.parameters), f"{cost.added_by_head:+,}"
        return (method.name, method.paper, ", ".join(cost.enters) or "nowhere", passes, flops, added, added_by_head)

    def _stock_line(self) -> str:
        size = " x ".join(map(str, self.setting.patch_size))
        return (
            f"stock: {self.setting.title}, {self.stock.parameters:,} parameters, patch {size}, "
            f"{self.stock.tile_flops / 1e9:.1f} GFLOPs, in which all FLOPs are counted; "
            f"K = {self._num_tasks} tasks, {len(self.setting.tasks.regions)} regions"
        )


def change(added: int, stock: int) -> str:
    """Return the number of added parameters as text, absolute and in per cent of the stock network's."""
    share = round(100 * added / stock, 2)
    return f"{added:+,} ({share:+.2f} %)" if share else f"{added:+,} (0.00 %)"


def ratio(flops: int, stock: int) -> str:
    """Return operations as text, relative to the operations of the stock network."""
    return f"{flops / stock:.3f}"


def method_table(setting: Setting, chosen: Iterable[Method] | None = None) -> MethodTable:
    """Compute the table of a setting; a trainer that refuses the setting has the reason in place of a cost.

    Args:
        setting: The stock network and the tasks.
        chosen: The methods; by default all methods that nnU-Net finds.
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
    record = {"trainer": method.name, "title": method.title, "paper": method.paper, "source": method.source}
    if isinstance(cost, str):
        return record | {"refused": cost}
    shares = {"added_share": cost.added / stock.parameters, "flops_ratio": cost.flops / stock.tile_flops}
    return record | asdict(cost) | {"passes": cost.passes._asdict()} | shares


def _aligned(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column >= len(_HEAD) - _NUMBERS else text.ljust(width)
