import pytest
import torch
from torch import nn

from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.tal.leaf_head import LeafHead
from nnunet_mtl.networks.tal.marginal import MarginalDiceCELoss

# liver with its tumour and a vessel inside it (leaf 7), the tumour, the vessel, which is also outside, and the kidney
LAYOUT = Layout((0, 0, 1, 2), (0, 1, 0, 0), ((7, 1, 2), (2,), (4, 7), (5,)))
LIVER, TUMOUR, VESSEL, KIDNEY = range(4)
CHANNELS = ((1, 2, 5), (2,), (3, 5), (4,))  # of each region: leaves 1, 2, 4, 5, 7 after background
SPATIAL = [pytest.param((6, 5), id="2D"), pytest.param((4, 5, 3), id="3D")]


@pytest.fixture
def head():
    return LeafHead(LAYOUT, 8)


def random_leaves(spatial, scale=3.0, n_samples=2):
    return scale * torch.randn(n_samples, 6, *spatial, generator=torch.Generator().manual_seed(0))


def test_there_is_a_channel_for_background_and_each_leaf(head):
    assert LeafHead.channels(LAYOUT) == 6
    layer = nn.Conv2d(3, 6, 1)
    features = torch.randn(2, 3, 4, 4)
    assert torch.equal(head(features, layer, head.context(None)), layer(features))
    assert (LeafHead.conditioned, LeafHead.reads_deepest, LeafHead.shared) == (False, False, False)


@pytest.mark.parametrize("spatial", SPATIAL)
def test_a_regions_probability_is_the_sum_of_its_leaves(head, spatial):
    raw = random_leaves(spatial)
    regions = head.regions(raw)
    assert regions.shape == (2, 4, *spatial)
    assert regions.is_contiguous()
    p = raw.double().softmax(1)
    for region, channels in enumerate(CHANNELS):
        torch.testing.assert_close(regions[:, region].sigmoid().double(), p[:, channels].sum(1), rtol=1e-5, atol=1e-7)
        log_odds = p[:, channels].sum(1).logit()
        torch.testing.assert_close(regions[:, region].double(), log_odds, rtol=1e-5, atol=1e-5)


def test_where_one_leaf_is_likelier_than_not_its_regions_and_no_others_are_exported(head):
    raw = random_leaves((40, 40))
    probability, leaf = raw.softmax(1).max(1)
    decided = probability > 0.5
    assert 0.2 < decided.float().mean() < 0.95
    exported = head.regions(raw).sigmoid() > 0.5
    for region, channels in enumerate(CHANNELS):
        union = torch.isin(leaf, torch.tensor(channels))
        assert torch.equal(exported[:, region][decided], union[decided])


def test_leaves_decide_together_where_none_does_alone(head):
    # healthy liver, its tumour and the vessel inside it are less likely than background each, but together it is liver
    p = torch.tensor([0.4, 0.2, 0.2, 0.0, 0.0, 0.2])
    exported = head.regions(p.log()[None, :, None, None])[0, :, 0, 0] > 0
    assert exported.tolist() == [True, False, False, False]


def test_a_tumour_is_never_likelier_than_its_organ_and_disjoint_regions_exclude_each_other(head):
    raw = random_leaves((40, 40), scale=6.0, n_samples=4)
    single = head.regions(raw)
    averaged = head.regions(raw).mean(0, keepdim=True)  # as over tiles, mirrored images and folds
    for regions in (single, averaged):
        assert (regions[:, TUMOUR] <= regions[:, LIVER] + 1e-5).all()
        exported = regions > 0
        assert not (exported[:, TUMOUR] & ~exported[:, LIVER]).any()
        assert not (exported[:, KIDNEY] & (exported[:, LIVER] | exported[:, VESSEL])).any()
        assert (exported[:, VESSEL] & exported[:, LIVER]).any()  # the vessel inside the liver


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
def test_logits_of_any_size_give_finite_log_odds_and_gradients(head, scale):
    raw = random_leaves((6, 5), scale=scale).requires_grad_()
    regions = head.regions(raw)
    assert regions.isfinite().all()
    assert regions.abs().max() < 88
    (gradient,) = torch.autograd.grad(regions.sum(), raw)
    assert gradient.isfinite().all()


def test_log_odds_are_exact_where_the_probability_is_all_but_one(head):
    # 1 - p is 5 exp(-40), below what float32 can tell from 0 beside 1
    raw = torch.tensor([0.0, 0.0, 0.0, 0.0, 40.0, 0.0])[None, :, None, None]
    regions = head.regions(raw)[0, :, 0, 0]
    assert regions[KIDNEY].item() == pytest.approx(40 - torch.tensor(5.0).log().item(), rel=1e-6)
    assert regions[TUMOUR].item() == pytest.approx(-40, rel=1e-6)


def test_gradient_is_that_of_the_log_odds(head):
    raw = random_leaves((2, 2)).double().requires_grad_()
    p = raw.softmax(1)
    expected = torch.stack([p[:, channels].sum(1).logit() for channels in CHANNELS], 1)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), raw)
    (gradient,) = torch.autograd.grad((head.regions(raw) * weights).sum(), raw)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(head, dtype):
    raw = random_leaves((6, 5)).to(dtype)
    expected = head.regions(raw.float())
    assert torch.equal(head.regions(raw), expected)
    with torch.autocast("cpu", torch.bfloat16):
        regions = head.regions(raw)
    assert regions.dtype == torch.float32
    assert torch.equal(regions, expected)


def test_memory_layout_does_not_matter(head):
    raw = random_leaves((6, 5))
    torch.testing.assert_close(head.regions(raw.to(memory_format=torch.channels_last)), head.regions(raw))


def test_the_head_adds_nothing_to_a_checkpoint(head):
    assert not head.state_dict()


def test_what_the_marginal_loss_teaches_is_what_the_regions_say(head):
    """Trained on the liver alone, the leaves' logits become a liver, whatever the leaves."""
    torch.manual_seed(0)
    labels = torch.randint(6, (1, 8, 8))
    target = torch.tensor(LAYOUT.membership)[:, labels].movedim(0, 1)
    raw = torch.zeros(1, 6, 8, 8, requires_grad=True)
    loss = MarginalDiceCELoss(LAYOUT.membership, batch_dice=False, use_ignore_label=False)
    optimizer = torch.optim.SGD([raw], lr=50.0)
    for _ in range(20):
        optimizer.zero_grad()
        loss(raw, target, torch.tensor([[True, False, False, False]])).backward()
        optimizer.step()
    assert torch.equal(head.regions(raw)[:, LIVER] > 0, target[:, LIVER])
