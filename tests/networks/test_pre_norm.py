from typing import Any

import pytest
import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import nn

from nnunet_mtl.networks.pre_norm import run_stage


@pytest.mark.parametrize("convs", [1, 3])
@pytest.mark.parametrize(
    "parts",
    [
        {"norm_op": nn.InstanceNorm2d, "norm_op_kwargs": {"affine": True}},
        {"norm_op": nn.InstanceNorm2d, "nonlin_first": True},
        {"norm_op": nn.InstanceNorm2d, "dropout_op": nn.Dropout2d, "dropout_op_kwargs": {"p": 0.5, "inplace": True}},
        {"norm_op": None},
    ],
)
def test_the_stage_runs_as_it_does_when_called(parts: dict[str, Any], convs: int) -> None:
    torch.manual_seed(0)
    stage = StackedConvBlocks(
        convs, nn.Conv2d, 2, 4, 3, 1, True, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, **parts
    )
    x = torch.randn(2, 2, 8, 8)
    torch.manual_seed(1)
    expected = stage(x.clone())
    torch.manual_seed(1)
    read_by_norm: list[torch.Tensor] = []
    last = stage.convs[-1]
    if hasattr(last, "norm"):
        last.norm.register_forward_pre_hook(lambda _, inputs: read_by_norm.append(inputs[0].clone()))
    output, feature = run_stage(stage, x.clone())
    assert torch.equal(output, expected)
    assert torch.equal(feature, read_by_norm[0] if read_by_norm else expected)
    (output.sum() + feature.square().mean()).backward()
    assert all(parameter.grad is not None for parameter in stage.parameters())
