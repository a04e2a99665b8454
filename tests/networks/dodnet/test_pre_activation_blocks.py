import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.dodnet.pre_activation_blocks import (
    PreActivationBlock,
    PreActivationStage,
    standardised,
    standardised_conv,
)
from nnunet_mtl.networks.normalised_feature import num_groups
from nnunet_mtl.networks.pre_norm import GuidedBlock, run_stage
from nnunet_mtl.networks.tgnet.residual_gates import TaskGuidedResidual

CONVOLVE = {2: functional.conv2d, 3: functional.conv3d}
CONV_OP = {2: nn.Conv2d, 3: nn.Conv3d}


def filters_by_hand(weight: Tensor) -> Tensor:
    flat = weight.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / (flat.shape[1] - 1)
    return (centred / (variance + 1e-12).sqrt()).reshape(weight.shape)


def activated(x: Tensor, module: nn.Module) -> Tensor:
    norm = module.norm
    return functional.relu(functional.group_norm(x, num_groups(x.shape[1]), norm.weight, norm.bias))


def convolved(x: Tensor, module: nn.Module) -> Tensor:
    return CONVOLVE[x.ndim - 2](x, filters_by_hand(module.weight), None, module.stride, module.padding)


def block_by_hand(block: PreActivationBlock, x: Tensor, factors: Tensor | float = 1.0) -> Tensor:
    u = convolved(activated(x, block.norm1), block.conv1)
    shortcut = x if isinstance(block.skip, nn.Identity) else convolved(activated(x, block.skip[0]), block.skip[1])
    return convolved(activated(u, block.norm2), block.conv2) + shortcut * factors


def moved(module: nn.Module) -> nn.Module:
    """Norms away from one and zero, as training moves them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.5 * torch.randn_like(value))
    return module


@pytest.mark.parametrize("dimensions", [2, 3])
def test_filters_have_mean_zero_and_unit_sample_deviation(dimensions: int) -> None:
    torch.manual_seed(0)
    weight = standardised(3 + 7 * torch.randn(5, 4, *[3] * dimensions)).flatten(1)
    torch.testing.assert_close(weight.mean(1), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(weight.std(1), torch.ones(5))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_convolution_does_not_see_scale_and_offset_of_its_filters(dimensions: int) -> None:
    conv = standardised_conv(CONV_OP[dimensions], 3, 4, [3] * dimensions)
    x = torch.randn(2, 3, *[5] * dimensions)
    before = conv(x)
    with torch.no_grad():
        shape = (4, *[1] * (dimensions + 1))
        conv.weight.mul_(torch.tensor([0.1, 1.0, 3.0, 50.0]).reshape(shape))
        conv.weight.add_(torch.tensor([1.0, -2.0, 0.0, 5.0]).reshape(shape))
    torch.testing.assert_close(conv(x), before, atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        conv.weight.mul_(-1)  # a > 0 is needed
    torch.testing.assert_close(conv(x), -before, atol=1e-3, rtol=1e-4)


def test_a_constant_filter_is_zero_and_not_nan() -> None:
    assert float(standardised(torch.full((1, 2, 3, 3), 4.0)).abs().max()) == 0


def test_filters_get_a_gradient_that_has_no_part_along_scale_and_offset() -> None:
    conv = standardised_conv(nn.Conv2d, 3, 4, [3, 3])
    conv(torch.randn(2, 3, 6, 6)).square().mean().backward()
    gradient, weight = conv.weight.grad.flatten(1), conv.weight.detach().flatten(1)
    assert float(gradient.abs().max()) > 0.01
    torch.testing.assert_close(gradient.sum(1), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close((gradient * weight).sum(1), torch.zeros(4), atol=1e-3, rtol=0)


def test_convolutions_have_no_bias_and_a_stride_rounds_up() -> None:
    conv = standardised_conv(nn.Conv3d, 2, 4, (1, 3, 3), (1, 2, 2))
    assert conv.bias is None
    assert conv(torch.randn(1, 2, 4, 7, 6)).shape == (1, 4, 4, 4, 3)


BLOCKS = [(2, 4, 4, None), (2, 4, 6, None), (2, 4, 4, [2, 1]), (3, 4, 6, [2, 2, 2]), (3, 32, 32, None)]


@pytest.mark.parametrize(("dimensions", "channels", "output", "stride"), BLOCKS)
def test_a_block_follows_the_equation(dimensions: int, channels: int, output: int, stride: list[int] | None) -> None:
    block = moved(PreActivationBlock(CONV_OP[dimensions], channels, output, [3] * dimensions, stride))
    x = torch.randn(2, channels, *[6] * dimensions)
    kept = x.clone()
    torch.testing.assert_close(block(x), block_by_hand(block, x), atol=1e-4, rtol=1e-4)
    assert torch.equal(x, kept)
    assert isinstance(block.skip, nn.Identity) == (channels == output and stride is None)


def test_groups_are_sixteen_where_there_are_channels_for_them() -> None:
    block = PreActivationBlock(nn.Conv2d, 32, 256, [3, 3])
    assert [m.num_groups for m in block.modules() if isinstance(m, nn.GroupNorm)] == [16, 16, 16]


def test_guide_and_condition_stand_where_they_should() -> None:
    block = moved(PreActivationBlock(nn.Conv2d, 4, 6, [3, 3], [2, 2]))
    x = torch.randn(2, 4, 8, 8)
    seen = {}

    def guide(shortcut: Tensor, first: Tensor) -> Tensor:
        seen["u"] = first
        return 0.25 * shortcut

    def condition(read: Tensor) -> Tensor:
        seen["read"] = read
        return read

    result = block.run(x, guide, condition)
    torch.testing.assert_close(result, block_by_hand(block, x, 0.25), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen["read"], activated(x, block.norm1))
    torch.testing.assert_close(seen["u"], convolved(activated(x, block.norm1), block.conv1), atol=1e-4, rtol=1e-4)
    of_zero = activated(torch.zeros(2, 6, 4, 4), block.norm2)
    expected = convolved(of_zero, block.conv2) + block.skip(x)  # the shortcut is not conditioned
    torch.testing.assert_close(block.run(x, condition=torch.zeros_like), expected, atol=1e-4, rtol=1e-4)


def test_a_stage_runs_its_blocks_and_conditions_the_first() -> None:
    stage = moved(PreActivationStage(nn.Conv2d, 4, 6, [3, 3], 3, [2, 2]))
    x = torch.randn(2, 4, 8, 8)
    expected = x
    for block in stage.blocks:
        expected = block_by_hand(block, expected)
    torch.testing.assert_close(stage(x), expected, atol=1e-3, rtol=1e-3)
    output, before_norm = run_stage(stage, x)
    assert torch.equal(output, stage(x))
    assert before_norm is output
    calls: list[Tensor] = []
    stage(x, lambda read: (calls.append(read), read)[1])
    assert [call.shape for call in calls] == [(2, 4, 8, 8)]


def test_a_guided_block_says_how_it_runs() -> None:
    with pytest.raises(NotImplementedError):
        GuidedBlock(4).run(torch.zeros(1))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("n_blocks", [1, 2])
def test_the_published_block_is_guided_on_its_shortcut_by_what_its_first_convolution_made(
    dimensions: int, n_blocks: int
) -> None:
    stage = moved(PreActivationStage(CONV_OP[dimensions], 4, 6, [3] * dimensions, n_blocks, [2] * dimensions))
    part = moved(TaskGuidedResidual(stage, 3))
    x, task = torch.randn(3, 4, *[6] * dimensions), torch.tensor([2, 0, 1])
    before, last = (x, stage.blocks[0]) if n_blocks == 1 else (stage.blocks[0](x), stage.blocks[1])
    u = convolved(activated(before, last.norm1), last.conv1)
    code = functional.one_hot(task, 3).float()
    weight, bias = part.gate.output.weight, part.gate.output.bias
    factors = torch.sigmoid(torch.cat((u.flatten(2).mean(2), code), 1) @ weight.T + bias)
    expected = block_by_hand(last, before, factors.reshape(3, 6, *[1] * dimensions))
    output, before_norm = part.run(stage, x, task)
    torch.testing.assert_close(output, expected, atol=1e-3, rtol=1e-3)
    assert before_norm is output
    assert sum(value.numel() for value in part.parameters()) == (6 + 3) * 6 + 6
