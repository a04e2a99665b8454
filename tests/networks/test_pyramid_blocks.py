import pytest
import torch
from torch import nn
from torch.nn import functional

from nnunet_mtl.networks.pyramid_blocks import (
    ConvNormAct,
    Level,
    RepeatedDownsampling,
    Shape,
    groups_of_two,
    resized,
    same_size_convolution,
)

OPS = {2: nn.Conv2d, 3: nn.Conv3d}


def test_two_channels_to_a_group_or_the_next_larger_equal_groups() -> None:
    assert groups_of_two(64) == 32  # as published
    assert [groups_of_two(channels) for channels in (16, 12, 9, 7, 3, 2, 1)] == [8, 6, 3, 1, 1, 1, 1]


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
        expected = functional.conv3d(expected, convolution.weight, convolution.bias, stride=stride, padding=1)
        expected = activation(norm(expected))
    assert torch.equal(down(x), expected)
    assert expected.shape == (2, 4, 3, 2, 3)
    assert sum(value.numel() for value in down.parameters()) == 4 * 4 * 27 + 4 + 2 * 4 + 1  # one convolution
    assert RepeatedDownsampling(shape, 1)(x).shape == (2, 4, 5, 4, 3)


def test_a_feature_is_brought_to_a_size_and_left_alone_where_it_has_it() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert resized(x, (3, 4)) is x
    assert resized(x, (5, 9)).shape == (1, 2, 5, 9)
    assert resized(torch.full((1, 2, 2, 3, 3), 4.0), (4, 3, 7)).eq(4).all()
