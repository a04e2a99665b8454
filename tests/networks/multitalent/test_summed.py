import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from nnunet_mtl.losses.partial import MaskedDiceBCELoss
from nnunet_mtl.networks.multitalent.summed import SummedDiceBCELoss

SPATIAL = [pytest.param((6, 5), id="2D"), pytest.param((4, 5, 3), id="3D")]
TERMS = ["dice", "bce"]
PARTIAL = torch.tensor([[True, False, False, True], [True, True, False, False], [False, False, False, False]])


def make_batch(n_samples, n_regions, spatial, ignore=False, seed=0):
    """Random logits and targets; with `ignore`, about a quarter of the voxels are ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n_samples, n_regions, *spatial, generator=generator)
    target = torch.rand(n_samples, n_regions + ignore, *spatial, generator=generator) < 0.3
    return logits, target


def evaluate(term, logits, target, annotated, ignore=False):
    """Return a term and its gradient on the logits."""
    leaf = logits.clone().requires_grad_()
    value = SummedDiceBCELoss(use_ignore_label=ignore).terms(leaf, target, annotated)[term]
    value.backward()
    return value.detach(), leaf.grad


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("ignore", [False, True])
def test_both_terms_are_the_sums_that_the_method_says(spatial, ignore):
    logits, target = make_batch(3, 4, spatial, ignore)
    logits, truth = logits.double().requires_grad_(), target[:, :4].double()
    counts = (~target[:, 4:]).double() if ignore else torch.ones_like(truth[:, :1])
    probability, dice, bce = logits.sigmoid(), 0, 0
    for region in (0, 1, 3):  # nobody annotated region 2
        tp = fp = fn = 0
        for sample in PARTIAL[:, region].nonzero()[:, 0].tolist():
            p, y, w = probability[sample, region], truth[sample, region], counts[sample, 0]
            tp, fp, fn = tp + (w * p * y).sum(), fp + (w * p * (1 - y)).sum(), fn + (w * (1 - p) * y).sum()
            voxelwise = binary_cross_entropy_with_logits(logits[sample, region], y, reduction="none")
            bce = bce + (w * voxelwise).sum() / w.sum()
        dice = dice + 1 - 2 * tp / (2 * tp + fp + fn)
    for term, expected in (("dice", dice), ("bce", bce)):
        value, gradient = evaluate(term, logits.detach().float(), target, PARTIAL, ignore)
        torch.testing.assert_close(value, expected.float(), rtol=1e-6, atol=0)
        (expected_gradient,) = torch.autograd.grad(expected, logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected_gradient.float(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("ignore", [False, True])
def test_what_a_region_teaches_does_not_depend_on_what_else_is_annotated(term, ignore):
    logits, target = make_batch(3, 4, (6, 5), ignore)
    alone = torch.zeros(3, 4, dtype=torch.bool)
    alone[:2, 0] = True
    value, gradient = evaluate(term, logits, target, alone, ignore)
    for others in (PARTIAL, alone | torch.tensor([False, True, True, True])):
        more, more_gradient = evaluate(term, logits, target, others, ignore)
        assert torch.equal(more_gradient[:, 0], gradient[:, 0])
        assert more > value
        rest, _ = evaluate(term, logits, target, others & ~alone, ignore)
        torch.testing.assert_close(more, value + rest, rtol=1e-6, atol=0)

    # a mean would change it
    mean = MaskedDiceBCELoss(batch_dice=True, use_ignore_label=False)
    leaf = logits.clone().requires_grad_()
    mean.terms(leaf, target[:, :4], alone)[term].backward()
    alone_gradient, leaf.grad = leaf.grad[:, 0], None
    mean.terms(leaf, target[:, :4], PARTIAL)[term].backward()
    assert not torch.allclose(leaf.grad[:, 0], alone_gradient, rtol=0.1)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("ignore", [False, True])
def test_a_region_that_is_there_twice_counts_twice(term, ignore):
    logits, target = make_batch(3, 4, (6, 5), ignore)
    value, gradient = evaluate(term, logits, target, PARTIAL, ignore)
    twice = [0, 1, 2, 3, 0, 1, 2, 3]
    channels = [*twice, 4] if ignore else twice
    doubled, doubled_gradient = evaluate(term, logits[:, twice], target[:, channels], PARTIAL[:, twice], ignore)
    torch.testing.assert_close(doubled, 2 * value, rtol=1e-6, atol=0)
    torch.testing.assert_close(doubled_gradient[:, :4] + doubled_gradient[:, 4:], 2 * gradient)


def test_dice_is_of_the_batch_and_not_of_the_samples():
    logits, target = make_batch(2, 2, (6, 6))
    both = torch.ones(2, 2, dtype=torch.bool)

    def halves_swapped(volume):
        """The left half of each sample beside the right half of the other."""
        return torch.cat([volume[..., :3], volume.flip(0)[..., 3:]], -1)

    value, gradient = evaluate("dice", logits, target, both)
    other, other_gradient = evaluate("dice", halves_swapped(logits), halves_swapped(target), both)
    torch.testing.assert_close(other, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(other_gradient, halves_swapped(gradient), rtol=1e-5, atol=1e-8)

    per_sample = MaskedDiceBCELoss(batch_dice=False, use_ignore_label=False)
    before = per_sample.terms(logits, target, both)["dice"]
    after = per_sample.terms(halves_swapped(logits), halves_swapped(target), both)["dice"]
    assert not torch.isclose(before, after, rtol=1e-4)


def test_the_cross_entropy_of_samples_is_summed():
    logits, target = make_batch(3, 4, (6, 5))
    together, _ = evaluate("bce", logits, target, PARTIAL)
    alone = [evaluate("bce", logits[[b]], target[[b]], PARTIAL[[b]])[0] for b in range(3)]
    torch.testing.assert_close(together, sum(alone), rtol=1e-6, atol=0)


def test_a_region_annotated_and_empty_is_taught_by_the_cross_entropy_alone():
    logits, target = make_batch(1, 2, (6, 5))
    target[:] = False
    annotated = torch.tensor([[True, False]])
    value, gradient = evaluate("dice", logits, target, annotated)
    assert value == 1
    assert torch.count_nonzero(gradient) == 0
    value, gradient = evaluate("bce", logits, target, annotated)
    assert (gradient[0, 0] > 0).all()
    # found by nobody, too: 0 / 0 is a Dice of 0
    value, gradient = evaluate("dice", torch.full_like(logits, -200.0), target, annotated)
    assert value == 1
    assert torch.count_nonzero(gradient) == 0


def test_nothing_is_added_to_the_denominator():
    # one voxel of the region predicted with probability 1/2, one of background with 1/2: TP, FP, FN are 1/2 each
    logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[[True, False]]]])
    value, _ = evaluate("dice", logits, target, torch.tensor([[True]]))
    assert value == 0.5


@pytest.mark.parametrize("spatial", SPATIAL)
def test_it_is_the_released_loss_and_a_constant(spatial):
    """On one process: cross-entropies less Dice, which is clamped at 1e-7; a Dice per region of what is annotated."""
    logits, target = make_batch(3, 4, spatial)
    target[:, 3] = False  # annotated in the first sample, and empty
    leaf, ours = logits.clone().double().requires_grad_(), logits.clone().requires_grad_()
    p, y, valid = leaf.sigmoid(), target.double(), PARTIAL.reshape(3, 4, *[1] * len(spatial)).double()
    axes = [0, *range(2, leaf.ndim)]
    tp, fp, fn = ((valid * part).sum(axes) for part in (p * y, p * (1 - y), (1 - p) * y))
    dice = 2 * tp / (2 * tp + fp + fn).clamp_min(1e-7)
    voxelwise = -(y * p.log() + (1 - y) * (1 - p).log())
    cross_entropy = (valid * voxelwise).flatten(2).mean(2).sum()
    released = cross_entropy - dice.sum()
    loss = SummedDiceBCELoss(use_ignore_label=False)(ours, target, PARTIAL)
    annotated = int(PARTIAL.any(0).sum())  # of the regions, in any sample
    torch.testing.assert_close(loss.double() - released, torch.tensor(float(annotated)).double(), rtol=0, atol=1e-5)
    released.backward()
    loss.backward()
    torch.testing.assert_close(ours.grad.double(), leaf.grad, rtol=1e-4, atol=1e-7)
