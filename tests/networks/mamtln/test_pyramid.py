import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.mamtln.pyramid import BidirectionalPyramid, LevelFusion, WeightedSum
from nnunet_mtl.networks.mamtln.pyramid_blocks import Level, Shape
from nnunet_mtl.networks.mamtln.visual_attention import NoVisualAttention, VisualAttention

STRIDES = ((2, 2), (2, 1), (3, 2), (1, 2))
SIZES = ((12, 16), (6, 16), (2, 8), (2, 4))


def shape(n_levels: int) -> Shape:
    return Shape(nn.Conv2d, 4, tuple(Level((3, 3), stride) for stride in STRIDES[:n_levels]))


def levels(n_levels: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(2)
    return [torch.randn(2, 4, *size, generator=rng) for size in SIZES[:n_levels]]


def test_shares_are_never_negative_and_almost_one_together() -> None:
    mix = WeightedSum(3)
    assert float(mix.shares().sum().detach()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(mix.shares().detach(), torch.full((3,), 1 / 3), atol=1e-4, rtol=0)
    with torch.no_grad():
        mix.weight.copy_(torch.tensor([3.0, 1.0, -4.0]))  # with a sum of 0: PReLU's would pass through it
    torch.testing.assert_close(mix.shares().detach(), torch.tensor([0.75, 0.25, 0.0]), atol=1e-4, rtol=0)
    a, b, c = torch.randn(3, 1, 2, 5, 5)
    torch.testing.assert_close(mix([a, b, c]), functional.silu(3 / 4.0001 * a + 1 / 4.0001 * b))


@pytest.mark.parametrize("n_levels", [1, 2, 3, 4])
def test_every_level_keeps_its_size(n_levels: int) -> None:
    pyramid = BidirectionalPyramid(shape(n_levels), VisualAttention)
    made = pyramid(levels(n_levels))
    assert [tuple(level.shape) for level in made] == [(2, 4, *size) for size in SIZES[:n_levels]]
    sum(level.square().mean() for level in made).backward()
    assert not [name for name, value in pyramid.named_parameters() if value.grad is None]
    assert len(LevelFusion(shape(n_levels))(made).shape) == 4


def test_three_levels_as_the_equations_say() -> None:
    pyramid = BidirectionalPyramid(shape(3), VisualAttention)
    f1, f2, f3 = levels(3)
    va1, va2, va3 = pyramid.visual_attention

    def mean(*features: Tensor) -> Tensor:
        return functional.silu(sum(features) / (len(features) + 1e-4))

    def up(x: Tensor, size: tuple[int, int]) -> Tensor:
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)

    d3 = va3(f3)
    d2 = va2(mean(f2, up(d3, SIZES[1])))
    d1 = va1(mean(f1, up(d2, SIZES[0])))
    u1 = mean(f1, d1)
    u2 = mean(f2, d2, pyramid.pools[0](u1))
    u3 = mean(f3, d3, pyramid.pools[1](u2))
    for made, expected in zip(pyramid([f1, f2, f3]), (u1, u2, u3), strict=True):
        torch.testing.assert_close(made, expected)


def moved(pyramid: BidirectionalPyramid, changed: int) -> list[bool]:
    """Which levels of the result change with one of the features."""
    features = levels(4)
    before = pyramid(features)
    features[changed] = features[changed] + torch.randn_like(features[changed])
    return [not torch.allclose(a, b, atol=1e-5) for a, b in zip(before, pyramid(features), strict=True)]


def test_every_level_hears_of_every_other() -> None:
    """The deepest of the finest on the way up, the finest of the deepest on the way down."""
    pyramid = BidirectionalPyramid(shape(4), VisualAttention)
    assert all(moved(pyramid, 0))
    assert all(moved(pyramid, 3))
    with torch.no_grad():
        for mix in pyramid.up[1:]:
            mix.weight[2] = 0
    assert moved(pyramid, 0) == [True, False, False, False]
    with torch.no_grad():
        for mix in pyramid.down:
            mix.weight[1] = 0
    assert moved(pyramid, 3) == [False, False, False, True]


def test_without_visual_attention_the_way_down_mixes_alone() -> None:
    pyramid = BidirectionalPyramid(shape(1), NoVisualAttention)
    (feature,) = levels(1)
    torch.testing.assert_close(pyramid([feature])[0], functional.silu(feature * 2 / 2.0001))
    gated = BidirectionalPyramid(shape(1), VisualAttention)
    assert not torch.allclose(gated([feature])[0], functional.silu(feature), atol=1e-2)


def test_the_fusion_reads_all_levels_at_the_size_of_the_finest() -> None:
    fusion, features = LevelFusion(shape(3)), levels(3)
    fused = fusion(features)
    assert fused.shape == (2, 4, *SIZES[0])
    for level in range(3):
        others = [torch.randn_like(each) if index == level else each for index, each in enumerate(features)]
        assert not torch.allclose(fusion(others), fused, atol=1e-3)
