import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from nnunet_mtl.losses.channel import ChannelDiceBCELoss
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.multitalent.summed import SummedDiceBCELoss
from nnunet_mtl.training.segmentation_loss import segmentation_loss

SLOTS = (0, 1, 0, 1, 2)
# Channel 0: samples 0 and 1; channel 1: sample 0 alone; channel 2: nobody.
ANNOTATED = torch.tensor([[True, True, False, False, False], [False, False, True, False, False]])


def make_batch(spatial=(4, 5, 3), ignore=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 5, *spatial, generator=generator)
    target = torch.rand(2, 5 + ignore, *spatial, generator=generator) < 0.3
    return logits.requires_grad_(), target


def one_pair(logits, truth, counts):
    """Dice and cross-entropy of one channel of one sample, as the release computes them."""
    p, y = logits.sigmoid() * counts, truth.float() * counts
    dice = 1 - 2 * (p * y).sum() / (p.sum() + y.sum() + 1)
    voxelwise = binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
    return torch.stack([dice, (voxelwise * counts).sum() / counts.sum()])


@pytest.mark.parametrize("spatial", [(6, 5), (4, 5, 3)])
@pytest.mark.parametrize("ignore", [False, True])
def test_means_are_over_samples_then_over_channels(spatial, ignore):
    logits, target = make_batch(spatial, ignore)
    counts = (~target[:, 5]).float() if ignore else torch.ones(2, *spatial)
    organ = (one_pair(logits[0, 0], target[0, 0], counts[0]) + one_pair(logits[1, 2], target[1, 2], counts[1])) / 2
    tumour = one_pair(logits[0, 1], target[0, 1], counts[0])
    expected = (organ + tumour) / 2  # channel 2 does not count
    loss = ChannelDiceBCELoss(SLOTS, use_ignore_label=ignore, dice_weight=0.5, bce_weight=3.0)
    terms = loss.terms(logits, target, ANNOTATED)
    assert list(terms) == ["dice", "bce"]
    torch.testing.assert_close(torch.stack(list(terms.values())), expected)
    weights = torch.tensor([0.5, 3.0])
    value = loss(logits, target, ANNOTATED)
    torch.testing.assert_close(value, (weights * expected).sum())
    (gradient,) = torch.autograd.grad(value, logits)
    (expected_gradient,) = torch.autograd.grad((weights * expected).sum(), logits)
    torch.testing.assert_close(gradient, expected_gradient)
    assert float(gradient[~ANNOTATED].abs().max()) == 0


def test_dice_by_hand():
    """Four voxels at probability 1/2, two of them in the region: 1 - 2 * 1 / (2 + 2 + 1)."""
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    target = torch.tensor([[[[True, True], [False, False]]]])
    terms = ChannelDiceBCELoss((0,), use_ignore_label=False).terms(logits, target, torch.tensor([[True]]))
    assert float(terms["dice"].detach()) == pytest.approx(0.6)
    assert float(terms["bce"].detach()) == pytest.approx(0.6931472)


def test_an_empty_region_has_a_constant_dice_and_the_cross_entropy_teaches():
    logits, target = make_batch()
    terms = ChannelDiceBCELoss(SLOTS, use_ignore_label=False).terms(logits, torch.zeros_like(target), ANNOTATED)
    assert float(terms["dice"].detach()) == 1
    (gradient,) = torch.autograd.grad(terms["dice"], logits, retain_graph=True)
    assert float(gradient.abs().max()) == 0
    (gradient,) = torch.autograd.grad(terms["bce"], logits)
    assert bool((gradient[ANNOTATED] > 0).all())


@pytest.mark.parametrize("ignore", [False, True])
def test_without_annotation_the_loss_is_zero_and_attached(ignore):
    logits, target = make_batch(ignore=ignore)
    if ignore:
        target[:, -1] = True  # not a voxel counts
    for annotated in (torch.zeros_like(ANNOTATED), ANNOTATED if ignore else torch.zeros_like(ANNOTATED)):
        value = ChannelDiceBCELoss(SLOTS, use_ignore_label=ignore, dice_weight=0.0)(logits, target, annotated)
        assert float(value.detach()) == 0
        value.backward()
        assert float(logits.grad.abs().max()) == 0


def test_what_nobody_annotated_is_not_read():
    logits, target = make_batch()
    loss = ChannelDiceBCELoss(SLOTS, use_ignore_label=False)
    before = loss(logits, target, ANNOTATED)
    target[~ANNOTATED] = ~target[~ANNOTATED]
    with torch.no_grad():
        logits[~ANNOTATED] = float("nan")
    assert torch.equal(loss(logits, target, ANNOTATED), before)


def test_shapes_are_checked():
    logits, target = make_batch()
    with pytest.raises(ValueError, match="need 2 channels"):
        ChannelDiceBCELoss((0, 1), use_ignore_label=False).terms(logits, target, ANNOTATED)


def train_as_one_of_two(rank):
    """The published loss and its gradient, of one sample of the batch in each process."""
    logits, target = make_batch()
    own = logits.detach()[[rank]].requires_grad_()
    value = ChannelDiceBCELoss(SLOTS, use_ignore_label=False)(own, target[[rank]], ANNOTATED[[rank]])
    value.backward()
    return value.detach(), own.grad


def test_two_processes_train_as_one(two_processes):
    logits, target = make_batch()
    value = ChannelDiceBCELoss(SLOTS, use_ignore_label=False)(logits, target, ANNOTATED)
    value.backward()
    for rank, (of_process, gradient) in enumerate(two_processes):
        torch.testing.assert_close(of_process, value.detach())
        torch.testing.assert_close(gradient / 2, logits.grad[[rank]])


def test_the_criterion_knows_it_by_its_mode():
    layout = Layout((0, 0, 1, 1, 2), SLOTS, ((1,),) * 5)
    options = {"batch_dice": True, "use_ignore_label": False, "dice_weight": 2.0, "bce_weight": 0.5}
    loss = segmentation_loss("channel", layout, **options)
    assert isinstance(loss, ChannelDiceBCELoss)
    assert (loss.slot_of_region.tolist(), loss.dice_weight, loss.bce_weight) == (list(SLOTS), 2.0, 0.5)
    assert isinstance(segmentation_loss("summed", layout, **options), SummedDiceBCELoss)


@pytest.mark.parametrize("ignore", [False, True])
def test_pairs_have_one_mean_over_the_regions_of_all_samples(ignore):
    logits, target = make_batch(ignore=ignore)
    counts = (~target[:, 5]).float() if ignore else torch.ones(2, 4, 5, 3)
    of_pairs = [one_pair(logits[b, r], target[b, r], counts[b]) for b, r in ANNOTATED.nonzero().tolist()]
    expected = torch.stack(of_pairs).mean(0)
    options = {"batch_dice": True, "use_ignore_label": ignore, "dice_weight": 0.5, "bce_weight": 3.0}
    # regions that share no channel, as those of the CLIP-driven model
    loss = segmentation_loss(
        "pair", Layout((0, 0, 1, 1, 2), (0, 1, 0, 1, 2), ((1,), (2,), (3,), (4,), (5,))), **options
    )
    torch.testing.assert_close(torch.stack(list(loss.terms(logits, target, ANNOTATED).values())), expected)
    value = loss(logits, target, ANNOTATED)
    torch.testing.assert_close(value, (torch.tensor([0.5, 3.0]) * expected).sum())
