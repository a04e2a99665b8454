"""The cost of a cascade, on networks small enough to count by hand."""

from dataclasses import replace

import pytest
import torch
from cascade_cost import cascade_cost, tiles_of
from torch import nn

from nnunet_mtl.lab.methods.cost import num_parameters, stock_network
from nnunet_mtl.lab.methods.setting import default_setting
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.trainers.nnUNetTrainerMTLNoAttention import nnUNetTrainerMTLNoAttention
from nnunet_mtl.trainers.nnUNetTrainerOMNet import nnUNetTrainerOMNet

TASKS = TaskSet.from_dataset_json(
    {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]},
        "regions_class_order": [1, 2, 3],
        "nnunet_mtl": {
            "version": 1,
            "tasks": {
                "whole": {"regions": ["whole"]},
                "core": {"regions": ["core"], "parent": "whole"},
                "enhancing": {"regions": ["enhancing"], "parent": "core"},
            },
        },
    }
)


@pytest.fixture(scope="module")
def setting():
    stock = default_setting()
    own = {"n_stages": 3, "features_per_stage": [4, 4, 8], "n_conv_per_stage": [1] * 3}
    own |= {"n_conv_per_stage_decoder": [1] * 2, "kernel_sizes": [[3] * 3] * 3, "strides": [[1] * 3] + [[2] * 3] * 2}
    architecture = {**stock.architecture, "arch_kwargs": {**stock.architecture["arch_kwargs"], **own}}
    return replace(stock, tasks=TASKS, input_channels=4, patch_size=(8, 12, 16), architecture=architecture)


def counted(network, setting):
    """Twice the products of every convolution, by hooks."""
    flops = []

    def count(module, inputs, output):
        # a transposed convolution multiplies each input voxel, another one each output voxel
        voxels = inputs[0].numel() // inputs[0].shape[1] if module.transposed else output.numel() // output.shape[1]
        flops.append(2 * voxels * module.weight.numel())

    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, setting.input_channels, *setting.patch_size))
    return sum(flops)


def test_each_network_is_the_stock_one_of_its_extract(setting):
    cost = cascade_cost(nnUNetTrainerMTLNoAttention, setting)
    # A region of several values is a sigmoid of its own; one value is a label, a softmax with the background.
    for task, channels in (("whole", 1), ("core", 1), ("enhancing", 2)):
        stock = stock_network(setting, channels)
        assert cost.networks[task].parameters == num_parameters(stock)
        assert cost.networks[task].tile_flops == counted(stock, setting)
    assert cost.parameters == sum(network.parameters for network in cost.networks.values())
    # without attention the one network is the stock one with a channel for each region
    stock = stock_network(setting, 3)
    assert cost.together == (num_parameters(stock), counted(stock, setting))


def test_boxes_are_fewer_tiles(setting):
    cost = cascade_cost(nnUNetTrainerMTLNoAttention, setting)
    whole, core, enhancing = (cost.networks[task].tile_flops for task in ("whole", "core", "enhancing"))
    assert cost.flops({"whole": 18, "core": 2, "enhancing": 1}) == 18 * whole + 2 * core + enhancing


def test_om_net_is_little_more_than_one_of_the_three(setting):
    cost = cascade_cost(nnUNetTrainerOMNet, setting)
    (one, *_) = cost.networks.values()
    assert one.parameters < cost.together.parameters < cost.parameters
    lines = cost.table().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "whole, whole image",
        "core, inside whole",
        "enhancing, inside core",
        "cascade of 3, a tile each",
        "one network, one pass",
    ]


@pytest.mark.parametrize(
    ("shape", "patch", "step", "expected"),
    [
        ((8, 8, 8), (8, 8, 8), 0.5, 1),
        ((3, 9, 8), (8, 8, 8), 0.5, 2),  # filled up to the patch; two tiles where it is a voxel longer
        ((16, 8, 8), (8, 8, 8), 0.5, 3),
        ((16, 8, 8), (8, 8, 8), 1, 2),
        ((5, 16, 8), (8, 8), 0.5, 15),  # 2D: every slice by itself
    ],
)
def test_tiles_by_hand(shape, patch, step, expected):
    assert tiles_of(shape, patch, step) == expected
