import math

import pytest
import torch

from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.mamtln.jaccard_focal import JaccardFocalLoss
from nnunet_mtl.training.segmentation_loss import segmentation_loss

ANNOTATED = torch.tensor([[True, True, False], [False, False, True]])


def make_batch(spatial=(4, 5, 3), ignore=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 3, *spatial, generator=generator)
    target = torch.rand(2, 3 + ignore, *spatial, generator=generator) < 0.3
    return logits.requires_grad_(), target


def one_pair(logits, truth, counts):
    """1 - Jaccard and a tenth of the summed focal loss of one region of one sample, in double precision."""
    p, y = logits.double().sigmoid()[counts], truth[counts]
    intersection, union = p[y].sum(), p.sum() + y.sum() - p[y].sum()
    of_truth = torch.where(y, p, 1 - p)
    alpha = torch.where(y, 0.8, 0.2)
    focal = -0.1 * (alpha * (1 - of_truth).detach() * of_truth.log()).sum()
    return torch.stack([1 - (intersection + 1e-5) / (union + 1e-5), focal]).float()


@pytest.mark.parametrize("spatial", [(6, 5), (4, 5, 3)])
@pytest.mark.parametrize("ignore", [False, True])
def test_the_mean_of_jaccard_and_the_sum_of_focal_run_over_the_annotated_regions_of_samples(spatial, ignore):
    logits, target = make_batch(spatial, ignore)
    counts = ~target[:, 3] if ignore else torch.ones(2, *spatial, dtype=torch.bool)
    pairs = ANNOTATED.nonzero().tolist()
    of_pairs = torch.stack([one_pair(logits[n, r], target[n, r], counts[n]) for n, r in pairs])
    expected = torch.stack([of_pairs[:, 0].mean(), of_pairs[:, 1].sum()])
    loss = JaccardFocalLoss(use_ignore_label=ignore, dice_weight=0.5, bce_weight=3.0)
    terms = loss.terms(logits, target, ANNOTATED)
    assert list(terms) == ["jaccard", "focal"]
    torch.testing.assert_close(torch.stack(list(terms.values())), expected)
    weights = torch.tensor([0.5, 3.0])
    value = loss(logits, target, ANNOTATED)
    torch.testing.assert_close(value, (weights * expected).sum())
    (gradient,) = torch.autograd.grad(value, logits)
    (expected_gradient,) = torch.autograd.grad((weights * expected).sum(), logits)
    torch.testing.assert_close(gradient, expected_gradient)
    assert float(gradient[~ANNOTATED].abs().max()) == 0


def test_by_hand():
    """Four voxels at one half, two in the region: 1 - 1 / (2 + 2 - 1); 0.1 x (2 x 0.8 + 2 x 0.2) x 1/2 x log 2."""
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    target = torch.tensor([[[[True, True], [False, False]]]])
    terms = JaccardFocalLoss(use_ignore_label=False).terms(logits, target, torch.tensor([[True]]))
    assert float(terms["jaccard"].detach()) == pytest.approx(2 / 3, abs=1e-5)
    assert float(terms["focal"].detach()) == pytest.approx(0.1 * math.log(2))


def test_the_gradient_of_focal_takes_its_factor_as_a_constant():
    """As released, -0.1 alpha (1 - p_y)^2 towards the truth; through the factor it would be up to twice as much."""
    logits, target = make_batch()
    focal = JaccardFocalLoss(use_ignore_label=False).terms(logits, target, ANNOTATED)["focal"]
    (gradient,) = torch.autograd.grad(focal, logits)
    p = logits.detach().double().sigmoid()
    closed = torch.where(target, -0.1 * 0.8 * (1 - p) ** 2, 0.1 * 0.2 * p**2)
    torch.testing.assert_close(gradient[ANNOTATED], closed[ANNOTATED].float())


def test_one_region_is_the_published_softmax_of_background_and_foreground():
    """Value and gradient, with the logit the difference of two; of the released -Jaccard the gradient is the same."""
    generator = torch.Generator().manual_seed(3)
    two = (2 * torch.randn(3, 2, 4, 5, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    truth = torch.rand(3, 1, 4, 5, 3, generator=generator) < 0.3
    chance = two.softmax(1)
    of_truth = torch.where(truth, chance[:, 1:], chance[:, :1])
    focal = -(torch.where(truth, 0.8, 0.2) * (1 - of_truth.detach()) * of_truth.log()).sum()
    hit, missed = ((chance[:, 1:] * each).sum((1, 2, 3, 4)) for each in (truth, ~truth))
    jaccard = (hit + 1e-5) / (truth.sum((1, 2, 3, 4)) + missed + 1e-5)
    published = -jaccard.mean() + 0.1 * focal
    ours = JaccardFocalLoss(use_ignore_label=False)(two[:, 1:] - two[:, :1], truth, torch.ones(3, 1, dtype=torch.bool))
    torch.testing.assert_close(ours, 1 + published.float())
    gradients = [torch.autograd.grad(loss, two, retain_graph=True)[0] for loss in (ours, published)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_focal_is_summed_over_the_batch_and_jaccard_averaged():
    """As released: twice the samples, or eight times the voxels, are as many times the focal loss."""
    logits, target = make_batch()
    loss = JaccardFocalLoss(use_ignore_label=False)
    once = loss.terms(logits.detach(), target, ANNOTATED)
    for repeats, factor in (((2, 1, 1, 1, 1), 2), ((1, 1, 2, 2, 2), 8)):
        tiled, truth = (each.repeat(*repeats) for each in (logits.detach(), target))
        many = loss.terms(tiled, truth, ANNOTATED.repeat(repeats[0], 1))
        torch.testing.assert_close(many["jaccard"], once["jaccard"], atol=1e-5, rtol=0)
        torch.testing.assert_close(many["focal"], factor * once["focal"])


def test_it_is_never_negative_and_0_where_all_is_right():
    for seed in range(5):
        logits, target = make_batch(seed=seed)
        terms = JaccardFocalLoss(use_ignore_label=False).terms(logits, target, ANNOTATED)
        assert all(float(value.detach()) > 0 for value in terms.values())
    right = JaccardFocalLoss(use_ignore_label=False).terms(50.0 * (2 * target.float() - 1), target, ANNOTATED)
    assert all(0 <= float(value) < 1e-6 for value in right.values())
    empty = torch.zeros_like(target)
    right = JaccardFocalLoss(use_ignore_label=False).terms(torch.full(logits.shape, -50.0), empty, ANNOTATED)
    assert all(0 <= float(value) < 1e-6 for value in right.values())


def test_in_an_empty_region_the_focal_loss_teaches():
    logits, target = make_batch()
    terms = JaccardFocalLoss(use_ignore_label=False).terms(logits, torch.zeros_like(target), ANNOTATED)
    assert float(terms["jaccard"].detach()) == pytest.approx(1, abs=1e-5)
    (gradient,) = torch.autograd.grad(terms["focal"], logits)
    assert bool((gradient[ANNOTATED] > 0).all())


def test_false_positives_in_an_empty_patch_cost_a_good_share_of_what_a_missed_region_costs():
    """A tenth of 0.2 -log(1 - p) p, of every voxel, to the Jaccard term's 1."""
    truth, annotated = torch.zeros(1, 1, 16, 16, dtype=torch.bool), torch.tensor([[True]])
    nothing, everything = (torch.full((1, 1, 16, 16), value) for value in (-9.0, 3.0))
    loss = JaccardFocalLoss(use_ignore_label=False)
    cost = float(loss(everything, truth, annotated) - loss(nothing, truth, annotated))
    p = 1 / (1 + math.exp(-3))
    assert cost == pytest.approx(-0.1 * 256 * 0.2 * p * math.log(1 - p), rel=1e-3)
    assert cost > 1


@pytest.mark.parametrize("wrong", [-1.0, 1.0])
def test_a_confident_mistake_is_finite_and_teaches(wrong):
    target = torch.full((1, 1, 2, 2), wrong < 0)
    logits = torch.full((1, 1, 2, 2), 200 * wrong, requires_grad=True)
    value = JaccardFocalLoss(use_ignore_label=False)(logits, target, torch.tensor([[True]]))
    value.backward()
    assert bool(value.isfinite())
    assert float((logits.grad * wrong).min()) > 0


@pytest.mark.parametrize("ignore", [False, True])
def test_without_annotation_the_loss_is_zero_and_attached(ignore):
    logits, target = make_batch(ignore=ignore)
    value = JaccardFocalLoss(use_ignore_label=ignore)(logits, target, torch.zeros_like(ANNOTATED))
    assert float(value.detach()) == 0
    value.backward()
    assert float(logits.grad.abs().max()) == 0
    if ignore:
        target[:, -1] = True  # not a voxel counts
        assert bool(JaccardFocalLoss(use_ignore_label=True)(logits, target, ANNOTATED).isfinite())


def test_what_nobody_annotated_is_not_read():
    logits, target = make_batch()
    loss = JaccardFocalLoss(use_ignore_label=False)
    before = loss(logits, target, ANNOTATED)
    target[~ANNOTATED] = ~target[~ANNOTATED]
    with torch.no_grad():
        logits[~ANNOTATED] = float("nan")
    assert torch.equal(loss(logits, target, ANNOTATED), before)


def test_half_precision_is_summed_in_single():
    logits, target = make_batch((16, 16, 16))
    loss = JaccardFocalLoss(use_ignore_label=False)
    half = logits.detach().half()
    assert torch.equal(loss(half, target, ANNOTATED), loss(half.float(), target, ANNOTATED))
    assert loss(half, target, ANNOTATED).dtype == torch.float32


def test_shapes_are_checked():
    logits, target = make_batch()
    with pytest.raises(ValueError, match="need 4 channels"):
        JaccardFocalLoss(use_ignore_label=True).terms(logits, target, ANNOTATED)


def train_as_one_of_two(rank):
    """The loss and its gradient, of one sample of the batch in each process."""
    logits, target = make_batch()
    own = logits.detach()[[rank]].requires_grad_()
    value = JaccardFocalLoss(use_ignore_label=False)(own, target[[rank]], ANNOTATED[[rank]])
    value.backward()
    return value.detach(), own.grad


def test_two_processes_train_as_one(two_processes):
    logits, target = make_batch()
    value = JaccardFocalLoss(use_ignore_label=False)(logits, target, ANNOTATED)
    value.backward()
    mean = (two_processes[0][0] + two_processes[1][0]) / 2
    torch.testing.assert_close(mean, value.detach())
    for rank, (_, gradient) in enumerate(two_processes):
        torch.testing.assert_close(gradient / 2, logits.grad[[rank]])


def test_the_criterion_knows_it_by_its_mode():
    options = {"batch_dice": True, "use_ignore_label": True, "dice_weight": 2.0, "bce_weight": 0.5}
    loss = segmentation_loss("jaccard_focal", Layout((0, 0, 0), (0, 1, 2), ((1,),) * 3), **options)
    assert isinstance(loss, JaccardFocalLoss)
    assert (loss.use_ignore_label, loss.dice_weight, loss.bce_weight) == (True, 2.0, 0.5)
