"""How much of what ACSNet's gates hand on depends on their factor, in both orders and with the same weights.

Of every gate: its factor s over images; and the change of its output, as a share of that output, when s goes from 0.5
to 1.5 ("swing"), and when every image's own s takes the place of the mean over images ("images").

    python benchmarks/gate_unit.py --model FOLDER --patches FOLDER    a results folder of nnUNetTrainerACSNet, and that
                                                                      of the preprocessed configuration it was trained
                                                                      on; nnU-Net must find the trainer
    --untrained                                                       the same network as nnU-Net initialises it
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gates import load_network, preprocessed_patches
from torch import Tensor

from nnunet_mtl.networks.acsnet.gate_unit import GateAfterNorm, GateUnit

ORDERS = {"published": GateUnit, "after_norm": GateAfterNorm}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="results folder TRAINER__PLANS__CONFIGURATION")
    parser.add_argument("--patches", type=Path, required=True, help="folder of preprocessed cases to cut patches from")
    parser.add_argument("--fold", default="0", help="a number or all")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth", help="file name in the fold's folder")
    parser.add_argument("--untrained", action="store_true", help="initialise the network anew")
    parser.add_argument("--images", type=int, default=24, help="number of patches")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    network, patch_size = load_network(arguments.model, arguments.fold, arguments.checkpoint)
    if arguments.untrained:
        network.apply(_reset)
        network.apply(network.initialize)
    images = preprocessed_patches(
        arguments.patches, patch_size, arguments.images, np.random.default_rng(arguments.seed)
    )
    print(table(network.eval(), images))


@torch.inference_mode()
def table(network: Any, images: Tensor) -> str:
    """Return the factors and the changes of the output of every gate as text."""
    seen: list[tuple[GateUnit, Tensor]] = []
    for gate in network.encoder_attention:
        gate.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0].clone())))
    network(images)
    header = "".join(f"  {order + ' ' + what:>18}" for order in ORDERS for what in ("swing", "images"))
    lines = [f"channels  s mean  s std{header}"]
    for gate, feature in seen:
        s = gate.scalar(feature)
        changes = ""
        for order in ORDERS.values():
            half, whole, more, own, mean = (
                order.gated(gate, feature, factor)
                for factor in (
                    0.5 * torch.ones_like(s),
                    torch.ones_like(s),
                    1.5 * torch.ones_like(s),
                    s,
                    s.mean() + 0 * s,
                )
            )
            changes += f"  {_share(more - half, whole):18.4%}  {_share(own - mean, mean):18.4%}"
        lines.append(f"{feature.shape[1]:8}  {s.mean():6.3f}  {s.std():5.3f}{changes}")
    return "\n".join([*lines, f"({len(images)} patches; full resolution first)"])


def _share(change: Tensor, of: Tensor) -> float:
    return float(change.norm() / of.norm())


def _reset(module: Any) -> None:
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()


if __name__ == "__main__":
    main()
