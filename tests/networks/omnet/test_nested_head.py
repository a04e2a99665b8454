from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.omnet.nested_head import (
    ExcitedHead,
    GuidedHead,
    NestedHead,
    TaskHead,
    TaskHeads,
    category_statistics,
    coarse_to_fine,
    probability,
)

HEAD = NestedHead
CHAIN = {"task_of_region": [0, 1, 2], "parent_of_task": [-1, 0, 1]}
LAYOUT = Layout((0, 0, 0), (0, 1, 2), ((1, 2, 3), (2, 3), (3,)))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chain_network(build: Callable[..., Any], kind: str = "plain", guidance: str = "cga", **own: Any) -> Any:
    options = {**CHAIN, "guidance": guidance}
    return build(kind, segmentation_head=HEAD, head_options=options, num_classes=3, task_of_region=[0, 0, 0], **own)


def patches(network: Any, edge: int = 16) -> Tensor:
    return noise(2, 1, *[edge] * len(network.encoder.strides[0]))


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("guidance", ["cga", "se", "plain"])
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_every_scale_has_logits_of_every_region(
    build: Any, kind: str, dimensions: int, guidance: str, stages: int
) -> None:
    network = chain_network(build, kind, guidance, dimensions=dimensions, features=(4, 6, 8, 8)[:stages])
    output = network(patches(network), task=torch.zeros(2, dtype=torch.long), full_output=True).segmentation
    assert [tuple(scale.shape) for scale in output] == [
        (2, 3, *[16 // 2**level] * dimensions) for level in range(stages - 1)
    ]
    assert all(bool(scale.isfinite().all()) for scale in output)
    network.decoder.deep_supervision = False
    assert network(patches(network)).shape == (2, 3, *[16] * dimensions)


@pytest.mark.parametrize("stages", [5, 6])
def test_deep_networks_and_strides_that_differ_by_axis(build: Any, stages: int) -> None:
    strides = [[1, 1], [1, 2], *[[2, 2]] * (stages - 2)]
    network = chain_network(build, features=(4,) * stages, strides=strides)
    network.decoder.deep_supervision = False
    assert network(noise(2, 1, 2 ** (stages - 1), 2**stages)).shape == (2, 3, 2 ** (stages - 1), 2**stages)


@pytest.mark.parametrize("guidance", ["cga", "se", "plain"])
def test_a_task_teaches_the_trunk_but_not_its_parents_head(build: Any, guidance: str) -> None:
    network = chain_network(build, guidance=guidance)
    output = network(patches(network), task=torch.zeros(2, dtype=torch.long), full_output=True).segmentation
    sum(scale[:, 1].square().mean() for scale in output).backward()
    trunk = network.encoder.stages[0][0].convs[0].conv.weight.grad
    assert trunk.abs().max() > 0
    for scale in network.decoder.seg_layers:
        assert all(value.grad is None or not value.grad.any() for value in scale.tasks[0].parameters())
        assert all(value.grad is None or not value.grad.any() for value in scale.tasks[2].parameters())
        own = scale.tasks[1]
        assert (own.categories if guidance == "cga" else own.score).weight.grad.any()


def test_without_the_stopped_gradient_it_would(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network = chain_network(build)
    leaky = lambda logits: logits.sigmoid().amax(1, keepdim=True)  # noqa: E731
    monkeypatch.setattr("nnunet_mtl.networks.omnet.nested_head.probability", leaky)
    output = network(patches(network), task=torch.zeros(2, dtype=torch.long), full_output=True).segmentation
    output[0][:, 1].square().mean().backward()
    assert network.decoder.seg_layers[-1].tasks[0].score.weight.grad.abs().max() > 0


def test_only_a_guided_task_follows_what_its_parent_found(build: Any) -> None:
    """Another parent's head leaves a plain head's child as it was."""
    for guidance, follows in (("cga", True), ("se", False), ("plain", False)):
        network = chain_network(build, guidance=guidance)
        heads = network.decoder.seg_layers[-1]
        features = noise(2, 4, 8, 8)
        before = heads(features)
        with torch.no_grad():
            heads.tasks[0].score.bias += 3
        after = heads(features)
        assert not torch.equal(before[:, 0], after[:, 0])
        assert torch.equal(before[:, 1], after[:, 1]) is not follows


@pytest.mark.parametrize("inside", [0.0, 1.0])
def test_where_everything_is_in_one_category_the_other_branch_is_not_read(inside: float) -> None:
    torch.manual_seed(0)
    head = GuidedHead(6, 2, nn.Conv2d)
    features, everywhere = noise(2, 6, 4, 4), torch.full((2, 1, 4, 4), inside)
    before = head(features, everywhere)
    read = slice(2, 4) if inside else slice(0, 2)
    with torch.no_grad():
        other = slice(0, 2) if inside else slice(2, 4)
        head.categories.weight[other] = 7
        head.categories.bias[other] = -5
    assert torch.equal(head(features, everywhere), before)
    # the branch that is read: its convolution of the reweighted features, then the fusion, which starts as identity
    norms = features.abs().flatten(2).sum(2)
    gates = 6 * norms / norms.sum(1, keepdim=True)
    weight, bias = head.categories.weight[read].flatten(1), head.categories.bias[read]
    by_hand = torch.einsum("nc,bcyx->bnyx", weight, features * gates[:, :, None, None]) + bias[:, None, None]
    torch.testing.assert_close(before, by_hand)
    with torch.no_grad():
        head.categories.bias[read] += 1
    assert not torch.equal(head(features, everywhere), before)


def test_voxels_take_from_the_branches_in_the_shares_of_their_categories() -> None:
    torch.manual_seed(1)
    head = GuidedHead(3, 2, nn.Conv3d)
    with torch.no_grad():
        head.fusion.weight.copy_(noise(2, 2, seed=1))
        head.fusion.bias.copy_(noise(2, seed=2))
    features, inside = noise(1, 3, 2, 2, 2), noise(1, 1, 2, 2, 2, seed=3).sigmoid()
    shares = torch.cat((1 - inside, inside), 1)
    expected = torch.zeros(1, 2, 2, 2, 2)
    for category in range(2):
        norm = (features.abs() * shares[:, category : category + 1]).sum((2, 3, 4), keepdim=True)
        gated = features * 3 * norm / norm.sum(1, keepdim=True)
        own = slice(2 * category, 2 * category + 2)
        logits = nn.functional.conv3d(gated, head.categories.weight[own], head.categories.bias[own])
        expected += shares[:, category : category + 1] * logits
    expected = torch.einsum("on,bn...->bo...", head.fusion.weight, expected) + head.fusion.bias.view(1, 2, 1, 1, 1)
    torch.testing.assert_close(head(features, inside), expected)


def test_statistics_of_a_category_sum_to_one_and_do_not_know_where_its_voxels_are() -> None:
    features, inside = noise(2, 5, 4, 6), noise(2, 1, 4, 6, seed=1).sigmoid()
    of_category = torch.cat((1 - inside, inside), 1).flatten(2)
    shares = category_statistics(features, of_category)
    assert shares.shape == (2, 2, 5)
    torch.testing.assert_close(shares.sum(2), torch.ones(2, 2))
    assert (shares >= 0).all()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    shuffled = features.flatten(2)[:, :, order].view_as(features)
    torch.testing.assert_close(category_statistics(shuffled, of_category[:, :, order]), shares)
    assert not torch.allclose(category_statistics(shuffled, of_category), shares)
    # the two categories look different, and both as the features say, whatever their sign
    assert not torch.allclose(shares[:, 0], shares[:, 1], atol=1e-3)
    torch.testing.assert_close(category_statistics(-features, of_category), shares)


def test_a_category_without_voxels_has_no_statistics_and_no_nan() -> None:
    features = noise(1, 3, 4, 4).requires_grad_()
    of_category = torch.stack((torch.ones(1, 16), torch.zeros(1, 16)), 1)
    shares = category_statistics(features, of_category)
    assert torch.equal(shares[:, 1], torch.zeros(1, 3))
    shares.sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_statistics_hold_in_half_precision_and_keep_no_copy_of_the_features(saved_bytes: Any) -> None:
    """Sums over many voxels leave the range of half precision; float32 copies of the features are not kept."""
    features = (100 * torch.ones(1, 4, 2**14)).half().requires_grad_()
    of_category = torch.full((1, 2, 2**14), 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shares = category_statistics(features, of_category)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares, torch.full((1, 2, 4), 0.25))
    arguments = features.numel() * 2 + of_category.numel() * 4
    assert saved_bytes(lambda: category_statistics(features, of_category)) <= arguments + 1024


def test_what_is_squeezed_tells_images_apart() -> None:
    """Behind the normalisation it would not: every channel has the same mean in every image."""
    torch.manual_seed(0)
    head = ExcitedHead(8, 1, nn.Conv2d)
    features = torch.cat((noise(1, 8, 12, 12), noise(1, 8, 12, 12, seed=1).cumsum(2)))
    own = head.own(features)
    first, second = head.gate(own)
    assert (first - second).abs().max() > 1e-2
    normalised = head.norm(own)
    assert normalised.mean((2, 3)).abs().max() < 1e-5
    assert torch.allclose(head.gate(own * 0)[0], head.gate(own * 0)[1])
    # and the gate of what is not normalised scales what is scored
    scored = head(features)
    activated = nn.functional.leaky_relu(normalised, 0.01)
    torch.testing.assert_close(scored, head.score(activated * head.gate(own)[:, :, None, None]))
    assert not torch.allclose(scored, head.score(activated * head.gate(normalised)[:, :, None, None]), atol=1e-4)
    with torch.no_grad():
        head.excite.bias -= 100
    assert not torch.allclose(head(features), scored)
    torch.testing.assert_close(head(features), head.score.bias.view(1, 1, 1, 1).expand(2, 1, 12, 12))


@pytest.mark.parametrize(("channels", "outputs"), [(8, 1), (40, 3)])
@pytest.mark.parametrize(("convolution", "dimensions"), [(nn.Conv2d, 2), (nn.Conv3d, 3)])
def test_parameters_are_what_the_formulas_say(
    channels: int, outputs: int, convolution: type[Any], dimensions: int
) -> None:
    def count(head: nn.Module) -> int:
        return sum(value.numel() for value in head.parameters())

    width = min(channels, 32)
    plain = channels * width * 3**dimensions + 3 * width + width * outputs + outputs
    assert count(TaskHead(channels, outputs, convolution)) == plain
    hidden = width // 4
    assert count(ExcitedHead(channels, outputs, convolution)) == plain + 2 * width * hidden + width + hidden
    guided = 2 * (channels * outputs + outputs) + outputs**2 + outputs
    assert count(GuidedHead(channels, outputs, convolution)) == guided


@pytest.mark.parametrize(("inner", "added"), [(GuidedHead, 692_670), (ExcitedHead, 2_078_640), (TaskHead, 2_073_120)])
def test_the_page_says_what_a_chain_of_three_adds_to_the_default_network(inner: Any, added: int) -> None:
    with torch.device("meta"):
        pairs = [
            ([TaskHead(channels, 1, nn.Conv3d), *(inner(channels, 1, nn.Conv3d) for _ in range(2))], channels)
            for channels in (320, 256, 128, 64, 32)
        ]
    made = sum(value.numel() for heads, _ in pairs for head in heads for value in head.parameters())
    assert made - sum(3 * (channels + 1) for _, channels in pairs) == added


def test_the_fusion_of_a_guided_head_starts_as_the_identity_in_a_network(build: Any) -> None:
    """nnU-Net re-initialises what it knows; a convolution would be drawn at random, next to 0 now and then."""
    network = chain_network(build)
    for scale in network.decoder.seg_layers:
        for task in scale.tasks[1:]:
            assert torch.equal(task.fusion.weight, torch.eye(1))
            assert not task.fusion.bias.any()


# ---- prediction


def test_a_child_is_never_predicted_outside_its_parent(build: Any) -> None:
    network = chain_network(build)
    network.decoder.deep_supervision = False
    x = patches(network)
    raw = network(x, task=torch.zeros(2, dtype=torch.long), full_output=True).segmentation
    fused = network(x)
    assert torch.equal(fused[:, 0], raw[:, 0])
    assert torch.equal(fused[:, 1], torch.minimum(raw[:, 0], raw[:, 1]))
    assert torch.equal(fused[:, 2], raw.amin(1))
    assert (raw[:, 1] > raw[:, 0]).any()  # what the loss reads is not fused
    assert fused.data_ptr() != network(x).data_ptr()


def test_the_order_of_regions_and_tasks_is_free_and_a_tree_has_branches() -> None:
    """Tasks 2 > 0 > 1, and 2 > 3 with two regions; a parent of several regions is where any of them is."""
    layout = Layout((0,) * 5, tuple(range(5)), ((1,),) * 5)
    head = NestedHead(layout, 8, [1, 3, 2, 0, 3], [2, 0, -1, 2])
    assert head.order == [2, 0, 3, 1]
    raw = torch.tensor([[5.0, 4.0, 1.0, 3.0, -2.0]])[:, :, None, None]
    fused = head.regions(raw)
    assert fused.flatten().tolist() == [1.0, 1.0, 1.0, 1.0, -2.0]
    several = NestedHead(layout, 8, [1, 0, 0, 1, 1], [-1, 0])
    assert several.regions(raw).flatten().tolist() == [4.0, 4.0, 1.0, 3.0, -2.0]
    assert probability(torch.tensor([[[0.0], [2.0]]])).item() == pytest.approx(0.8808, abs=1e-4)


def test_regions_come_out_where_they_belong() -> None:
    heads = TaskHeads(nn.Conv2d(4, 3, 1), [[2], [0, 1]], [-1, 0], [0, 1], "plain")
    features = noise(1, 4, 6, 6)
    logits = heads(features)
    assert torch.equal(logits[:, 2:], heads.tasks[0](features))
    assert torch.equal(logits[:, :2], heads.tasks[1](features))


def test_what_stands_before_the_convolution_is_kept() -> None:
    heads = TaskHeads(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 1, 1)), [[0]], [-1], [0], "cga")
    assert torch.equal(heads(noise(1, 4, 6, 6)), heads(noise(1, 4, 6, 6).relu()))


def test_tasks_without_a_parent_have_heads_of_their_own(build: Any) -> None:
    network = build(segmentation_head=HEAD)  # three tasks, five regions, no nesting
    assert [type(task) for task in network.decoder.seg_layers[0].tasks] == [TaskHead] * 3
    network.decoder.deep_supervision = False
    raw = network(patches(network), task=torch.zeros(2, dtype=torch.long), full_output=True).segmentation
    assert torch.equal(network(patches(network)), raw)


# ---- one pass


@pytest.mark.parametrize("guidance", ["cga", "se", "plain"])
def test_the_stem_runs_once_for_all_tasks(build: Any, calls_of: Any, guidance: str) -> None:
    network = chain_network(build, guidance=guidance)
    network.decoder.deep_supervision = False
    with calls_of(network.encoder.stages[0][0].convs[0].conv) as calls:
        network(patches(network))
    assert len(calls) == 1


@pytest.mark.parametrize("guidance", ["cga", "se", "plain"])
def test_a_network_compiles_whole(build: Any, guidance: str) -> None:
    network = chain_network(build, guidance=guidance).eval()
    network.decoder.deep_supervision = False
    x = patches(network)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))
    task = torch.zeros(2, dtype=torch.long)
    trained = compiled(x, task=task, full_output=True).segmentation
    torch.testing.assert_close(trained, network(x, task=task, full_output=True).segmentation)
    trained.square().mean().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": "senet"}, "guidance='senet' must be one of cga, se, plain"),
        ({"task_of_region": [0, 1]}, "name a task of each of the 3 regions"),
        ({"task_of_region": [0, 1, 2], "parent_of_task": [-1, 0]}, "a parent of each task"),
        ({"task_of_region": [0, 1, 2], "parent_of_task": [-1, 0, 3]}, "a parent of each task"),
        ({"task_of_region": [0, 1, 2], "parent_of_task": [-1, 2, 1]}, "runs in a circle"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message) as error:
        NestedHead(LAYOUT, 8, **options)
    assert "\n" not in str(error.value)


def test_coarse_comes_before_fine() -> None:
    assert coarse_to_fine([1, 2, -1, -1]) == [2, 3, 1, 0]
