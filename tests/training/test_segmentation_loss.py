"""What the losses over partial labels have in common, whatever their logits mean."""

import pytest
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunet_mtl.losses.partial import MaskedDiceBCELoss
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.multitalent.summed import SummedDiceBCELoss
from nnunet_mtl.networks.tal.marginal import MarginalDiceCELoss

# an organ with its tumour, a vessel that also runs inside that organ (leaf 4), another organ
LAYOUT = Layout((0, 0, 1, 2), (0, 1, 0, 0), ((1, 2, 4), (2,), (3, 4), (5,)))
MEMBERSHIP = torch.tensor(LAYOUT.membership)
R, N_LEAVES = MEMBERSHIP.shape
PARTIAL = torch.tensor([[True, False, False, True], [True, True, False, False], [False, False, False, False]])

LOSSES = {
    "masked, sample dice": lambda ignore: MaskedDiceBCELoss(batch_dice=False, use_ignore_label=ignore),
    "masked, batch dice": lambda ignore: MaskedDiceBCELoss(batch_dice=True, use_ignore_label=ignore),
    "summed": lambda ignore: SummedDiceBCELoss(use_ignore_label=ignore),
    "marginal, sample dice": lambda ignore: MarginalDiceCELoss(MEMBERSHIP, batch_dice=False, use_ignore_label=ignore),
    "marginal, batch dice": lambda ignore: MarginalDiceCELoss(MEMBERSHIP, batch_dice=True, use_ignore_label=ignore),
}
IGNORE = [pytest.param(False, id="no ignore label"), pytest.param(True, id="ignore label")]
pytestmark = pytest.mark.parametrize("name", LOSSES)


def n_channels(name):
    return N_LEAVES if name.startswith("marginal") else R


def make_batch(name, n_samples, spatial, ignore=False, seed=0):
    """Random logits, and targets as they come from a label map; with `ignore`, about a quarter is ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n_samples, n_channels(name), *spatial, generator=generator)
    labels = torch.randint(N_LEAVES, (n_samples, *spatial), generator=generator)
    target = MEMBERSHIP[:, labels].movedim(0, 1)
    ignored = torch.rand(n_samples, 1, *spatial, generator=generator) < 0.25
    return logits, torch.cat([target, ignored], 1) if ignore else target


def scrambled(target, annotated):
    """Invert the targets of the regions that are not annotated; the ignore channel stays."""
    flip = ~annotated.view(*annotated.shape, *[1] * (target.ndim - 2))
    return torch.cat([target[:, :R] ^ flip, target[:, R:]], 1)


def evaluate(loss, logits, *others):
    """Return the loss and its gradient on the logits."""
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, *others)
    value.backward()
    return value.detach(), leaf.grad


@pytest.mark.parametrize("spatial", [pytest.param((6, 5), id="2D"), pytest.param((4, 5, 3), id="3D")])
@pytest.mark.parametrize("ignore", IGNORE)
def test_labels_of_unannotated_regions_are_never_read(name, spatial, ignore):
    logits, target = make_batch(name, 3, spatial, ignore)
    loss = LOSSES[name](ignore)
    value, gradient = evaluate(loss, logits, target, PARTIAL)
    other_value, other_gradient = evaluate(loss, logits, scrambled(target, PARTIAL), PARTIAL)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)
    for pair in PARTIAL.nonzero():  # while what is annotated is read
        all_but = torch.ones_like(PARTIAL).index_put(tuple(pair), torch.tensor(False))
        assert not torch.equal(value, evaluate(loss, logits, scrambled(target, all_but), PARTIAL)[0])


def test_samples_without_annotation_are_never_read(name):
    logits, target = make_batch(name, 3, (6, 5))
    loss = LOSSES[name](False)
    value, gradient = evaluate(loss, logits, target, PARTIAL)
    assert torch.count_nonzero(gradient[2]) == 0
    logits[2] = torch.nan
    other_value, other_gradient = evaluate(loss, logits, target, PARTIAL)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)


def test_ignored_voxels_are_not_read(name):
    logits, target = make_batch(name, 3, (6, 5), ignore=True)
    loss = LOSSES[name](True)
    value, gradient = evaluate(loss, logits, target, PARTIAL)
    ignored = target[:, -1:]
    assert torch.count_nonzero(gradient[ignored.expand_as(logits)]) == 0
    other = torch.cat([target[:, :-1] ^ ignored, target[:, -1:]], 1)
    other_value, other_gradient = evaluate(loss, torch.where(ignored, -7.0, logits), other, PARTIAL)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)


def test_with_every_voxel_ignored_nothing_is_learnt(name):
    logits, target = make_batch(name, 3, (6, 5), ignore=True)
    target[:, -1] = True
    terms = LOSSES[name](True).terms(logits, target, PARTIAL)
    assert list(terms.values())[1] == 0
    _, gradient = evaluate(LOSSES[name](True), logits, target, PARTIAL)
    assert torch.equal(gradient, torch.zeros_like(logits))


@pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("ignore", IGNORE)
def test_nothing_annotated_is_zero_and_attached_whatever_the_logits(name, bad, ignore):
    logits, target = make_batch(name, 3, (6, 5), ignore)
    nothing = torch.zeros_like(PARTIAL)
    value, gradient = evaluate(LOSSES[name](ignore), torch.full_like(logits, bad), target, nothing)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


def test_the_loss_is_never_negative(name):
    for seed in range(20):
        logits, target = make_batch(name, 3, (3, 2), seed=seed)
        perfect = 60 * (MEMBERSHIP.float().T @ target.float().flatten(2)).view(3, N_LEAVES, 3, 2)[:, : logits.shape[1]]
        for values in (logits, 40 * logits, perfect):
            assert all(term >= 0 for term in LOSSES[name](False).terms(values, target, PARTIAL).values())


def test_memory_layout_does_not_matter(name):
    logits, target = make_batch(name, 3, (6, 5), ignore=True)
    value, gradient = evaluate(LOSSES[name](True), logits, target, PARTIAL)
    layout = {"memory_format": torch.channels_last}
    other_value, other_gradient = evaluate(LOSSES[name](True), logits.to(**layout), target.to(**layout), PARTIAL)
    torch.testing.assert_close(other_value, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-5, atol=1e-8)


def test_the_order_of_samples_does_not_matter(name):
    logits, target = make_batch(name, 3, (6, 5), ignore=True)
    order = [2, 0, 1]
    value, gradient = evaluate(LOSSES[name](True), logits, target, PARTIAL)
    other_value, other_gradient = evaluate(LOSSES[name](True), logits[order], target[order], PARTIAL[order])
    torch.testing.assert_close(other_value, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(other_gradient, gradient[order], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("annotated", [PARTIAL, torch.ones_like(PARTIAL)], ids=["partly", "everything"])
def test_half_precision_logits_are_computed_on_in_float32(name, dtype, annotated):
    logits, target = make_batch(name, 3, (300, 300))  # 90,000 voxels: their sum is inf in float16
    logits = (logits + 5).to(dtype)
    expected, expected_gradient = evaluate(LOSSES[name](False), logits.float(), target, annotated)
    value, gradient = evaluate(LOSSES[name](False), logits, target, annotated)
    assert torch.equal(value, expected)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, expected_gradient.to(dtype))
    leaf = logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name](False)(leaf, target, annotated)
    value.backward()
    assert torch.equal(value, expected)
    assert torch.equal(leaf.grad, expected_gradient.to(dtype))


def test_the_loss_is_the_weighted_sum_of_its_terms(name):
    logits, target = make_batch(name, 3, (6, 5))
    loss = LOSSES[name](False)
    terms = loss.terms(logits, target, PARTIAL)
    assert list(terms) == ["dice", "ce" if name.startswith("marginal") else "bce"]
    assert torch.equal(loss(logits, target, PARTIAL), sum(terms.values()))
    loss.dice_weight, loss.bce_weight = 0.5, 2.0
    dice, cross_entropy = terms.values()
    assert torch.equal(loss(logits, target, PARTIAL), 0.5 * dice + 2.0 * cross_entropy)


def test_runs_in_nnunets_deep_supervision_wrapper(name):
    loss = LOSSES[name](False)
    scales = [make_batch(name, 3, spatial) for spatial in ((8, 8), (4, 4), (2, 2))]
    logits, targets = ([scale[i] for scale in scales] for i in range(2))
    value = DeepSupervisionWrapper(loss, (0.6, 0.4, 0.0))(logits, targets, [PARTIAL] * 3)
    expected = 0.6 * loss(logits[0], targets[0], PARTIAL) + 0.4 * loss(logits[1], targets[1], PARTIAL)
    assert torch.equal(value, expected)


def test_arguments_that_do_not_fit_are_refused(name):
    logits, target = make_batch(name, 3, (6, 5))
    loss = LOSSES[name](False)
    with pytest.raises(ValueError, match="need 5 channels"):
        LOSSES[name](True)(logits, target, PARTIAL)
    with pytest.raises(ValueError, match="need 4 channels"):
        loss(logits, target[..., :-1], PARTIAL)
    with pytest.raises(ValueError, match=r"annotated is \(2, 4\), expected \(3, 4\)"):
        loss(logits, target, PARTIAL[:2])
    with pytest.raises(TypeError, match="must be bool"):
        loss(logits, target.float(), PARTIAL)
    with pytest.raises(TypeError, match="must be bool"):
        loss(logits, target, PARTIAL.long())


# Name -> annotation of four samples, and how many of them the first of two processes holds.
ANNOTATIONS = {
    "disjoint tasks": ([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], 2),
    "shared region": ([[1, 0, 0, 1], [0, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], 2),
    "one process without": ([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], 2),
    "unequal batches": ([[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]], 1),
    "nothing": ([[0, 0, 0, 0]] * 4, 2),
}


def run_scenario(wrap, loss, annotation, ignore, samples):
    """Return loss and gradients of a convolution trained on those samples of the scenario's batch."""
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    network = wrap(nn.Conv2d(1, n_channels(loss), 3, padding=1))
    target = make_batch(loss, 4, (8, 8), ignore, seed=2)[1]
    annotated = torch.tensor(ANNOTATIONS[annotation][0], dtype=torch.bool)
    value = LOSSES[loss](ignore)(network(images[samples]), target[samples], annotated[samples])
    value.backward()
    return value.detach(), [parameter.grad for parameter in network.parameters()]


def train_as_one_of_two(rank):
    """Run every scenario as process `rank` of two; called by the fixture `two_processes`."""
    results = {}
    for loss in LOSSES:
        for annotation, (_, first) in ANNOTATIONS.items():
            for ignore in (False, True):
                samples = slice(0, first) if rank == 0 else slice(first, 4)
                wrap = nn.parallel.DistributedDataParallel
                results[loss, annotation, ignore] = run_scenario(wrap, loss, annotation, ignore, samples)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("annotation", ANNOTATIONS)
@pytest.mark.parametrize("ignore", IGNORE)
def test_two_processes_train_as_one_on_the_union(two_processes, name, annotation, ignore):
    expected, expected_gradients = run_scenario(lambda network: network, name, annotation, ignore, slice(0, 4))
    (value_0, gradients_0), (value_1, gradients_1) = (results[name, annotation, ignore] for results in two_processes)
    torch.testing.assert_close((value_0 + value_1) / 2, expected, rtol=1e-6, atol=0)
    for gradient_0, gradient_1, gradient in zip(gradients_0, gradients_1, expected_gradients, strict=True):
        assert torch.equal(gradient_0, gradient_1)
        torch.testing.assert_close(gradient_0, gradient, rtol=1e-5, atol=1e-7)
    assert (expected == 0) == (annotation == "nothing")
