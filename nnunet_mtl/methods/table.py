"""The table of all methods, as text and as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nnunet_mtl.errors import UserError
from nnunet_mtl.methods.catalogue import Method, methods
from nnunet_mtl.methods.cost import Cost, Passes, added_by_multi_nets, cost_of, num_parameters, stock_network
from nnunet_mtl.methods.setting import Setting

_HEAD = ("trainer", "paper", "the task enters", "passes for K tasks", "added parameters", "of them in the head")
MULTI_NETS = "Multi-Nets"


@dataclass(frozen=True)
class MethodTable:
    """Every method in one setting.

    Attributes:
        setting: The stock network and the tasks.
        stock: Number of parameters of the stock network, with a channel per region.
        multi_nets: Parameters that a stock network for every task has more.
        rows: Every method and what it costs, or why its trainer refuses the plans.
    """

    setting: Setting
    stock: int
    multi_nets: int
    rows: tuple[tuple[Method, Cost | str], ...]

    def text(self) -> str:
        """Return the table, what was refused, and a last line that says what everything is compared with."""
        tasks = self._num_tasks
        nets = (f"{MULTI_NETS} (extract)", "control", "nowhere", Passes(tasks, tasks, tasks).text(tasks))
        lines = [_HEAD, *map(self._line, self.rows), (*nets, change(self.multi_nets, self.stock), "")]
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
            "stock_parameters": self.stock,
            "multi_nets_added": self.multi_nets,
            "methods": [_record(method, cost, self.stock) for method, cost in self.rows],
        }

    @property
    def _num_tasks(self) -> int:
        return len(self.setting.tasks.tasks)

    def _line(self, row: tuple[Method, Cost | str]) -> tuple[str, ...]:
        method, cost = row
        if isinstance(cost, str):
            return (method.name, method.paper, "refused, see below", "", "", "")
        passes = cost.passes.text(self._num_tasks)
        added, of_head = change(cost.added, self.stock), f"{cost.added_by_head:+,}"
        return (method.name, method.paper, ", ".join(cost.enters) or "nowhere", passes, added, of_head)

    def _stock_line(self) -> str:
        size = " x ".join(map(str, self.setting.patch_size))
        return (
            f"stock: {self.setting.title}, {self.stock:,} parameters, patch {size}; "
            f"K = {self._num_tasks} tasks, {len(self.setting.tasks.regions)} regions"
        )


def change(added: int, stock: int) -> str:
    """Return what is added to the parameters of a stock network, absolute and in per cent."""
    share = round(100 * added / stock, 2)
    return f"{added:+,} ({share:+.2f} %)" if share else f"{added:+,} (0.00 %)"


def method_table(setting: Setting) -> MethodTable:
    """Compute the table of a setting; a trainer that refuses it has its reason in the place of a cost."""
    rows: list[tuple[Method, Cost | str]] = []
    for method in methods():
        try:
            rows.append((method, cost_of(method.trainer, setting)))
        except UserError as error:
            rows.append((method, str(error)))
    with torch.device("meta"):
        stock = num_parameters(stock_network(setting))
    return MethodTable(setting, stock, added_by_multi_nets(setting), tuple(rows))


def _record(method: Method, cost: Cost | str, stock: int) -> dict[str, Any]:
    what = {"trainer": method.name, "title": method.title, "paper": method.paper, "source": method.source}
    if isinstance(cost, str):
        return what | {"refused": cost}
    return what | asdict(cost) | {"passes": cost.passes._asdict(), "added_share": cost.added / stock}


def _aligned(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column >= len(_HEAD) - 2 else text.ljust(width)
