"""Encoder and decoder from another training: `nnUNetv2_train -pretrained_weights`.

nnU-Net's own function asks that every tensor but those of the segmentation layers has its counterpart in the
checkpoint. A network of this package has parts that no stock checkpoint knows, and that other tasks do not fit.
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
    """A checkpoint has no weights that a network could start from."""


def await_pretrained_weights(trainer: Any) -> UntilCalled:
    """Let what nnU-Net calls to load pretrained weights take over what fits, if the weights are for this trainer.

    Args:
        trainer: Of this package, initialised; not kept alive by this.

    Returns:
        What stands for nnU-Net's function until the function is called or put back.
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
    """Copy encoder and decoder from a checkpoint as far as names and shapes fit; the rest keeps its initial values.

    Segmentation layers, gates, heads and all else that belongs to a method or to its tasks is never copied. Where a
    network has a decoder for every task, all of these start from the checkpoint's one.

    Args:
        network: Without the wrappers of DistributedDataParallel and torch.compile; changed in place.
        path: Checkpoint of nnU-Net or of this package; nothing in it is executed.

    Returns:
        How many tensors of which part came from the checkpoint, and which parts are fresh.

    Raises:
        ModelFolderError: If the checkpoint cannot be read.
        PretrainedWeightsError: If nothing of the encoder fits, without which a decoder is of no use.
    """
    weights = read_weights(path)
    for prefix in _WRAPPERS:
        consume_prefix_in_state_dict_if_present(weights, prefix)
    own = {name: tensor for name, tensor in network.state_dict().items() if _is_shared(name)}
    there = {name: weights[source] for name in own if (source := _OTHER_DECODER.sub("decoder.", name)) in weights}
    fitting = {name: tensor for name, tensor in there.items() if tensor.shape == own[name].shape}
    # biases and norms fit by their width alone: those of a 2D network do in a 3D one
    if not any(name.startswith("encoder.") and tensor.ndim > 1 for name, tensor in fitting.items()):
        raise PretrainedWeightsError(
            f"{path}: nothing of its encoder fits this network by name and shape ({_first_difference(own, there)}); "
            "train with plans of the checkpoint's network (nnUNetv2_move_plans_between_datasets), or without "
            "-pretrained_weights"
        )
    network.load_state_dict(fitting, strict=False)
    return f"pretrained weights {path}: {_account(network, fitting)}"


def _is_shared(name: str) -> bool:
    return _SEGMENTATION_LAYERS not in name and bool(name.startswith(_SHARED) or _OTHER_DECODER.match(name))


def _first_difference(own: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> str:
    name = next((name for name in own if name.startswith("encoder.")), "encoder")
    if name not in there:
        return f"it has no {name}"
    return f"{name} has the shape {tuple(there[name].shape)} there and {tuple(own[name].shape)} here"


def _account(network: nn.Module, loaded: Mapping[str, Tensor]) -> str:
    """Count tensors by part; nnU-Net's modules list a tensor under several names, of which one is counted."""
    names: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    there: Counter[str] = Counter()
    came: Counter[str] = Counter()
    for first, *others in names.values():
        there[_part(first)] += 1
        came[_part(first)] += any(name in loaded for name in (first, *others))
    taken = [f"{part} {came[part]} of {count}" for part, count in there.items() if came[part]]
    fresh = [f"{part} {count - came[part]}" for part, count in there.items() if count > came[part]]
    return f"taken {', '.join(taken)} tensors; fresh {', '.join(fresh) or 'nothing'}"


def _part(name: str) -> str:
    name = re.sub(r"^decoder\.encoder\.", "encoder.", name)
    return "segmentation layers" if _SEGMENTATION_LAYERS in name else name.split(".")[0]
