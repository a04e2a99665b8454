import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.mamtln.pyramid_blocks import (
    ConvNormAct,
    Level,
    RepeatedDownsampling,
    Shape,
    downsampling,
    equal_groups,
    resized,
    same_size_convolution,
)

OPS = {2: nn.Conv2d, 3: nn.Conv3d}


def test_so_many_channels_to_a_group_or_the_next_larger_equal_groups() -> None:
    assert [equal_groups(64, 2), equal_groups(64, 4), equal_groups(16, 1)] == [32, 16, 16]  # as released
    assert [equal_groups(channels, 2) for channels in (16, 12, 9, 7, 3, 2, 1)] == [8, 6, 3, 1, 1, 1, 1]
    assert [equal_groups(channels, 4) for channels in (12, 6, 4, 1)] == [3, 1, 1, 1]


def normalised(x: Tensor, groups: int, norm: nn.GroupNorm) -> Tensor:
    """GroupNorm written out: mean and variance over the channels of a group and all voxels."""
    grouped = x.reshape(len(x), groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    scaled = (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return scaled * norm.weight.reshape(shape) + norm.bias.reshape(shape)


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3)])
def test_a_strided_block_has_no_bias_and_four_channels_a_group(kernel: tuple[int, ...]) -> None:
    """The released code's: 16 groups of its 64 channels; other blocks have a bias and 32 groups."""
    shape = Shape(nn.Conv3d, 64, (Level((3, 3, 3), (1, 1, 1)),))
    block = downsampling(shape, kernel, (1, 2, 2))
    assert sum(value.numel() for value in block.parameters()) == 64 * 64 * kernel[0] ** 3 + 2 * 64 + 1
    x = torch.randn(2, 64, 3, 4, 6)
    made = functional.conv3d(x, block[0].weight, stride=(1, 2, 2), padding=(kernel[0] - 1) // 2)
    made = normalised(made, 16, block[1])
    torch.testing.assert_close(block(x), torch.where(made >= 0, made, block[2].weight * made), atol=1e-4, rtol=1e-4)
    ordinary = ConvNormAct(nn.Conv3d, 64, 64, kernel)
    assert ordinary[1].num_groups == 32
    assert ordinary[0].bias is not None


def test_the_normalisation_keeps_what_channels_mean() -> None:
    """Two images that differ by a constant are told apart by the means behind it; behind InstanceNorm they are not."""
    block = ConvNormAct(nn.Conv2d, 4, 8, (1, 1))
    shifted = torch.randn(2, 4, 6, 6) + torch.tensor([0.0, 3.0])[:, None, None, None]
    assert block[1].num_groups == 4
    means = block(shifted).mean((2, 3)).detach()
    assert float((means[0] - means[1]).abs().max()) > 0.1
    block[1] = nn.InstanceNorm2d(8)
    block[2] = nn.Identity()
    assert float(block(shifted).detach().mean((2, 3)).abs().max()) < 1e-5


@pytest.mark.parametrize("size", [(7, 4), (5, 6, 3)])
@pytest.mark.parametrize("dilation", [1, 3])
def test_a_convolution_keeps_the_size_but_for_its_stride_which_rounds_up(size: tuple[int, ...], dilation: int) -> None:
    dimensions = len(size)
    kernel, stride = (1, 3, 3)[-dimensions:], (1, 2, 2)[-dimensions:]
    x = torch.randn(1, 2, *size)
    conv_op = OPS[dimensions]
    assert same_size_convolution(conv_op, 2, 3, kernel, dilation=dilation)(x).shape == (1, 3, *size)
    made = same_size_convolution(conv_op, 2, 3, kernel, stride=stride, dilation=dilation)(x)
    assert made.shape[2:] == tuple(-(-edge // step) for edge, step in zip(size, stride, strict=True))


def test_one_block_descends_several_levels_with_the_stride_of_each() -> None:
    levels = (Level((1, 3, 3), (1, 2, 2)), Level((3, 3, 3), (1, 2, 2)), Level((3, 3, 3), (2, 3, 1)))
    shape = Shape(nn.Conv3d, 4, levels)
    down = RepeatedDownsampling(shape, 2)
    x = torch.randn(2, 4, 5, 8, 6)
    convolution, norm, activation = down.block
    expected = x
    for stride in ((1, 2, 2), (2, 3, 1)):
        expected = functional.conv3d(expected, convolution.weight, stride=stride, padding=1)
        expected = activation(norm(expected))
    assert torch.equal(down(x), expected)
    assert expected.shape == (2, 4, 3, 2, 3)
    assert sum(value.numel() for value in down.parameters()) == 4 * 4 * 27 + 2 * 4 + 1  # one convolution, without bias
    assert RepeatedDownsampling(shape, 1)(x).shape == (2, 4, 5, 4, 3)


def test_a_feature_is_brought_to_a_size_and_left_alone_where_it_has_it() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert resized(x, (3, 4)) is x
    assert resized(x, (5, 9)).shape == (1, 2, 5, 9)
    assert resized(torch.full((1, 2, 2, 3, 3), 4.0), (4, 3, 7)).eq(4).all()
