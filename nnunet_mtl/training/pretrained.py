"""Takes encoder and decoder from another training: `nnUNetv2_train -pretrained_weights`.

nnU-Net's own function requires that the checkpoint holds every tensor except those of the segmentation layers. A
network of this package has parts that a stock checkpoint lacks, or that have other shapes for other tasks.
"""

import re
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nnunetv2.run.run_training as run_training
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.swapped_names import UntilCalled
from nnunet_mtl.inference.model_folder import read_weights

_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile, in this order
_SHARED = ("encoder.", "decoder.")
_OTHER_DECODER = re.compile(r"^decoders\.others\.\d+\.")
_SEGMENTATION_LAYERS = ".seg_layers."


class PretrainedWeightsError(UserError):
    """No weight of a checkpoint's encoder fits the network."""


def await_pretrained_weights(trainer: Any) -> UntilCalled:
    """Replace nnU-Net's loader of pretrained weights by one that copies what fits into the network of this trainer.

    Args:
        trainer: An initialised `MultiTaskTrainer`; referenced weakly, so that it can be freed.

    Returns:
        The replacement, which lasts until it is called or put back.
    """
    known = weakref.ref(trainer)

    def load(theirs: Callable[..., None], network: nn.Module, fname: str, verbose: bool = False) -> None:
        ours = known()
        if ours is None or network is not ours.network:
            theirs(network, fname, verbose)
        else:
            ours.print_to_log_file(f"nnunet_mtl: {load_what_fits(ours.bare_network, Path(fname))}")

    return UntilCalled(run_training, "load_pretrained_weights", load)


def load_what_fits(network: nn.Module, path: Path) -> str:
    """Copy encoder and decoder tensors from a checkpoint if name and shape fit; other tensors stay as they are.

    Segmentation layers, gates, heads and other parts of a method or its tasks are never copied. If the network has one
    decoder per task, the checkpoint's decoder is copied into every one.

    Args:
        network: The network without the wrappers of DistributedDataParallel and torch.compile; changed in place.
        path: Checkpoint of nnU-Net or of this package; no code in it is executed.

    Returns:
        A line for the log: numbers of copied and fresh tensors by part of the network.

    Raises:
        ModelFolderError: If the checkpoint cannot be read.
        PretrainedWeightsError: If no tensor of the encoder fits, because a decoder alone is of no use.
    """
    weights = read_weights(path)
    for prefix in _WRAPPERS:
        consume_prefix_in_state_dict_if_present(weights, prefix)
    parts = {name: tensor for name, tensor in network.state_dict().items() if _is_shared(name)}
    offered = {name: weights[source] for name in parts if (source := _OTHER_DECODER.sub("decoder.", name)) in weights}
    fitting = {name: tensor for name, tensor in offered.items() if tensor.shape == parts[name].shape}
    # biases and norms fit by their width alone: those of a 2D network fit a 3D one
    if not any(name.startswith("encoder.") and tensor.ndim > 1 for name, tensor in fitting.items()):
        difference = _first_difference(parts, offered)
        raise PretrainedWeightsError(
            f"{path}: nothing of its encoder fits this network by name and shape ({difference}); "
            "train with plans of the checkpoint's network (nnUNetv2_move_plans_between_datasets), or without "
            "-pretrained_weights"
        )
    network.load_state_dict(fitting, strict=False)
    return f"pretrained weights {path}: {_account(network, fitting)}"


def _is_shared(name: str) -> bool:
    return _SEGMENTATION_LAYERS not in name and bool(name.startswith(_SHARED) or _OTHER_DECODER.match(name))


def _first_difference(parts: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> str:
    name = next((name for name in parts if name.startswith("encoder.")), "encoder")
    if name not in offered:
        return f"it has no {name}"
    return f"{name} has the shape {tuple(offered[name].shape)} there and {tuple(parts[name].shape)} here"


def _account(network: nn.Module, loaded: Mapping[str, Tensor]) -> str:
    """Count copied and fresh tensors by part; a tensor that nnU-Net's modules list under several names counts once."""
    names: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    total: Counter[str] = Counter()
    loaded_of: Counter[str] = Counter()
    for first, *others in names.values():
        total[_part(first)] += 1
        loaded_of[_part(first)] += any(name in loaded for name in (first, *others))
    taken = [f"{part} {loaded_of[part]} of {count}" for part, count in total.items() if loaded_of[part]]
    fresh = [f"{part} {count - loaded_of[part]}" for part, count in total.items() if count > loaded_of[part]]
    return f"taken {', '.join(taken)} tensors; fresh {', '.join(fresh) or 'nothing'}"


def _part(name: str) -> str:
    name = re.sub(r"^decoder\.encoder\.", "encoder.", name)
    return "segmentation layers" if _SEGMENTATION_LAYERS in name else name.split(".")[0]
