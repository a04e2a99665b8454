from collections.abc import Callable
from typing import Any

import pytest
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual import BottleneckD
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import nn

from nnunet_mtl.networks.pre_norm import run_encoder, run_stage


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


BLOCKS = {"n_conv_per_stage": [2, 1, 3]}
RESIDUAL = {"n_blocks_per_stage": [1, 3, 2]}
ENCODERS: list[tuple[type, dict[str, Any]]] = [
    (PlainConvEncoder, BLOCKS),
    (PlainConvEncoder, BLOCKS | {"pool": "max"}),
    (PlainConvEncoder, BLOCKS | {"nonlin_first": True}),
    (PlainConvEncoder, BLOCKS | {"norm_op": None}),
    (PlainConvEncoder, BLOCKS | {"dropout_op": nn.Dropout2d, "dropout_op_kwargs": {"p": 0.5, "inplace": True}}),
    (ResidualEncoder, RESIDUAL),
    (ResidualEncoder, RESIDUAL | {"pool_type": "avg"}),
    (ResidualEncoder, RESIDUAL | {"norm_op": None}),
    (ResidualEncoder, RESIDUAL | {"disable_default_stem": True}),
    (ResidualEncoder, RESIDUAL | {"stochastic_depth_p": 0.5, "squeeze_excitation": True}),
    (ResidualEncoder, RESIDUAL | {"block": BottleneckD, "bottleneck_channels": 3}),
]


def last_norm(stage: nn.Module) -> nn.Module | None:
    """The normalisation of a stage that runs last: shortcuts normalise before the block adds them."""
    main = [module for name, module in stage.named_modules() if "skip" not in name]
    return next((module for module in reversed(main) if isinstance(module, nn.InstanceNorm2d)), None)


def recorder(into: list[torch.Tensor]) -> Callable[..., None]:
    return lambda _, inputs: into.append(inputs[0].clone())


@pytest.mark.parametrize(("encoder_class", "parts"), ENCODERS)
def test_an_encoder_runs_as_it_does_when_called(encoder_class: type, parts: dict[str, Any]) -> None:
    torch.manual_seed(0)
    kwargs = {"norm_op": nn.InstanceNorm2d, "norm_op_kwargs": {"affine": True}} | parts
    encoder = encoder_class(
        2, 3, (4, 6, 6), nn.Conv2d, 3, [1, 2, 2], conv_bias=True, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, return_skips=True, **kwargs,
    )  # fmt: skip
    x = torch.randn(2, 2, 16, 16)
    read_by_norm: list[torch.Tensor] = []
    norms = [last_norm(stage) for stage in encoder.stages]
    handles = [norm.register_forward_pre_hook(recorder(read_by_norm)) for norm in norms if norm is not None]
    torch.manual_seed(1)
    expected = encoder(x.clone())
    for handle in handles:
        handle.remove()
    torch.manual_seed(1)
    skips, before_norm = run_encoder(encoder, x.clone())
    assert len(skips) == len(before_norm) == len(expected) == 3
    for skip, feature, stage_output, norm_input in zip(
        skips, before_norm, expected, read_by_norm or expected, strict=True
    ):
        assert torch.equal(skip, stage_output)
        assert torch.equal(feature, norm_input)
    sum(tensor.square().mean() for tensor in (*skips, *before_norm)).backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
