import pytest
import torch

from nnunet_mtl.losses.regression import absolute_error, masked_l1_loss


@pytest.fixture(params=[(6, 5), (4, 6, 5)], ids=["2d", "3d"])
def batch(request):
    """Three samples, of which the first and the last have a target; about half of the voxels count."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, 1, *request.param)
    values, target = (torch.randn(shape, generator=generator) for _ in range(2))
    inside = torch.rand(shape, generator=generator) > 0.5
    return values.requires_grad_(), target, inside, torch.tensor([True, False, True])


def test_that_the_loss_is_the_mean_over_the_voxels_that_count_of_samples_with_a_target():
    values = torch.tensor([[[[1.0, 2.0, 9.0]]], [[[5.0, 5.0, 5.0]]]])
    target = torch.tensor([[[[0.0, 5.0, 0.0]]], [[[0.0, 0.0, 0.0]]]])
    inside = torch.tensor([[[[True, True, False]]], [[[True, True, True]]]])
    assert masked_l1_loss(values, target, inside, torch.tensor([True, False])) == 2.0
    assert masked_l1_loss(values, target, inside, torch.tensor([True, True])) == (1 + 3 + 15) / 5


def test_that_every_voxel_weighs_the_same_whatever_its_sample(batch):
    values, target, inside, known = batch
    error = absolute_error(values, target, inside, known)
    assert error.total.shape == (2,)
    torch.testing.assert_close(masked_l1_loss(values, target, inside, known), error.total.sum() / error.voxels.sum())
    assert error.voxels.tolist() == [inside[0].sum(), inside[2].sum()]


@pytest.mark.parametrize("junk", [1e9, float("nan"), float("inf")])
def test_that_targets_that_do_not_count_change_neither_loss_nor_gradient(batch, junk):
    values, target, inside, known = batch
    scrambled = target.clone()
    scrambled[1] = junk
    scrambled[~inside] = junk
    losses = [masked_l1_loss(values, each, inside, known) for each in (target, scrambled)]
    gradients = [torch.autograd.grad(loss, values)[0] for loss in losses]
    assert torch.equal(*losses)
    assert torch.equal(*gradients)
    assert (gradients[0][1] == 0).all()
    assert (gradients[0][~inside] == 0).all()
    assert (gradients[0][0][inside[0]] != 0).all()


def test_that_a_target_that_counts_does_change_the_loss(batch):
    values, target, inside, known = batch
    changed = target.clone()
    changed[0][inside[0]] += 1
    assert masked_l1_loss(values, target, inside, known) != masked_l1_loss(values, changed, inside, known)


@pytest.mark.parametrize("nothing", ["unknown", "outside"])
def test_that_without_anything_to_learn_the_loss_is_zero_and_attached(batch, nothing):
    values, target, inside, known = batch
    arguments = (inside, known & False) if nothing == "unknown" else (inside & False, known)
    loss = masked_l1_loss(values, target, *arguments)
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, values)
    assert (gradient == 0).all()


def test_that_it_is_single_precision_whatever_the_values_and_under_autocast():
    values = torch.full((1, 1, 64, 64), 300.0, dtype=torch.half)
    target, inside = torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = masked_l1_loss(values, target, inside, torch.tensor([True]))
    assert loss.dtype == torch.float32
    assert loss == 300  # the sum, 1228800, is no number of half precision


def test_that_shapes_must_agree(batch):
    values, target, inside, known = batch
    with pytest.raises(ValueError, match="values"):
        masked_l1_loss(values[:, :, 1:], target, inside, known)


def of_two_samples():
    """One sample with 4 voxels that count, one with 2, and one without a target."""
    values = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[5.0, 6.0, 7.0, 8.0]], [[9.0] * 4]])
    inside = torch.tensor([[[True] * 4], [[True, True, False, False]], [[True] * 4]])
    return values, torch.zeros(3, 1, 4), inside, torch.tensor([True, True, False])


def train_as_one_of_two(rank):
    """Return loss and gradient where the first process holds the first sample and the second the others."""
    values, target, inside, known = (each[:1] if rank == 0 else each[1:] for each in of_two_samples())
    values.requires_grad_()
    loss = masked_l1_loss(values, target, inside, known)
    return loss.detach(), torch.autograd.grad(loss, values)[0]


@pytest.mark.slow
def test_that_processes_divide_by_the_voxels_of_all_of_them(two_processes):
    values, *others = of_two_samples()
    values.requires_grad_()
    loss = masked_l1_loss(values, *others)
    (gradient,) = torch.autograd.grad(loss, values)
    torch.testing.assert_close(sum(loss for loss, _ in two_processes) / 2, loss.detach())
    torch.testing.assert_close(torch.cat([gradient for _, gradient in two_processes]) / 2, gradient)
