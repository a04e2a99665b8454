import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.tal.marginal import MarginalDiceCELoss

SPATIAL = [pytest.param((6, 5), id="2D"), pytest.param((4, 5, 3), id="3D")]
BATCH_DICE = [pytest.param(False, id="sample dice"), pytest.param(True, id="batch dice")]

# Leaves: 1 liver, 2 its tumour, 3 vessel outside the liver, 4 vessel inside it, 5 kidney.
LIVER, TUMOUR, VESSEL, KIDNEY = range(4)
ANATOMY = torch.tensor(Layout((0, 0, 1, 2), (0, 1, 0, 0), ((1, 2, 4), (2,), (3, 4), (5,))).membership)
DISJOINT = torch.tensor(Layout((0, 1, 2), (0, 0, 0), ((1,), (2,), (3,))).membership)
PARTIAL = torch.tensor(
    [
        [True, True, False, False],
        [False, False, True, True],
        [False, False, False, False],
        [True, False, False, False],
        [False, True, True, False],
    ]
)


def regions_of(labels, membership=ANATOMY):
    """Region targets (B, R, *spatial) of a map of leaves (B, *spatial)."""
    return membership[:, labels].movedim(0, 1)


def make_batch(n_samples, spatial, membership=ANATOMY, seed=0):
    """Random logits of the leaves, and a random map of leaves."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n_samples, membership.shape[1], *spatial, generator=generator)
    return logits, torch.randint(membership.shape[1], (n_samples, *spatial), generator=generator)


def loss_of(membership=ANATOMY, *, ignore=False, batch_dice=False, **weights):
    return MarginalDiceCELoss(membership, batch_dice=batch_dice, use_ignore_label=ignore, **weights)


def evaluate(loss, logits, *others):
    """Return the loss and its gradient on the logits."""
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, *others)
    value.backward()
    return value.detach(), leaf.grad


def of_one_voxel(probability, annotated, observed, membership=ANATOMY):
    """Cross-entropy, and gradient on the logits, of a voxel seen in the regions `observed`; those given by index."""
    mask = torch.zeros(1, len(membership), dtype=torch.bool)
    target = torch.zeros(1, len(membership), 1, dtype=torch.bool)
    mask[0, list(annotated)], target[0, list(observed)] = True, True
    logits = torch.tensor(probability).log().add(1.7)[None, :, None]
    value, gradient = evaluate(loss_of(membership, dice_weight=0.0), logits, target, mask)
    return value.item(), gradient[0, :, 0]


def by_definition(membership, logits, target, annotated, ignored, batch_dice):
    """Both terms from the definition, densely and in float64: (dice, cross-entropy)."""
    probability = logits.softmax(1)
    voxels, pairs = [], {}
    for sample, row in enumerate(annotated):
        if not row.any():
            continue
        seen = target[sample, : len(membership)][row]  # (A, *spatial)
        inside = membership[row].view(*membership[row].shape, *[1] * (seen.ndim - 1))
        consistent = (inside == seen[:, None]).all(0)  # (L + 1, *spatial)
        counts = consistent.any(0) & ~ignored[sample]
        voxels.append(-(probability[sample] * consistent).sum(0)[counts].log())
        for region in row.nonzero()[:, 0].tolist():
            p = probability[sample][membership[region]].sum(0)[counts]
            y = target[sample, region][counts].double()
            pairs.setdefault(region if batch_dice else (sample, region), []).append((p, y))
    dice = []
    for samples in pairs.values():
        p, y = (torch.cat([sample[i] for sample in samples]) for i in range(2))
        dice.append(1 - (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5))
    return torch.stack(dice).mean(), torch.cat(voxels).mean()


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("batch_dice", BATCH_DICE)
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("contradictory", [False, True])
def test_value_and_gradient_are_those_of_the_definition(spatial, batch_dice, ignore, contradictory):
    logits, labels = make_batch(5, spatial)
    target = regions_of(labels)
    if contradictory:  # a mask for each region: tumour outside the liver, vessels that are kidney
        target = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    ignored = torch.zeros_like(labels, dtype=torch.bool)
    if ignore:
        ignored = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) < 0.25
        target = torch.cat([target, ignored[:, None]], 1)
    reference = logits.double().requires_grad_()
    expected = by_definition(ANATOMY, reference, target, PARTIAL, ignored, batch_dice)
    for name, value in zip(("dice", "ce"), expected, strict=True):
        leaf = logits.clone().requires_grad_()
        term = loss_of(ignore=ignore, batch_dice=batch_dice).terms(leaf, target, PARTIAL)[name]
        torch.testing.assert_close(term, value.float(), rtol=1e-5, atol=0)
        (expected_gradient,) = torch.autograd.grad(value, reference, retain_graph=True)
        (gradient,) = torch.autograd.grad(term, leaf)
        torch.testing.assert_close(gradient, expected_gradient.float(), rtol=1e-4, atol=1e-8)


def test_background_merges_with_what_nobody_annotated():
    # organs a, b, c with probabilities 0.2, 0.3 and 0.4 beside background's 0.1; only a is annotated
    value, _ = of_one_voxel([0.1, 0.2, 0.3, 0.4], annotated=[0], observed=[], membership=DISJOINT)
    assert value == pytest.approx(-torch.tensor(0.1 + 0.3 + 0.4).log().item())
    value, _ = of_one_voxel([0.1, 0.2, 0.3, 0.4], annotated=[0], observed=[0], membership=DISJOINT)
    assert value == pytest.approx(-torch.tensor(0.2).log().item())
    # a and c are annotated: only b joins the background
    value, _ = of_one_voxel([0.1, 0.2, 0.3, 0.4], annotated=[0, 2], observed=[], membership=DISJOINT)
    assert value == pytest.approx(-torch.tensor(0.1 + 0.3).log().item())


def test_gradient_on_a_background_voxel_is_the_closed_form():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    _, gradient = of_one_voxel(p.tolist(), annotated=[0], observed=[], membership=DISJOINT)
    merged = p[0] + p[2] + p[3]
    torch.testing.assert_close(gradient, torch.stack([*(p * (1 - 1 / merged))[:1], p[1], *(p * (1 - 1 / merged))[2:]]))
    # within the group the gradients are in the ratio of the probabilities, and not zero
    torch.testing.assert_close(gradient[[0, 2, 3]] / p[[0, 2, 3]], (1 - 1 / merged).expand(3))
    assert (gradient[[0, 2, 3]] < 0).all()


def test_gradient_on_a_foreground_voxel_is_that_of_cross_entropy():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    _, gradient = of_one_voxel(p.tolist(), annotated=[0], observed=[0], membership=DISJOINT)
    torch.testing.assert_close(gradient, p - torch.tensor([0.0, 1.0, 0.0, 0.0]))


P = [0.05, 0.1, 0.15, 0.2, 0.22, 0.28]  # background, liver, tumour, vessel outside, vessel inside, kidney


@pytest.mark.parametrize(
    ("annotated", "observed", "consistent"),
    [
        pytest.param([LIVER], [LIVER], [1, 2, 4], id="liver: its tumour and the vessel inside it are liver"),
        pytest.param([LIVER], [], [0, 3, 5], id="not liver: any other organ, and the vessel outside"),
        pytest.param([TUMOUR], [TUMOUR], [2], id="tumour"),
        pytest.param([TUMOUR], [], [0, 1, 3, 4, 5], id="not tumour: healthy liver as well"),
        pytest.param([LIVER, TUMOUR], [LIVER], [1, 4], id="healthy liver, with or without a vessel"),
        pytest.param([LIVER, TUMOUR], [LIVER, TUMOUR], [2], id="liver and tumour"),
        pytest.param([VESSEL], [VESSEL], [3, 4], id="vessel: inside the liver or outside"),
        pytest.param([LIVER, VESSEL], [LIVER, VESSEL], [4], id="vessel inside the liver"),
        pytest.param([LIVER, VESSEL], [VESSEL], [3], id="vessel outside the liver"),
        pytest.param([LIVER, VESSEL], [LIVER], [1, 2], id="liver but not vessel"),
        pytest.param([KIDNEY, VESSEL], [], [0, 1, 2], id="neither kidney nor vessel"),
        pytest.param([LIVER, TUMOUR, VESSEL, KIDNEY], [], [0], id="background"),
        pytest.param([LIVER], [LIVER, KIDNEY], [1, 2, 4], id="a region that is not annotated says nothing"),
    ],
)
def test_the_leaves_that_agree_with_the_annotation_are_summed(annotated, observed, consistent):
    value, gradient = of_one_voxel(P, annotated, observed)
    p = torch.tensor(P)
    merged = p[consistent].sum()
    assert value == pytest.approx(-merged.log().item(), rel=1e-5)
    expected = p.clone()
    expected[consistent] *= 1 - 1 / merged
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("annotated", "observed"),
    [
        pytest.param([LIVER, TUMOUR], [TUMOUR], id="tumour outside its organ"),
        pytest.param([VESSEL, KIDNEY], [VESSEL, KIDNEY], id="two regions that no label value has in common"),
    ],
)
def test_a_voxel_with_which_no_leaf_is_consistent_is_left_out(annotated, observed):
    value, gradient = of_one_voxel(P, annotated, observed)
    assert value == 0
    assert torch.count_nonzero(gradient) == 0


@pytest.mark.parametrize("batch_dice", BATCH_DICE)
def test_contradictory_voxels_are_left_out_as_ignored_ones_are(batch_dice):
    logits, labels = make_batch(2, (6, 5))
    target, everything = regions_of(labels), torch.ones(2, 4, dtype=torch.bool)
    contradictory = labels == 5
    ignored = torch.cat([target, contradictory[:, None]], 1)
    expected, expected_gradient = evaluate(loss_of(ignore=True, batch_dice=batch_dice), logits, ignored, everything)
    target[:, TUMOUR] |= contradictory
    value, gradient = evaluate(loss_of(batch_dice=batch_dice), logits, target, everything)
    assert torch.equal(value, expected)
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("batch_dice", BATCH_DICE)
def test_the_loss_does_not_see_how_probability_is_spread_within_a_group(batch_dice):
    logits, labels = make_batch(2, (6, 5))
    annotated = torch.tensor([[True, True, False, False]] * 2)
    p = logits.double().softmax(1)
    other = p.clone()
    for group in ([0, 3, 5], [1, 4], [2]):
        share = torch.rand(2, len(group), 6, 5, generator=torch.Generator().manual_seed(3)).double().softmax(1)
        other[:, group] = p[:, group].sum(1, keepdim=True) * share
    assert not torch.allclose(p, other, rtol=0.1)
    loss = loss_of(batch_dice=batch_dice)
    before, after = (loss.terms(each.log().float(), regions_of(labels), annotated) for each in (p, other))
    for name in ("dice", "ce"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=0)


@pytest.mark.parametrize("spatial", SPATIAL)
def test_everything_annotated_is_ordinary_cross_entropy(spatial):
    logits, labels = make_batch(3, spatial)
    everything = torch.ones(3, 4, dtype=torch.bool)
    value, gradient = evaluate(loss_of(dice_weight=0.0), logits, regions_of(labels), everything)
    expected, expected_gradient = evaluate(cross_entropy, logits, labels)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-9)


def test_everything_annotated_with_ignored_voxels_is_ordinary_cross_entropy():
    logits, labels = make_batch(3, (6, 5))
    ignored = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    target = torch.cat([regions_of(labels), ignored[:, None]], 1)
    everything = torch.ones(3, 4, dtype=torch.bool)
    value, gradient = evaluate(loss_of(ignore=True, dice_weight=0.0), logits, target, everything)
    expected, expected_gradient = evaluate(cross_entropy, logits, labels.masked_fill(ignored, -100))
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-9)


def test_dice_of_disjoint_regions_is_soft_dice_of_the_softmax():
    logits, labels = make_batch(2, (6, 5), DISJOINT)
    everything = torch.ones(2, 3, dtype=torch.bool)
    terms = loss_of(DISJOINT, batch_dice=True).terms(logits, regions_of(labels, DISJOINT), everything)
    p, y = logits.softmax(1), one_hot(labels, 4).movedim(-1, 1)
    intersection, total = ((values * torch.ones_like(p)).sum((0, 2, 3))[1:] for values in (p * y, p + y))
    torch.testing.assert_close(terms["dice"], 1 - (2 * intersection / total).mean())


@pytest.mark.parametrize("region", [LIVER, TUMOUR, VESSEL, KIDNEY])
def test_a_single_annotated_region_is_binary_cross_entropy_of_its_probability(region):
    logits, labels = make_batch(2, (6, 5))
    target = regions_of(labels)
    annotated = torch.zeros(2, 4, dtype=torch.bool)
    annotated[:, region] = True
    value, gradient = evaluate(loss_of(dice_weight=0.0), logits, target, annotated)

    def binary(leaves):
        log_odds = leaves[:, ANATOMY[region]].logsumexp(1) - leaves[:, ~ANATOMY[region]].logsumexp(1)
        return binary_cross_entropy_with_logits(log_odds, target[:, region].float())

    expected, expected_gradient = evaluate(binary, logits)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-8)


def test_one_region_with_one_leaf_is_binary_segmentation():
    logits, labels = make_batch(2, (6, 5), torch.tensor([[False, True]]))
    target, annotated = labels[:, None] == 1, torch.ones(2, 1, dtype=torch.bool)
    terms = loss_of([[False, True]]).terms(logits, target, annotated)
    expected = binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], target[:, 0].float())
    torch.testing.assert_close(terms["ce"], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("ignore", [False, True])
def test_a_batch_that_mixes_annotations_is_its_samples_one_by_one(ignore):
    logits, labels = make_batch(5, (6, 5))
    target = regions_of(labels)
    if ignore:
        target = torch.cat([target, torch.rand(5, 1, 6, 5, generator=torch.Generator().manual_seed(2)) < 0.3], 1)
    together = loss_of(ignore=ignore).terms(logits, target, PARTIAL)
    alone = [loss_of(ignore=ignore).terms(logits[[b]], target[[b]], PARTIAL[[b]]) for b in range(5)]
    n_voxels = (~target[:, 4]).sum((1, 2)) if ignore else torch.full((5,), 30)
    for name, weights in (("ce", n_voxels * PARTIAL.any(1)), ("dice", PARTIAL.sum(1))):
        expected = sum(weight * terms[name] for weight, terms in zip(weights, alone, strict=True)) / weights.sum()
        torch.testing.assert_close(together[name], expected, rtol=1e-6, atol=0)


def test_logits_of_unannotated_leaves_are_moved():
    logits, labels = make_batch(5, (6, 5))
    _, gradient = evaluate(loss_of(), logits, regions_of(labels), PARTIAL)
    assert torch.count_nonzero(gradient[3, 5]) == 30  # the kidney of a sample annotated for the liver


@pytest.mark.parametrize("batch_dice", BATCH_DICE)
def test_leaves_that_are_all_but_impossible_keep_their_gradient(batch_dice):
    # exp(-200) is 0 in float32: computed from probabilities the loss would be infinite
    logits = torch.tensor([0.0, 200.0, -50.0, -30.0])[None, :, None]
    annotated, target = torch.tensor([[True, False, False]]), torch.zeros(1, 3, 1, dtype=torch.bool)
    loss = loss_of(DISJOINT, batch_dice=batch_dice, dice_weight=0.0)
    value, gradient = evaluate(loss, logits, target, annotated)
    assert value == 200
    torch.testing.assert_close(gradient[0, :, 0], torch.tensor([-1.0, 1.0, 0.0, 0.0]))
    value, gradient = evaluate(loss_of(DISJOINT, batch_dice=batch_dice), 1e4 * logits, target, annotated)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_leaves_that_no_region_tells_apart_are_one():
    # leaves 1 and 2 are one region and nothing else
    membership = torch.tensor([[False, True, True, False], [False, False, False, True]])
    logits, labels = make_batch(2, (6, 5), membership)
    value, _ = evaluate(loss_of(membership), logits, regions_of(labels, membership), torch.ones(2, 2, dtype=torch.bool))
    merged = torch.stack([logits[:, 0], logits[:, 1:3].logsumexp(1), logits[:, 3]], 1)
    distinct = torch.tensor([[False, True, False], [False, False, True]])
    target = regions_of(torch.tensor([0, 1, 1, 2])[labels], distinct)
    expected, _ = evaluate(loss_of(distinct), merged, target, torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def saved_bytes(run):
    """Bytes that autograd keeps for the backward pass, every storage counted once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = run()
    assert value.requires_grad
    return sum(storages.values())


def test_memory_grows_with_what_the_annotation_tells_apart():
    membership = torch.eye(17)[1:].bool()  # 16 organs
    logits, labels = make_batch(2, (32, 32), membership)
    target = regions_of(labels, membership)
    nothing, one, both, everything = (torch.zeros(2, 16, dtype=torch.bool) for _ in range(4))
    one[0, 3] = both[:, 3] = everything[:] = True

    def kept(annotated):
        return saved_bytes(lambda: loss_of(membership)(logits.requires_grad_(), target, annotated)) / 32**2

    assert kept(nothing) < 1
    # of one organ's sample: 16 merged logits and their logit, two values of two groups, index, two masks
    assert kept(one) == pytest.approx(4 * (16 + 1 + 2 * 2) + 8 + 2, abs=3)
    assert kept(both) == pytest.approx(2 * kept(one), abs=3)
    # of everything annotated: two values of 17 groups
    assert kept(everything) == pytest.approx(2 * (4 * 2 * 17 + 8 + 16 + 1), abs=3)

    def ordinary():
        p, y = logits.requires_grad_().softmax(1), one_hot(labels, 17).movedim(-1, 1).float()
        return cross_entropy(logits, labels) + (2 * (p * y).sum() / (p.sum() + y.sum()))

    assert kept(both) < saved_bytes(ordinary) / 32**2


def test_logits_that_are_not_the_leaves_are_refused():
    logits, labels = make_batch(2, (6, 5))
    with pytest.raises(ValueError, match="logits have 5 channels, expected 6"):
        loss_of()(logits[:, :5], regions_of(labels), PARTIAL[:2])
