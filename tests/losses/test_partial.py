import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunet_mtl.losses.partial import MaskedDiceBCELoss

SPATIAL = [pytest.param((6, 5), id="2D"), pytest.param((4, 5, 3), id="3D")]
BATCH_DICE = [pytest.param(False, id="sample dice"), pytest.param(True, id="batch dice")]
IGNORE = [pytest.param(False, id="no ignore label"), pytest.param(True, id="ignore label")]

PARTIAL = torch.tensor([[True, False, False, True], [True, True, False, False], [False, False, False, False]])


def make_batch(n_samples, n_regions, spatial, ignore=False, seed=0):
    """Random logits and targets; with `ignore`, about a quarter of the voxels are ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n_samples, n_regions, *spatial, generator=generator)
    target = torch.rand(n_samples, n_regions + ignore, *spatial, generator=generator) < 0.3
    return logits, target


def scrambled(target, annotated, where=False):
    """Invert the targets of the regions whose `annotated` is `where`; the ignore channel stays."""
    n_regions = annotated.shape[1]
    flip = (annotated == where).view(*annotated.shape, *[1] * (target.ndim - 2))
    return torch.cat([target[:, :n_regions] ^ flip, target[:, n_regions:]], 1)


def evaluate(loss, logits, *others):
    """Return the loss and its gradient on the logits."""
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, *others)
    value.backward()
    return value.detach(), leaf.grad


def stock_loss(batch_dice=False, ignore=False, weight_ce=1.0, weight_dice=1.0):
    dice = {"batch_dice": batch_dice, "do_bg": True, "smooth": 1e-5, "ddp": False}
    return DC_and_BCE_loss({}, dice, use_ignore_label=ignore, weight_ce=weight_ce, weight_dice=weight_dice)


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("batch_dice", BATCH_DICE)
@pytest.mark.parametrize("ignore", IGNORE)
def test_everything_annotated_is_nnunets_own_loss_plus_the_dice_weight(spatial, batch_dice, ignore):
    logits, target = make_batch(3, 4, spatial, ignore)
    ours = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=ignore, dice_weight=0.7, bce_weight=1.3)
    value, gradient = evaluate(ours, logits, target, torch.ones(3, 4, dtype=torch.bool))
    expected, expected_gradient = evaluate(stock_loss(batch_dice, ignore, 1.3, 0.7), logits, target)
    torch.testing.assert_close(value, expected + 0.7, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("spatial", SPATIAL)
def test_partly_annotated_is_the_mean_of_nnunets_loss_over_the_annotated_pairs(spatial):
    logits, target = make_batch(3, 4, spatial)
    value, gradient = evaluate(MaskedDiceBCELoss(batch_dice=False, use_ignore_label=False), logits, target, PARTIAL)

    def mean_of_pairs(logits):
        one = stock_loss()
        pairs = PARTIAL.nonzero().tolist()
        return sum(one(logits[b : b + 1, r : r + 1], target[b : b + 1, r : r + 1]) for b, r in pairs) / len(pairs)

    expected, expected_gradient = evaluate(mean_of_pairs, logits)
    torch.testing.assert_close(value, expected + 1, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("ignore", IGNORE)
def test_batch_dice_is_nnunets_over_each_regions_annotated_samples(ignore):
    logits, target = make_batch(3, 4, (6, 5), ignore)
    ours = MaskedDiceBCELoss(batch_dice=True, use_ignore_label=ignore, bce_weight=0)
    value, gradient = evaluate(ours, logits, target, PARTIAL)

    def mean_of_regions(logits):
        stock = stock_loss(batch_dice=True, ignore=ignore, weight_ce=0)
        picked = [(region, PARTIAL[:, region]) for region in (0, 1, 3)]  # nobody annotated region 2
        channels = [[region, 4] if ignore else [region] for region, _ in picked]
        losses = [stock(logits[s][:, [r]], target[s][:, c]) for (r, s), c in zip(picked, channels, strict=True)]
        return sum(losses) / len(losses)

    expected, expected_gradient = evaluate(mean_of_regions, logits)
    torch.testing.assert_close(value, expected + 1, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-9)


def test_with_the_ignore_label_samples_weigh_by_their_valid_voxels():
    logits, target = make_batch(3, 4, (6, 5), ignore=True)
    ours = MaskedDiceBCELoss(batch_dice=False, use_ignore_label=True)

    total, n_voxels = 0.0, 0
    for sample in (0, 1):  # nothing is annotated in sample 2: its valid voxels do not count
        regions = PARTIAL[sample].nonzero()[:, 0].tolist()
        picked = slice(sample, sample + 1)
        valid = int((~target[sample, -1]).sum())
        stock = stock_loss(ignore=True, weight_dice=0)
        total += valid * stock(logits[picked][:, regions], target[picked][:, [*regions, 4]]).item()
        n_voxels += valid
    terms = ours.terms(logits, target, PARTIAL)
    assert terms["bce"].item() == pytest.approx(total / n_voxels, rel=1e-6)


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("batch_dice", BATCH_DICE)
@pytest.mark.parametrize("ignore", IGNORE)
def test_unannotated_regions_are_never_read(spatial, batch_dice, ignore):
    logits, target = make_batch(3, 4, spatial, ignore)
    loss = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=ignore)
    value, gradient = evaluate(loss, logits, target, PARTIAL)
    assert torch.count_nonzero(gradient[~PARTIAL]) == 0
    assert all(torch.count_nonzero(channel) > 0 for channel in gradient[PARTIAL])

    other_value, other_gradient = evaluate(loss, logits, scrambled(target, PARTIAL), PARTIAL)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)

    broken = logits.clone()
    broken[~PARTIAL] = torch.nan
    other_value, other_gradient = evaluate(loss, broken, target, PARTIAL)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)


@pytest.mark.parametrize("batch_dice", BATCH_DICE)
@pytest.mark.parametrize("ignore", IGNORE)
def test_annotated_regions_are_read(batch_dice, ignore):
    logits, target = make_batch(3, 4, (6, 5), ignore)
    loss = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=ignore)
    value, gradient = evaluate(loss, logits, target, PARTIAL)
    for pair in PARTIAL.nonzero():
        only = torch.zeros_like(PARTIAL).index_put(tuple(pair), torch.tensor(True))
        other_value, other_gradient = evaluate(loss, logits, scrambled(target, only, where=True), PARTIAL)
        assert not torch.equal(value, other_value)
        assert not torch.equal(gradient[only], other_gradient[only])


@pytest.mark.parametrize("batch_dice", BATCH_DICE)
def test_ignored_voxels_are_not_read(batch_dice):
    logits, target = make_batch(3, 4, (6, 5), ignore=True)
    loss = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=True)
    ignored = target[:, -1:].expand(3, 4, 6, 5)
    value, gradient = evaluate(loss, logits, target, PARTIAL)
    assert torch.count_nonzero(gradient[ignored]) == 0
    other = torch.cat([target[:, :-1] ^ ignored, target[:, -1:]], 1)
    other_value, other_gradient = evaluate(loss, torch.where(ignored, -7.0, logits), other, PARTIAL)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)


@pytest.mark.parametrize("batch_dice", BATCH_DICE)
def test_all_voxels_ignored_is_zero(batch_dice):
    logits, target = make_batch(3, 4, (6, 5), ignore=True)
    target[:, -1] = True
    value, gradient = evaluate(MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=True), logits, target, PARTIAL)
    assert value == 0
    assert torch.count_nonzero(gradient) == 0


def test_annotated_and_empty_is_background():
    logits, target = make_batch(1, 2, (6, 5))
    target[:] = False
    annotated = torch.tensor([[True, False]])
    _, gradient = evaluate(MaskedDiceBCELoss(batch_dice=False, use_ignore_label=False), logits, target, annotated)
    assert (gradient[0, 0] > 0).all()
    assert (gradient[0, 1] == 0).all()


@pytest.mark.parametrize("batch_dice", BATCH_DICE)
@pytest.mark.parametrize("ignore", IGNORE)
def test_nothing_annotated_is_zero_and_reaches_every_parameter(batch_dice, ignore):
    network = small_network()
    logits = network(torch.randn(2, 1, 8, 8))
    loss = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=ignore)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    value = sum(loss(scale, make_batch(2, 3, scale.shape[2:], ignore)[1], nothing) for scale in logits)
    assert value == 0
    assert value.requires_grad
    value.backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and torch.count_nonzero(gradient) == 0 for gradient in gradients)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("batch_dice", BATCH_DICE)
def test_nothing_annotated_is_zero_whatever_the_logits(bad, batch_dice):
    logits, target = make_batch(2, 3, (6, 5))
    loss = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=False)
    value, gradient = evaluate(loss, torch.full_like(logits, bad), target, torch.zeros(2, 3, dtype=torch.bool))
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


@pytest.mark.parametrize("spatial", SPATIAL)
def test_a_batch_is_its_samples_one_by_one(spatial):
    logits, target = make_batch(3, 4, spatial)
    loss = MaskedDiceBCELoss(batch_dice=False, use_ignore_label=False)
    together = loss.terms(logits, target, PARTIAL)
    for name, term in together.items():
        alone = [loss.terms(logits[[b]], target[[b]], PARTIAL[[b]])[name] for b in range(3)]
        weighted = sum(PARTIAL[b].sum() * value for b, value in enumerate(alone)) / PARTIAL.sum()
        torch.testing.assert_close(term, weighted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("batch_dice", BATCH_DICE)
@pytest.mark.parametrize("ignore", IGNORE)
def test_the_order_of_samples_and_regions_does_not_matter(batch_dice, ignore):
    logits, target = make_batch(3, 4, (6, 5), ignore)
    loss = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=ignore)
    samples, regions = [2, 0, 1], [3, 1, 0, 2]
    channels = [*regions, 4] if ignore else regions
    value, gradient = evaluate(loss, logits, target, PARTIAL)
    other_value, other_gradient = evaluate(
        loss, logits[samples][:, regions], target[samples][:, channels], PARTIAL[samples][:, regions]
    )
    torch.testing.assert_close(other_value, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(other_gradient, gradient[samples][:, regions], rtol=1e-5, atol=1e-9)


def test_memory_layout_does_not_matter():
    logits, target = make_batch(3, 4, (6, 5))
    loss = MaskedDiceBCELoss(batch_dice=True, use_ignore_label=False)
    value, gradient = evaluate(loss, logits, target, PARTIAL)
    layout = {"memory_format": torch.channels_last}
    other_value, other_gradient = evaluate(loss, logits.to(**layout), target.to(**layout), PARTIAL)
    torch.testing.assert_close(other_value, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch_dice", BATCH_DICE)
def test_half_precision_logits_are_summed_in_float32(dtype, batch_dice):
    logits, target = make_batch(1, 2, (400, 400))  # 160,000 voxels: their sum is inf in float16
    logits = (logits + 9).to(dtype)
    annotated = torch.tensor([[True, False]])
    loss = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=False)
    expected, expected_gradient = evaluate(loss, logits.float(), target, annotated)
    value, gradient = evaluate(loss, logits, target, annotated)
    assert torch.equal(value, expected)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, expected_gradient.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = evaluate(loss, logits, target, annotated)
    assert torch.equal(value, expected)
    assert torch.equal(gradient, expected_gradient.to(dtype))


def saved_bytes(loss, logits, target, annotated):
    sizes = []

    def pack(tensor):
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(logits.requires_grad_(), target, annotated)
    return sum(sizes)


@pytest.mark.parametrize("ignore", IGNORE)
def test_memory_grows_with_what_is_annotated(ignore):
    logits, target = make_batch(2, 16, (32, 32), ignore)
    loss = MaskedDiceBCELoss(batch_dice=False, use_ignore_label=ignore)
    one, all_ = torch.zeros(2, 16, dtype=torch.bool), torch.ones(2, 16, dtype=torch.bool)
    one[1, 3] = True
    assert 16 * saved_bytes(loss, logits, target, one) < saved_bytes(loss, logits, target, all_)


@pytest.mark.parametrize("batch_dice", BATCH_DICE)
def test_runs_in_nnunets_deep_supervision_wrapper(batch_dice):
    loss = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=False)
    scales = [make_batch(3, 4, spatial) for spatial in ((8, 8), (4, 4), (2, 2))]
    logits, targets = ([scale[i] for scale in scales] for i in range(2))
    value = DeepSupervisionWrapper(loss, (0.6, 0.4, 0.0))(logits, targets, [PARTIAL] * 3)
    expected = 0.6 * loss(logits[0], targets[0], PARTIAL) + 0.4 * loss(logits[1], targets[1], PARTIAL)
    assert torch.equal(value, expected)


@pytest.mark.parametrize("batch_dice", BATCH_DICE)
def test_the_loss_is_the_weighted_sum_of_its_terms(batch_dice):
    logits, target = make_batch(3, 4, (6, 5))
    loss = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=False, dice_weight=0.5, bce_weight=2.0)
    terms = loss.terms(logits, target, PARTIAL)
    assert list(terms) == ["dice", "bce"]
    assert all(term > 0 for term in terms.values())
    assert torch.equal(loss(logits, target, PARTIAL), 0.5 * terms["dice"] + 2.0 * terms["bce"])


@pytest.mark.parametrize("smooth", [0.0, 1e-5, 10.0])
def test_smooth_is_added_to_numerator_and_denominator(smooth):
    # one voxel of the region predicted with probability 1/2, one voxel of background with 1/2: I = 0.5, sums 1 and 1
    logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[[True, False]]]])
    loss = MaskedDiceBCELoss(batch_dice=False, use_ignore_label=False, smooth=smooth)
    dice = loss.terms(logits, target, torch.tensor([[True]]))["dice"]
    assert dice.item() == pytest.approx(1 - (1 + smooth) / (2 + smooth))


def test_arguments_that_do_not_fit_are_refused():
    logits, target = make_batch(3, 4, (6, 5))
    loss = MaskedDiceBCELoss(batch_dice=False, use_ignore_label=False)
    with_ignore = MaskedDiceBCELoss(batch_dice=False, use_ignore_label=True)
    with pytest.raises(ValueError, match="need 5 channels"):
        with_ignore(logits, target, PARTIAL)
    with pytest.raises(ValueError, match="need 4 channels"):
        loss(logits, target[..., :-1], PARTIAL)
    with pytest.raises(ValueError, match=r"annotated is \(2, 4\), expected \(3, 4\)"):
        loss(logits, target, PARTIAL[:2])
    with pytest.raises(TypeError, match="must be bool"):
        loss(logits, target.float(), PARTIAL)
    with pytest.raises(TypeError, match="must be bool"):
        loss(logits, target, PARTIAL.long())


class SmallNetwork(nn.Module):
    """Two scales, as with deep supervision."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU())
        self.fine = nn.Conv2d(4, 3, 1)
        self.coarse = nn.Conv2d(4, 3, 2, stride=2)

    def forward(self, image):
        features = self.body(image)
        return [self.fine(features), self.coarse(features)]


def small_network():
    torch.manual_seed(0)
    return SmallNetwork()


# Name -> annotation of four samples, and how many of them the first of two processes holds.
ANNOTATIONS = {
    "disjoint tasks": ([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 1]], 2),
    "shared region": ([[1, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 0]], 2),
    "one process without": ([[0, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0]], 2),
    "unequal batches": ([[1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 1]], 1),
    "nothing": ([[0, 0, 0]] * 4, 2),
}
SCENARIOS = [(name, batch_dice, ignore) for name in ANNOTATIONS for batch_dice in (False, True) for ignore in (0, 1)]


def run_scenario(network, scenario, samples):
    """Return the loss and every parameter's gradient for those samples of the scenario's batch."""
    name, batch_dice, ignore = scenario
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    targets = [make_batch(4, 3, spatial, ignore, seed=2)[1] for spatial in ((8, 8), (4, 4))]
    annotated = torch.tensor(ANNOTATIONS[name][0], dtype=torch.bool)[samples]
    loss = MaskedDiceBCELoss(batch_dice=batch_dice, use_ignore_label=bool(ignore))
    value = DeepSupervisionWrapper(loss, (0.6, 0.4))(
        network(images[samples]), [target[samples] for target in targets], [annotated] * 2
    )
    value.backward()
    return value.detach(), [parameter.grad for parameter in network.parameters()]


def train_as_one_of_two(rank):
    """Run every scenario as process `rank` of two; called by the fixture `two_processes`."""
    results = {}
    for scenario in SCENARIOS:
        first = ANNOTATIONS[scenario[0]][1]
        samples = slice(0, first) if rank == 0 else slice(first, 4)
        network = nn.parallel.DistributedDataParallel(small_network())
        results[scenario] = run_scenario(network, scenario, samples)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_two_processes_train_as_one_on_the_union(two_processes, scenario):
    expected, expected_gradients = run_scenario(small_network(), scenario, slice(0, 4))
    (value_0, gradients_0), (value_1, gradients_1) = (results[scenario] for results in two_processes)
    torch.testing.assert_close((value_0 + value_1) / 2, expected, rtol=1e-6, atol=0)
    for gradient_0, gradient_1, gradient in zip(gradients_0, gradients_1, expected_gradients, strict=True):
        assert torch.equal(gradient_0, gradient_1)
        torch.testing.assert_close(gradient_0, gradient, rtol=1e-5, atol=1e-8)
    if scenario[0] == "nothing":
        assert expected == 0
        assert all(torch.count_nonzero(gradient) == 0 for gradient in expected_gradients)
