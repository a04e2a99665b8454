from typing import Any

import pytest
import torch
from torch import nn

from nnunet_mtl.networks.mamtln.adaptive_attention import AdaptiveAttention, NoAdaptiveAttention
from nnunet_mtl.networks.mamtln.pyramid_blocks import Level, Shape

SHAPES = {
    2: Shape(nn.Conv2d, 4, tuple(Level((3, 3), (2, 2)) for _ in range(3))),
    3: Shape(nn.Conv3d, 4, tuple(Level((1, 3, 3), (1, 2, 2)) for _ in range(3))),
}


def pair(dimensions: int, level: int) -> tuple[Any, Any]:
    rng = torch.Generator().manual_seed(1)
    finest = [4, 16, 16][-dimensions:]
    size = [edge >> level if edge == 16 or dimensions == 2 else edge for edge in finest]
    return torch.randn(2, 4, *size, generator=rng), torch.randn(2, 4, *finest, generator=rng)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_level_and_fusion_weigh_one_together_at_every_voxel(dimensions: int, level: int) -> None:
    torch.manual_seed(0)
    attention = AdaptiveAttention(SHAPES[dimensions], level, "product")
    feature, fused = pair(dimensions, level)
    weights = attention.weights(feature, attention.down(fused)).detach()
    assert weights.shape == (2, 2, *feature.shape[2:])
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))
    assert float(weights[:, 0].flatten(1).std(1).min()) > 0.01  # and not everywhere the same
    assert attention(feature, fused).shape == feature.shape


@pytest.mark.parametrize("output", ["product", "alone"])
def test_the_equation(output: Any) -> None:
    torch.manual_seed(0)
    attention = AdaptiveAttention(SHAPES[2], 1, output)
    feature, fused = pair(2, 1)
    g = attention.down(fused)
    level, other = attention.weights(feature, g).split(1, dim=1)
    a = level * attention.attend(feature) * feature + other * attention.attend(g) * g
    a = a * g if output == "product" else a
    torch.testing.assert_close(attention(feature, fused), attention.refine(torch.cat((feature, a), dim=1)))


def test_level_and_fusion_are_compared_in_16_channels_each_normalised_alone_and_without_bias() -> None:
    """As released: a reduction of the level and another of the fusion, with as many groups as channels."""
    attention = AdaptiveAttention(SHAPES[2], 0, "product")
    feature, fused = pair(2, 0)
    reduced = []
    for block, x in ((attention.reduce_feature, feature), (attention.reduce_fused, fused)):
        convolution, norm, activation = block
        assert sum(value.numel() for value in block.parameters()) == 4 * 16 + 2 * 16 + 1
        made = torch.einsum("oi,bixy->boxy", convolution.weight[..., 0, 0], x)
        made = made - made.mean((2, 3), keepdim=True)
        made = made / (made.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        made = made * norm.weight[:, None, None] + norm.bias[:, None, None]
        reduced.append(torch.where(made >= 0, made, activation.weight * made))
    assert not torch.equal(attention.reduce_feature[0].weight, attention.reduce_fused[0].weight)
    expected = torch.softmax(attention.compare(torch.cat(reduced, dim=1)), dim=1)
    torch.testing.assert_close(attention.weights(feature, fused), expected)


def test_what_is_handed_on_is_a_choice() -> None:
    attention = AdaptiveAttention(SHAPES[2], 1, "product")
    alone = AdaptiveAttention(SHAPES[2], 1, "alone")
    alone.load_state_dict(attention.state_dict())
    assert not torch.allclose(attention(*pair(2, 1)), alone(*pair(2, 1)), atol=1e-2)


def test_the_finest_level_has_the_fusions_size_already() -> None:
    assert not list(AdaptiveAttention(SHAPES[2], 0, "product").down.parameters())
    assert list(AdaptiveAttention(SHAPES[2], 1, "product").down.parameters())


def reads_the_fusion(attention: Any) -> bool:
    feature, fused = pair(2, 0)
    return not torch.equal(attention(feature, fused), attention(feature, fused + 1))


def test_a_level_reads_the_fusion_of_all_and_does_not_without_the_attention() -> None:
    attention, off = AdaptiveAttention(SHAPES[2], 0, "product"), NoAdaptiveAttention(SHAPES[2], 0, "product")
    assert attention.reads_fused
    assert reads_the_fusion(attention)
    assert not off.reads_fused
    assert not reads_the_fusion(off)
    feature, _ = pair(2, 0)
    assert off(feature, None) is feature
