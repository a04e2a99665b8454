from typing import Any

import pytest
import torch
from torch import nn

from nnunet_mtl.networks.mamtln.pyramid_blocks import Level, Shape
from nnunet_mtl.networks.mamtln.visual_attention import NoVisualAttention, VisualAttention, dilations

FLAT = Shape(nn.Conv2d, 4, tuple(Level((3, 3), (2, 2), (64 >> level, 64 >> level)) for level in range(4)))
DEEP = Shape(nn.Conv3d, 4, tuple(Level((3, 3, 3), (2, 2, 2), (64, 64, 64)) for _ in range(4)))


def feature(shape: Shape, size: int = 16) -> Any:
    dimensions = len(shape.levels[0].kernel)
    return torch.randn(2, 4, *[size] * dimensions, generator=torch.Generator().manual_seed(0))


def test_four_branches_at_the_finest_level_then_three_then_two() -> None:
    assert [len(VisualAttention(FLAT, level).branches) for level in range(4)] == [4, 3, 2, 2]


def test_the_branches_are_those_of_the_code() -> None:
    branches = VisualAttention(DEEP, 0).branches
    kernels = [[layer.kernel_size[0] for layer in branch] for branch in branches]
    assert kernels == [[1, 3], [3, 3], [3, 3, 3], [3, 3, 3, 3]]
    assert [branch[-1].dilation for branch in branches] == [(1, 1, 1), (3, 3, 3), (5, 5, 5), (5, 7, 7)]
    assert all(layer.dilation == (1, 1, 1) for branch in branches for layer in branch[:-1])
    assert all(isinstance(layer, nn.Conv3d) for branch in branches for layer in branch)  # nothing between them


@pytest.mark.parametrize("shape", [FLAT, DEEP])
@pytest.mark.parametrize("level", [0, 1, 3])
def test_with_gates_of_one_it_is_the_mixed_copies_added_to_the_feature(shape: Shape, level: int) -> None:
    attention, x = VisualAttention(shape, level), feature(shape)
    open_gates = 30.0
    for branch in attention.branches:
        nn.init.zeros_(branch[-1].weight)
        nn.init.constant_(branch[-1].bias, open_gates)
    copies = torch.cat([x] * len(attention.branches), dim=1)
    torch.testing.assert_close(attention(x), attention.activation(attention.mix(copies) + x))
    closed = VisualAttention(shape, level)
    for branch in closed.branches:
        nn.init.constant_(branch[-1].bias, -open_gates)
        nn.init.zeros_(branch[-1].weight)
    nn.init.zeros_(closed.mix.bias)
    torch.testing.assert_close(closed(x), closed.activation(x))


def is_gated_by_the_image(attention: nn.Module) -> bool:
    """Twice the feature is more than twice the result, for its own gates have opened or closed."""
    x = feature(FLAT).abs()
    return not torch.allclose(attention(2 * x), 2 * attention(x), atol=1e-4)


def test_a_feature_is_gated_by_itself_and_not_without_the_attention() -> None:
    torch.manual_seed(0)
    attention = VisualAttention(FLAT, 0)
    nn.init.zeros_(attention.mix.bias)
    assert is_gated_by_the_image(attention)
    assert not is_gated_by_the_image(NoVisualAttention(FLAT, 0))
    gates = attention.gates(feature(FLAT))
    assert all(bool(((gate > 0) & (gate < 1)).all()) for gate in gates)
    assert all(float(gate.detach().std((2, 3)).min()) > 0 for gate in gates)  # a factor for every voxel


def test_dilations_are_clipped_to_the_feature_axis_by_axis() -> None:
    assert dilations((5, 7, 7), (3, 3, 3), (64, 64, 64)) == (5, 7, 7)
    assert dilations((5, 7, 7), (3, 3), (64, 64)) == (7, 7)
    assert dilations((5, 7, 7), (3, 3, 3), (7, 15, 14)) == (3, 7, 6)
    assert dilations((5, 5, 5), (3, 3, 3), (1, 2, 3)) == (1, 1, 1)
    assert dilations((5, 7, 7), (1, 3, 3), (64, 64, 64)) == (1, 7, 7)
    assert dilations((5, 7, 7), (3, 3, 3), ()) == (5, 7, 7)
    for size in range(3, 30):
        (dilation, _) = dilations((1, 9, 9), (3, 3), (size, size))
        assert 2 * dilation + 1 <= size


def test_a_level_takes_kernel_and_size_of_the_plans() -> None:
    shape = Shape(nn.Conv3d, 4, (Level((1, 3, 3), (1, 2, 2), (5, 9, 40)),))
    last = [branch[-1] for branch in VisualAttention(shape, 0).branches]
    assert [layer.kernel_size for layer in last] == [(1, 3, 3)] * 4
    assert [layer.dilation for layer in last] == [(1, 1, 1), (1, 3, 3), (1, 4, 5), (1, 4, 7)]
