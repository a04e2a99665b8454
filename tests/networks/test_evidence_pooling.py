from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_mtl.networks.evidence_pooling import evidence_at, pooled_by_score, pooled_under

SIZES = [(6, 7), (5, 4, 6)]


def feature(size: tuple[int, ...]) -> Tensor:
    """Channels of different mean and scale, as convolutions give them."""
    torch.manual_seed(0)
    shape = (3, 4, *[1] * len(size))
    return 3 * torch.randn(shape) + torch.rand(shape) * torch.randn(3, 4, *size)


def soft_evidence(size: tuple[int, ...]) -> Tensor:
    """Between 0 and 1, exactly 0 for most voxels."""
    torch.manual_seed(1)
    return (2 * torch.rand(3, 1, *size) - 1).clamp_min(0)


@pytest.mark.parametrize("size", SIZES)
def test_mean_deviation_and_maximum_as_written(size: tuple[int, ...]) -> None:
    f, e = feature(size).flatten(2), soft_evidence(size).flatten(2)
    mean = (e * f).sum(2) / e.sum(2)
    deviation = ((e * (f - mean[..., None]) ** 2).sum(2) / e.sum(2)).sqrt()
    maximum = ((e / e.amax(2, keepdim=True)) * f.clamp_min(0)).amax(2)
    expected = torch.cat((mean, deviation, maximum), 1)
    torch.testing.assert_close(pooled_under(feature(size), soft_evidence(size)), expected, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_under_a_mask_they_are_those_of_its_voxels(size: tuple[int, ...]) -> None:
    f, mask = feature(size), torch.zeros(3, 1, *size)
    mask[..., 1:4, 2:5] = 1
    inside = f[..., 1:4, 2:5].flatten(2)
    expected = torch.cat((inside.mean(2), inside.std(2, correction=0), inside.amax(2).clamp_min(0)), 1)
    torch.testing.assert_close(pooled_under(f, mask), expected, atol=2e-3, rtol=1e-4)


def test_the_maximum_of_what_is_negative_everywhere_is_zero() -> None:
    pooled = pooled_under(-1 - torch.rand(2, 4, 5, 6), torch.ones(2, 1, 5, 6))
    assert torch.equal(pooled[:, 8:], torch.zeros(2, 4))


@pytest.mark.parametrize("size", SIZES)
def test_what_lies_outside_has_no_influence_to_the_last_bit_and_what_lies_inside_has(size: tuple[int, ...]) -> None:
    f, e = feature(size), soft_evidence(size)
    assert 0.3 < float((e == 0).float().mean()) < 0.7
    noise = 100 * torch.randn_like(f)
    before = pooled_under(f, e)
    assert torch.equal(pooled_under(f + noise * (e == 0), e), before)
    assert not torch.isclose(pooled_under(f + noise * (e > 0), e)[:, :8], before[:, :8]).any()


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_ends_where_the_evidence_does(size: tuple[int, ...]) -> None:
    f, e = feature(size).requires_grad_(), soft_evidence(size)
    pooled_under(f, e).square().sum().backward()
    outside = (e == 0).expand_as(f)
    assert torch.equal(f.grad[outside], torch.zeros_like(f.grad[outside]))
    assert bool((f.grad[~outside] != 0).all())


@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_no_evidence_gives_zeros_and_finite_gradients(scale: float) -> None:
    f = feature((5, 6)).requires_grad_()
    pooled = pooled_under(f, torch.full((3, 1, 5, 6), scale))
    torch.testing.assert_close(pooled, torch.zeros_like(pooled), atol=1e-6, rtol=0)
    pooled.sum().backward()
    assert bool(f.grad.isfinite().all())


def test_a_share_of_a_cell_tells_the_texture_and_not_the_size() -> None:
    f = feature((6, 7))
    whole = torch.zeros(3, 1, 6, 7)
    whole[..., 2:4, 2:4] = 1
    one_voxel_of_a_coarse_cell = whole / 32**3
    expected = pooled_under(f, whole)
    torch.testing.assert_close(pooled_under(f, one_voxel_of_a_coarse_cell), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    f = (300 * torch.randn(1, 2, 64, 64) + 2000).to(dtype)  # sums and squares beyond the range of float16
    e = (torch.rand(1, 1, 64, 64) - 0.5).clamp_min(0).to(dtype).float()
    pooled = pooled_under(f, e)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, pooled_under(f.float(), e), rtol=1e-2, atol=0)


def test_double_precision_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    f = torch.randn(1, 2, 3, 3, dtype=torch.double, requires_grad=True)
    e = torch.rand(1, 1, 3, 3, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda value: pooled_under(value, e), f)


def test_a_score_weighs_voxels_as_a_softmax_does() -> None:
    f, score = feature((6, 7)), torch.tensor([0.5, -1.0, 0.2, 0.8])
    weights = torch.softmax(torch.einsum("bcyx,c->byx", f, score).flatten(1), 1)[:, None]
    mean = (weights * f.flatten(2)).sum(2)
    deviation = (weights * (f.flatten(2) - mean[..., None]).square()).sum(2).sqrt()
    pooled = pooled_by_score(f, score)
    torch.testing.assert_close(pooled[:, :8], torch.cat((mean, deviation), 1), atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(pooled, pooled_under(f, (weights / weights.amax(2, True)).reshape(3, 1, 6, 7)))


def test_a_score_of_zeros_looks_everywhere_alike_and_learns() -> None:
    f, score = feature((5, 4, 6)), torch.zeros(4, requires_grad=True)
    pooled = pooled_by_score(f, score)
    torch.testing.assert_close(pooled[:, :4], f.flatten(2).mean(2))
    pooled[:, :4].sum().backward()
    flat = f.flatten(2)
    covariance = torch.einsum("bcn,bdn->bcd", flat - flat.mean(2, True), flat) / flat.shape[2]
    torch.testing.assert_close(score.grad, covariance.sum((0, 1)), atol=1e-3, rtol=1e-3)


def test_large_scores_stay_finite() -> None:
    f = feature((5, 6)).requires_grad_()
    score = torch.full((4,), 1000.0, requires_grad=True)
    pooled_by_score(f, score).sum().backward()
    assert bool(f.grad.isfinite().all())
    assert bool(score.grad.isfinite().all())


@pytest.mark.parametrize(
    "pool", [lambda f: pooled_under(f, torch.rand(2, 1, 32, 32)), lambda f: pooled_by_score(f, torch.zeros(16))]
)
def test_nothing_of_the_size_of_the_feature_is_kept(
    saved_bytes: Callable[[Callable[[], object]], int], pool: Callable[[Tensor], Tensor]
) -> None:
    f = torch.randn(2, 16, 32, 32, requires_grad=True)
    assert saved_bytes(lambda: pool(f)) <= f.nbytes * (1 + 1 / 16) + 1000  # the feature itself and a channel of weights


@pytest.mark.parametrize(("size", "coarse"), [((8, 12), (4, 3)), ((4, 8, 6), (4, 2, 3))])
def test_a_cell_holds_the_share_of_its_voxels(size: tuple[int, ...], coarse: tuple[int, ...]) -> None:
    mask = (torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0)) > 0.8).float()
    window = [fine // cells for fine, cells in zip(size, coarse, strict=True)]
    pool = functional.avg_pool2d if len(size) == 2 else functional.avg_pool3d
    shares = evidence_at(mask, coarse)
    torch.testing.assert_close(shares, pool(mask, window))
    torch.testing.assert_close(shares.mean((1, *range(2, mask.ndim))), mask.mean((1, *range(2, mask.ndim))))


def test_cells_far_from_the_evidence_are_exactly_empty_also_where_sizes_do_not_divide() -> None:
    mask = torch.zeros(1, 1, 15, 9)
    mask[..., :3, :3] = 1
    shares = evidence_at(mask, (8, 5))
    assert shares.shape == (1, 1, 8, 5)
    assert bool((shares[..., :2, :2] > 0).all())
    assert int((shares == 0).sum()) == 8 * 5 - 4
    assert evidence_at(mask, (15, 9)) is mask
