"""What every method costs against stock nnU-Net: FLOPs, a training step, and what is kept for the backward pass.

python benchmarks/methods.py                  measures every method
python benchmarks/methods.py --only NAME ...  measures these trainers and keeps the other rows
python benchmarks/methods.py --tables         measures nothing

Each writes benchmarks/results/methods.json, the two tables of docs/methods/README.md, and in the pages of docs/methods
the number of parameters behind the name of a trainer.

A network of four stages with 16, 32, 64, 128 channels, patches of 32 x 32 x 32 voxels, two in a batch, each annotated
for one of seven tasks; deep supervision, float32, one core. FLOPs are those of `torch.utils.flop_counter`
(convolutions and matrix products) for one patch in training. Seconds are CPU seconds of this process, the least of the
repeats: a machine that is busy with something else makes them longer. So a row has its load and commit, and the seconds
of the stock network in the same run. Bytes are the storages that autograd keeps after the forward pass and the loss,
each counted once, weights included.

Where the task enters, passes, FLOPs of all tasks and parameters are those of `nnunet_mtl methods`, of nnU-Net's default
3D network.
"""

import argparse
import copy
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_mtl.lab.methods.catalogue import Method, package_methods, package_trainers
from nnunet_mtl.lab.methods.cost import Passes, architecture_of, build, stock_network
from nnunet_mtl.lab.methods.setting import Setting, default_setting
from nnunet_mtl.lab.methods.table import MULTI_NETS, change, method_table, ratio
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.training.composition import chosen_loss
from nnunet_mtl.training.scheduled_trainer import settings_in
from nnunet_mtl.training.segmentation_loss import RegionCriterion, segmentation_loss

FEATURES = (16, 32, 64, 128)
PATCH = (32, 32, 32)
BATCH = 2
STAGES = range(len(FEATURES) - 1)  # whose outputs nnU-Net supervises
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "methods.json"
PAGES = ROOT / "docs" / "methods"
STOCK = "stock"
COST_HEAD = (
    "trainer",
    "the task enters",
    "passes for K tasks",
    "FLOPs, K tasks",
    "added parameters",
    "FLOPs, one task",
    "training step",
    "memory",
)
INDEX_HEAD = ("method", "what it is", "paper", "page")


def main() -> None:
    """Measure what was asked for, write the results and the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="trainers to be measured")
    parser.add_argument("--tables", action="store_true", help="only write the tables of what was measured before")
    parser.add_argument("--repeats", type=int, default=3, help="training steps, of which the fastest counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = {method.name: method for method in package_methods()}
    strange = set(arguments.only or ()) - {*known, STOCK, MULTI_NETS}
    if strange:
        parser.error(f"no method {min(strange)}; known are {', '.join(known)}")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    if not arguments.tables:
        results = updated(results, arguments.only or [STOCK, MULTI_NETS, *known], known, arguments.repeats)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for path in PAGES.glob("*.md"):
        path.write_text(written(path, results), encoding="utf-8")


def updated(
    before: Mapping[str, Any], names: Sequence[str], known: Mapping[str, Method], repeats: int
) -> dict[str, Any]:
    """Return the results with the rows of some methods measured anew, and without those of methods that are gone."""
    table = method_table(default_setting(), [known[name] for name in names if name in known]).content()
    rows = {row["trainer"]: row for row in (*before["computed"]["methods"], *table["methods"])}
    measured = {**before["measured"], **measure(names, known, repeats)}
    return {
        "features": list(FEATURES),
        "patch": list(PATCH),
        "batch": BATCH,
        "measured": {name: measured[name] for name in (STOCK, MULTI_NETS, *known) if name in measured},
        "computed": {**table, "methods": [rows[name] for name in known if name in rows]},
    }


def measure(names: Sequence[str], known: Mapping[str, Method], repeats: int) -> dict[str, Any]:
    """Return the measurements of some methods by name, beside the step of the stock network in the same run."""
    setting = small_setting()
    alone = of_first_task(setting)
    run = {
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "device": f"{platform.machine()}, one of {os.cpu_count()} CPU cores, others busy",
        "load": [round(value, 1) for value in os.getloadavg()],
        "torch": torch.__version__,
    }
    stock = measured(lambda: stock_network(setting), setting, stock_loss(), repeats)
    run["stock_step_seconds"] = stock["step_seconds"]
    rows: dict[str, Any] = {}
    for name in names:
        if name == STOCK:
            row = stock
        elif name == MULTI_NETS:
            row = measured(lambda: stock_network(alone), alone, stock_loss(), repeats)
        else:
            row = measured_method(known[name], setting, repeats)
        rows[name] = run | row
        print(name, row, flush=True)
    return rows


def measured_method(method: Method, setting: Setting, repeats: int) -> dict[str, Any]:
    """Return FLOPs, seconds and bytes of a method with the loss that its trainer builds."""
    outputs = [*method.trainer.family.outputs]
    stages = [output.stage for output in outputs] or STAGES
    mode = chosen_loss(method.trainer, settings_in({}, method.trainer.defaults))
    loss = masked_loss(mode, setting, [output.weight for output in outputs] or scale_weights())
    make = partial(build, architecture_of(method.trainer, setting), setting)
    return measured(make, setting, loss, repeats, stages)


def small_setting() -> Setting:
    """Return the default setting with a small network and patch."""
    setting = default_setting()
    architecture = copy.deepcopy(dict(setting.architecture))
    stages = len(FEATURES)
    for name, value in architecture["arch_kwargs"].items():
        if isinstance(value, list):
            architecture["arch_kwargs"][name] = value[: stages - (name == "n_conv_per_stage_decoder")]
    architecture["arch_kwargs"].update(n_stages=stages, features_per_stage=list(FEATURES))
    return replace(setting, architecture=architecture, patch_size=PATCH)


def masked_loss(mode: Any, setting: Setting, weights: Sequence[float]) -> Callable[..., Tensor]:
    """Return a method's loss as its trainer builds it, given the weights of its outputs."""
    layout = Layout.from_tasks(setting.tasks)
    loss = segmentation_loss(mode, layout, batch_dice=False, use_ignore_label=False, dice_weight=1.0, bce_weight=1.0)
    return RegionCriterion(DeepSupervisionWrapper(loss, tuple(weights)))


def stock_loss() -> Callable[..., Tensor]:
    """Return nnU-Net's own loss of regions, to which what was not annotated is background."""
    options = {"batch_dice": False, "do_bg": True, "smooth": 1e-5, "ddp": False}
    loss = DeepSupervisionWrapper(DC_and_BCE_loss({}, options, dice_class=MemoryEfficientSoftDiceLoss), scale_weights())
    return lambda segmentation, target, _: loss(segmentation, target)


def scale_weights() -> list[float]:
    """Return nnU-Net's weights of deep supervision: halved at every scale, none for the lowest."""
    weights = [0.5**scale for scale in range(len(FEATURES) - 2)] + [0.0]
    return [weight / sum(weights) for weight in weights]


def measured(
    make: Callable[[], nn.Module],
    setting: Setting,
    loss: Callable[..., Tensor],
    repeats: int,
    stages: Sequence[int] = STAGES,
) -> dict[str, Any]:
    """Return FLOPs, seconds and bytes of one network, given the stages whose size its outputs have."""
    torch.manual_seed(0)
    network: Any = make()
    network.decoder.deep_supervision = True
    ours = hasattr(network, "one_task_per_sample")
    owners = torch.tensor(setting.tasks.task_of_region)
    task = torch.arange(BATCH)
    annotated = owners == task[:, None]
    image = torch.randn(BATCH, 1, *PATCH)
    regions = len(setting.tasks.regions)
    scales = [[edge // 2**stage for edge in PATCH] for stage in stages]
    target = [torch.rand(BATCH, regions, *scale) > 0.7 for scale in scales]

    def forward(of: slice = slice(None)) -> Any:
        return network(image[of], task=task[of], full_output=True).segmentation if ours else network(image[of])

    def total() -> Tensor:
        return loss(forward(), [scale.float() for scale in target] if not ours else target, annotated)

    one_task = flops(lambda: forward(slice(0, 1)))
    kept = saved_bytes(total)
    return {"flops_one_task": one_task, "step_seconds": step_seconds(network, total, repeats), "saved_bytes": kept}


def of_first_task(setting: Setting) -> Setting:
    """Return the setting of one of Multi-Nets' networks."""
    tasks = setting.tasks
    (first, *_), names = tasks.tasks, ("regions", "region_labels", "regions_class_order")
    chosen = [tasks.regions.index(region) for region in first.regions]
    only: dict[str, Any] = {name: tuple(getattr(tasks, name)[index] for index in chosen) for name in names}
    return replace(setting, tasks=replace(tasks, tasks=(first,), **only))


def flops(run: Callable[[], Any]) -> int:
    """Return the floating-point operations of a call."""
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return int(counter.get_total_flops())


def step_seconds(network: nn.Module, total: Callable[[], Tensor], repeats: int) -> float:
    """Return the CPU seconds of the fastest of some optimiser steps, after one that is not counted."""
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True)
    best = float("inf")
    for step in range(repeats + 1):
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        total().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        best = min(best, time.process_time() - start) if step else best
    return round(best, 4)


def saved_bytes(run: Callable[[], object]) -> int:
    """Return the bytes that autograd keeps for the backward pass, every storage counted once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(storages.values())


def written(path: Path, results: Mapping[str, Any]) -> str:
    """Return a page of docs/methods with the generated tables and numbers of parameters of today."""
    text = path.read_text(encoding="utf-8")
    if path.name == "README.md":
        return with_table(with_table(text, COST_HEAD, cost_table(results)), INDEX_HEAD, index_table())
    stock = results["computed"]["stock_parameters"]
    for row in results["computed"]["methods"]:
        stated = re.compile(rf"(`{row['trainer']}`[: |]+)[+-][\d,]+ \(\S+ %\)")
        text = stated.sub(rf"\g<1>{change(row['added'], stock)}", text)
    return text


def cost_table(results: Mapping[str, Any]) -> str:
    """Return the table of costs in docs/methods/README.md, a line for stock nnU-Net first."""
    computed, stock = results["computed"], results["measured"][STOCK]
    tasks, parameters = computed["tasks"], computed["stock_parameters"]
    lines = [
        (STOCK, "", "1", f"{computed['stock_flops'] / 1e9:.1f} G", f"{parameters:,} in all", *_absolute(stock)),
        (
            MULTI_NETS,
            "nowhere",
            "K",
            ratio(computed["multi_nets_flops"], computed["stock_flops"]),
            change(computed["multi_nets_added"], parameters),
            *_ratios(results, MULTI_NETS),
        ),
    ]
    for row in computed["methods"]:
        where = ", ".join(row["enters"]) or "nowhere"
        passes = Passes(**row["passes"]).text(tasks)
        name = row["trainer"]
        of_all, added = ratio(row["flops"], computed["stock_flops"]), change(row["added"], parameters)
        lines.append((f"`{name}`", where, passes, of_all, added, *_ratios(results, name)))
    return _table(COST_HEAD, ["---"] * 3 + ["---:"] * 5, lines)


def index_table() -> str:
    """Return the index in docs/methods/README.md: every trainer with its page, then the pages about no trainer."""
    page_of, rest = {}, []
    for path in sorted(PAGES.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        name, _, meaning = text.splitlines()[0].removeprefix("# ").partition(": ")
        # a page is about the trainers whose parameters it states
        stated = re.findall(r"`(nnUNetTrainer\w+)`[: |]+[+-]", text)
        page_of.update(dict.fromkeys(stated, f"[{name}]({path.name})"))
        if not stated and path.name != "README.md":
            rest.append(("", meaning, "", f"[{name}]({path.name})"))
    lines = [(f"`{leaf.name}`", leaf.title, leaf.paper, page_of.get(leaf.name, "")) for leaf in package_trainers()]
    return _table(INDEX_HEAD, ["---"] * len(INDEX_HEAD), [*lines, *rest])


def with_table(page: str, head: Sequence[str], table: str) -> str:
    """Return a page with the table replaced that begins with these columns."""
    found = re.compile(rf"^\| {re.escape(' | '.join(head))} \|.*?(?=\n\n)", flags=re.DOTALL | re.MULTILINE)
    if not found.search(page):
        raise SystemExit(f"{PAGES / 'README.md'} has no table that begins with the columns {', '.join(head)}")
    return found.sub(lambda _: table, page, count=1)


def _table(head: Sequence[str], rule: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def _absolute(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['flops_one_task'] / 1e9:.2f} G",
        f"{row['step_seconds']:.2f} s",
        f"{row['saved_bytes'] / 1e6:.0f} MB",
    )


def _ratios(results: Mapping[str, Any], name: str) -> tuple[str, ...]:
    row = results["measured"][name]
    stock = {**results["measured"][STOCK], "step_seconds": row["stock_step_seconds"]}
    return tuple(f"{row[key] / stock[key]:.2f}" for key in ("flops_one_task", "step_seconds", "saved_bytes"))


if __name__ == "__main__":
    main()
