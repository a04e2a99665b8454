"""Where the task enters a network, how often its parts run for K tasks, and what that costs in FLOPs and parameters.

Everything is computed: the parts of a network say whether they are conditioned, and calls and parameters are counted on
networks that are built as the trainers build them.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
import torchvision  # noqa: F401  its deformable convolution is an operator only after the import
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from nnunet_mtl.lab.methods.setting import Setting
from nnunet_mtl.networks.architecture import multitask_architecture
from nnunet_mtl.networks.insertion_points import table_of
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.multitask_network import MultiTaskNetwork
from nnunet_mtl.training.scheduled_trainer import settings_in
from nnunet_mtl.training.trainer import MultiTaskTrainer

_FEW_FEATURES = 8


class NetworkCost(NamedTuple):
    """Parameters and FLOPs of one network.

    Attributes:
        parameters: Number of parameters; shared parameters are counted once.
        tile_flops: Floating-point operations for all tasks of one patch: convolutions and matrix products, as PyTorch
            counts them.
    """

    parameters: int
    tile_flops: int


class Passes(NamedTuple):
    """How often the parts of a network run for all tasks of one patch."""

    encoder: int
    decoder: int
    head: int

    def text(self, num_tasks: int) -> str:
        """Return the passes in words, with K for the number of tasks; a number alone means whole passes."""
        whole, decoders, heads = ("K" if number == num_tasks > 1 else str(number) for number in self)
        if whole == decoders == heads:
            return whole
        if decoders == heads:
            return f"{whole} encoder, {decoders} decoder{_s(decoders)}"
        return f"{whole} encoder, {decoders} decoder{_s(decoders)}, {heads} head{_s(heads)}"


@dataclass(frozen=True)
class Cost:
    """The cost of a method in a setting.

    Attributes:
        enters: Places where the task enters the network, in the order of a pass; empty if there are none.
        passes: Passes for all tasks of one patch.
        flops: Floating-point operations for all tasks of one patch.
        parameters: Number of parameters of the network.
        added: `parameters` minus the parameters of the stock network.
        added_by_head: Parameters of the head and the last 1x1 convolutions minus those of the stock network; negative
            if tasks share output channels.
    """

    enters: tuple[str, ...]
    passes: Passes
    flops: int
    parameters: int
    added: int
    added_by_head: int


def cost_of(trainer: type[MultiTaskTrainer], setting: Setting) -> Cost:
    """Compute the cost of a trainer's network.

    Raises:
        UserError: If the trainer refuses the plans, or a settings value.
    """
    architecture = architecture_of(trainer, setting)
    with torch.device("meta"):
        network, stock = build(architecture, setting), stock_network(setting)
    head = _head_parameters(network) - _head_parameters(stock)
    total, flops = network_cost(network, setting)
    passes = count_passes(architecture, setting)
    return Cost(enters(network), passes, flops, total, total - num_parameters(stock), head)


def architecture_of(trainer: type[MultiTaskTrainer], setting: Setting) -> dict[str, Any]:
    """Return the plans' architecture block of a trainer's network."""
    settings = settings_in({"nnunet_mtl": dict(setting.block)}, trainer.defaults)
    return trainer.architecture(dict(setting.architecture), setting.patch_size, setting.tasks, settings)


def build(architecture: Mapping[str, Any], setting: Setting, num_classes: int | None = None) -> Any:
    """Build the network of an architecture block as nnU-Net does; without `num_classes`, with a channel per region.

    Deep supervision is off, but the network has its layers nevertheless.
    """
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        setting.input_channels,
        num_classes or len(setting.tasks.regions),
        deep_supervision=False,
    )


def stock_network(setting: Setting, num_classes: int | None = None) -> Any:
    """Build the stock network of a setting; without `num_classes`, with a channel per region.

    The network is nnU-Net's own. If the plans name a network of this package, that network is built without any part.
    """
    architecture = setting.architecture
    if architecture["network_class_name"].startswith("nnunet_mtl."):
        regions = range(num_classes or len(setting.tasks.regions))
        layout = Layout((0,) * len(regions), tuple(regions), tuple((region + 1,) for region in regions))
        architecture = multitask_architecture(architecture, layout=layout, patch_size=setting.patch_size, parts={})
    return build(architecture, setting, num_classes)


def num_parameters(network: nn.Module) -> int:
    """Return the number of parameters, each counted once."""
    return sum(parameter.numel() for parameter in network.parameters())


def network_cost(network: nn.Module, setting: Setting) -> NetworkCost:
    """Count the parameters of a network, and its operations for all tasks of a patch of the setting.

    No values are computed: tensors have shapes only, on whatever device the network was built.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: _deformable_flops})
    # Autocast does not know the device "meta", and the counter fails if an argument is a trainable parameter.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        tensors = (*network.named_parameters(), *network.named_buffers())
        state = {name: torch.empty_like(tensor, device="cpu", requires_grad=False) for name, tensor in tensors}
        image = torch.zeros(1, setting.input_channels, *setting.patch_size)
        with _KnownTask(), counter:
            # tie_weights=False: a module with several names would otherwise keep the tensors without values
            functional_call(network.eval(), state, (image,), tie_weights=False)
    return NetworkCost(num_parameters(network), int(counter.get_total_flops()))


def multi_nets_cost(setting: Setting) -> NetworkCost:
    """Return the total cost of one stock network per task, with the regions of the task as its channels."""
    with torch.device("meta"):
        networks = [stock_network(setting, len(task.regions)) for task in setting.tasks.tasks]
    costs = [network_cost(network, setting) for network in networks]
    return NetworkCost(sum(cost.parameters for cost in costs), sum(cost.tile_flops for cost in costs))


def enters(network: MultiTaskNetwork) -> tuple[str, ...]:
    """Return the places where the task enters a network (those of conditioned parts), in the order of a pass."""
    places = [row.place for point, row in table_of(network.parts_class).items() if _conditioned(network, point)]
    return tuple(dict.fromkeys([*places, *(["head"] if network.segmentation_head.conditioned else [])]))


def count_passes(architecture: Mapping[str, Any], setting: Setting) -> Passes:
    """Count how often parts of a network are called for all tasks of a tiny image.

    The calls of the first convolution of the encoder, the first convolution of every decoder, and the head are counted.
    The network has few features, because the number of features does not change the number of calls.
    """
    small = copy.deepcopy(dict(architecture))
    strides = small["arch_kwargs"]["strides"]
    axes = len(setting.patch_size)
    small["arch_kwargs"]["features_per_stage"] = [_FEW_FEATURES] * len(strides)
    network = build(small, setting).eval()
    size = [prod(stride if isinstance(stride, int) else stride[axis] for stride in strides) for axis in range(axes)]
    size[-1] *= 2  # instance normalisation needs more than one voxel at the coarsest stage
    decoders = [network.decoder, *getattr(getattr(network, "decoders", None), "others", ())]
    parts = (
        [_first_convolution(network.encoder)],
        [_first_convolution(getattr(decoder, "stages", [decoder])[0]) for decoder in decoders],
        [network.segmentation_head],
    )
    with torch.no_grad(), _counted(parts) as counts:
        network(torch.zeros(1, setting.input_channels, *size))
    return Passes(*counts)


class _KnownTask(TorchFunctionMode):
    """Gives the tensor with the task's index a value, because the value decides which task's decoder runs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.full and len(args) == 2 and result.shape == (1,):
            return torch.tensor([args[1]], dtype=result.dtype)
        return result


def _deformable_flops(image: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Any, **__: Any) -> int:
    """Return the operations of a deformable convolution, which are those of an ordinary one."""
    return int(2 * prod(out_shape) * prod(weight[1:]))


@contextmanager
def _counted(parts: Iterable[Iterable[nn.Module]]) -> Iterator[list[int]]:
    """Count the calls of several groups of modules."""
    counts: list[int] = []
    handles = []
    for index, modules in enumerate(parts):
        counts.append(0)

        def count(*_: Any, index: int = index) -> None:
            counts[index] += 1

        handles += [module.register_forward_hook(count) for module in modules]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _first_convolution(module: nn.Module) -> nn.Module:
    return next(part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Conv3d))


def _conditioned(network: nn.Module, point: str) -> bool:
    """Return whether the part at a point depends on the task; parts without the attribute do not."""
    part = getattr(network, point, None)
    parts = part if isinstance(part, nn.ModuleList) else [part]
    return any(getattr(module, "conditioned", False) for module in parts)


def _head_parameters(network: nn.Module) -> int:
    head = ("segmentation_head.", "seg_layers.")
    return sum(value.numel() for name, value in network.named_parameters() if any(part in name for part in head))


def _s(number: str) -> str:
    return "" if number == "1" else "s"
