"""What networks cost is what their layers do, counted once more on networks that compute."""

from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mtl.lab.methods.catalogue import methods
from nnunet_mtl.lab.methods.cost import architecture_of, build, network_cost, num_parameters
from nnunet_mtl.lab.methods.setting import Setting, default_setting
from nnunet_mtl.networks.acsnet.deformable import DeformableConvolution

METHODS = {method.name.removeprefix("nnUNetTrainer"): method.trainer for method in methods()}


def small_setting(axes: int = 3) -> Setting:
    stock = default_setting()
    own: dict[str, Any] = {"n_stages": 3, "features_per_stage": [4, 6, 8], "n_conv_per_stage": [2] * 3}
    own |= {"n_conv_per_stage_decoder": [1] * 2, "kernel_sizes": [[3] * axes] * 3}
    own |= {"strides": [[1] * axes] + [[2] * axes] * 2, "conv_op": f"torch.nn.modules.conv.Conv{axes}d"}
    own["norm_op"] = f"torch.nn.modules.instancenorm.InstanceNorm{axes}d"
    architecture = {**stock.architecture, "arch_kwargs": {**stock.architecture["arch_kwargs"], **own}}
    return replace(stock, patch_size=(16, 8, 12)[:axes], architecture=architecture)


def of_layer(module: Any, inputs: tuple[Any, ...], output: Any) -> int:
    """Twice the products of a layer."""
    if isinstance(module, nn.MultiheadAttention):
        (batch, queries, channels), keys = inputs[0].shape, inputs[1].shape[1]
        projections = channels**2 * (2 * queries + 2 * keys)
        return 2 * batch * (projections + 2 * queries * keys * channels)
    if isinstance(module, nn.Linear):
        return int(2 * output.numel() * module.in_features)
    if isinstance(module, DeformableConvolution):
        weights = module.convolution.weight.numel() + module.predict.weight.numel()
        return int(2 * weights * prod(inputs[0].shape[2:]))
    # a transposed convolution multiplies each input voxel, another one each output voxel
    grid = inputs[0] if module.transposed else output
    return int(2 * module.weight.numel() * grid.numel() // grid.shape[1])


LAYERS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear, nn.MultiheadAttention)


def counted(network: Any, image: Tensor) -> int:
    flops = []

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        flops.append(of_layer(module, inputs, output))

    for module in network.modules():
        # what projects the answer of an attention is called by none of its own
        if isinstance(module, (*LAYERS, DeformableConvolution)) and "NonDynamically" not in type(module).__name__:
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(image)
    return sum(flops)


@pytest.mark.parametrize(
    ("trainer", "axes"),
    [("MTLNoAttention", 3), ("MTAN", 3), ("CTAN", 3), ("CTAN", 2), ("MultiHead", 3), ("HPS", 2), ("CondDec", 2),
     ("ACSNet", 2), ("UniSeg", 3), ("CondInput", 2)],
)  # fmt: skip
def test_flops_of_all_tasks_are_those_of_the_layers(trainer: str, axes: int) -> None:
    setting = small_setting(axes)
    architecture = architecture_of(METHODS[trainer], setting)
    network = build(architecture, setting)
    with torch.device("meta"):
        built = build(architecture, setting)
    cost = network_cost(built, setting)
    image = torch.randn(1, setting.input_channels, *setting.patch_size)
    assert cost.parameters == num_parameters(network)
    assert cost.tile_flops == counted(network, image)


def test_counting_changes_no_network() -> None:
    setting = small_setting()
    network = build(architecture_of(METHODS["CTAN"], setting), setting)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network_cost(network, setting)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
