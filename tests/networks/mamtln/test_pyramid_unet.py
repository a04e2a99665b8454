import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from nnunet_mtl.networks.classification import BottleneckHead, EvidenceHead
from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.dodnet.dynamic_head import DynamicHead
from nnunet_mtl.networks.heads import SlotHead
from nnunet_mtl.networks.mamtln.adaptive_attention import NoAdaptiveAttention
from nnunet_mtl.networks.mamtln.aware_branches import AwareHead, NoClassificationAwareness, NoSegmentationAwareness
from nnunet_mtl.networks.mamtln.visual_attention import NoVisualAttention

Build = Callable[..., Any]
CallsOf = Callable[[nn.Module], AbstractContextManager[list[tuple[Any, ...]]]]
KINDS = ["plain", "residual"]
STOCK = {"plain": PlainConvUNet, "residual": ResidualEncoderUNet}
NODES = {"name": "nodes", "outputs": 2, "evidence": -1, "task": -1}
GRADE = {"name": "grade", "outputs": 3, "evidence": 1, "task": 0}
OWN = {"questions": [NODES], "classification": AwareHead}
OFF = {
    "visual_attention": NoVisualAttention,
    "adaptive_attention": NoAdaptiveAttention,
    "segmentation_aware": NoSegmentationAwareness,
    "classification_aware": NoClassificationAwareness,
}
TASK = torch.tensor([0, 2])


def image(size: tuple[int, ...] = (32, 32), batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(1))


def asked(network: Any, x: Tensor | None = None) -> Any:
    return network(image() if x is None else x, task=TASK, full_output=True)


def gradients(network: Any, loss: Tensor, *of: str) -> dict[str, float]:
    """How large the gradient of a loss is in parts of a network; exactly 0 where there is none."""
    network.zero_grad()
    loss.backward()
    return {
        name: sum(
            0.0 if value.grad is None else float(value.grad.abs().sum())
            for value in network.get_submodule(name).parameters()
        )
        for name in of
    }


# ---- any plans

LEVELS = {2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 5, 8: 6}  # of so many stages, unless told otherwise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_stages", range(2, 9))
def test_any_number_of_stages(build_pyramid: Build, kind: str, n_stages: int) -> None:
    strides = [[1, 1], *[[2, 2]] * min(4, n_stages - 1), *[[1, 1]] * max(0, n_stages - 5)]
    network = build_pyramid(kind, features=[4] * n_stages, strides=strides, **OWN)
    assert network.n_levels == len(network.decoder.reduce) == LEVELS[n_stages]
    output = asked(network)
    assert [tuple(each.shape) for each in output.segmentation] == [(2, 5, 32, 32)] * 3
    assert output.classification["nodes"].shape == (2, 2)
    assert network(image()).shape == (2, 5, 32, 32)
    assert all(bool(each.isfinite().all()) for each in (*output.segmentation, output.classification["nodes"]))
    total = sum(each.square().mean() for each in output.segmentation) + output.classification["nodes"].square().sum()
    total.backward()
    assert not [name for name, value in network.named_parameters() if value.grad is None]


ANISOTROPIC = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 1], [1, 1, 2], [2, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("n_stages", [6, 7, 8])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_finest_level_is_at_a_quarter_of_the_resolution_however_deep_the_plans(
    build_pyramid: Build, kind: str, dimensions: int, n_stages: int
) -> None:
    strides = [step[-dimensions:] for step in ANISOTROPIC[:n_stages]]
    size = (8, 32, 32)[-dimensions:]
    total = [math.prod(steps) for steps in zip(*strides, strict=True)]
    deepest = [edge // step for edge, step in zip(size, total, strict=True)]
    network = build_pyramid(
        kind, dimensions=dimensions, features=[4] * n_stages, strides=strides, bottleneck_size=deepest, **OWN
    )
    attentions = network.decoder.pyramid.visual_attention
    assert [len(each.branches) for each in attentions] == [4, 3, *[2] * (LEVELS[n_stages] - 2)]
    # the widest dilation, at most 7 and nowhere wider than a level of 2 x 8 x 8 voxels
    assert attentions[0].branches[3][-1].dilation == (1, 3, 3)[-dimensions:]
    output = asked(network, image(size))
    levels = network.decoder(network.encoder(image(size))[-network.n_levels :], supervised=False, attach=False).levels
    assert tuple(levels[0].shape[2:]) == (2, 8, 8)[-dimensions:]
    assert tuple(levels[-1].shape[2:]) == tuple(deepest)
    assert output.segmentation[0].shape == (2, 5, *size)
    (
        sum(each.square().mean() for each in output.segmentation) + output.classification["nodes"].square().sum()
    ).backward()
    assert not [name for name, value in network.named_parameters() if value.grad is None]
    memory = [network.compute_conv_feature_map_size([scale * edge for edge in size]) for scale in (1, 2)]
    assert memory[0] > network.encoder.compute_conv_feature_map_size(size)
    assert memory[1] == 2**dimensions * memory[0]


@pytest.mark.parametrize(("wanted", "found"), [(0, 6), (1, 1), (4, 4), (7, 7), (50, 7)])
def test_a_number_of_levels_stays_that_number_down_from_full_resolution(
    build_pyramid: Build, wanted: int, found: int
) -> None:
    strides = [[1, 1], *[[2, 2]] * 4, *[[1, 1]] * 3]
    network = build_pyramid(features=[4] * 8, strides=strides, options={"levels": wanted}, **OWN)
    assert network.n_levels == len(network.decoder.reduce) == found
    assert asked(network).segmentation[0].shape == (2, 5, 32, 32)


LAYOUTS: list[dict[str, Any]] = [
    {"features": (3, 5, 7, 7), "dimensions": 3, "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 1]]},
    {"features": (4, 6, 8), "dimensions": 3, "kernels": [[1, 3, 3], [1, 3, 3], [3, 3, 3]]},
    {"features": (4, 6), "dimensions": 3},
    {"features": (4, 6, 8), "strides": [[1, 1], [3, 2], [2, 3]]},
    {"features": (5, 4, 3, 2), "kernels": [[3, 3], [5, 5], [3, 3], [3, 3]]},
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_regions", [1, 2, 7])
def test_strides_kernels_and_regions_of_any_plans(build_pyramid: Build, layout: Any, n_regions: int) -> None:
    size = (36, 36) if [3, 2] in layout.get("strides", []) else (16,) * layout.get("dimensions", 2)
    for kind in KINDS:
        network = build_pyramid(kind, **layout, task_of_region=[*range(n_regions)], **OWN)
        x = image(size)
        output = network(x, task=torch.tensor([0, n_regions - 1]), full_output=True)
        assert network(x).shape == (2, n_regions, *size)
        assert [tuple(each.shape) for each in output.segmentation] == [(2, n_regions, *size)] * 3
        assert all(bool(each.isfinite().all()) for each in output.segmentation)


def test_sizes_that_strides_do_not_divide(build_pyramid: Build) -> None:
    network = build_pyramid()
    for size in ((37, 51), (33, 33), (16, 20)):
        assert network(image(size)).shape == (2, 5, *size)
        assert asked(network, image(size)).segmentation[0].shape == (2, 5, *size)


def test_the_levels_are_the_deepest_stages_with_kernels_strides_and_sizes_of_the_plans(build_pyramid: Build) -> None:
    network = build_pyramid(
        features=(4, 6, 8, 8),
        dimensions=3,
        strides=[[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]],
        kernels=[[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        bottleneck_size=[3, 4, 5],
        options={"levels": 2},
    )
    assert [block[0].in_channels for block in network.decoder.reduce] == [8, 8]
    (pool,) = network.decoder.pyramid.pools
    assert pool[0].stride == (2, 2, 2)
    assert network.decoder.adaptive_attention[1].down.strides == [(2, 2, 2)]
    finest, deepest = network.decoder.pyramid.visual_attention
    assert finest.branches[3][-1].dilation == (2, 3, 4)  # of 6, 8 and 10 voxels
    assert deepest.branches[1][-1].dilation == (1, 1, 2)
    flat = build_pyramid(features=(4, 6), dimensions=3, kernels=[[1, 3, 3]] * 2)
    assert flat.decoder.fuse0.blocks[1][0].kernel_size == (1, 3, 3)


def test_one_stage_is_refused_and_a_misspelt_part_too(build_pyramid: Build) -> None:
    with pytest.raises(ArchitectureError, match="n_stages=1 leaves no stage below full resolution"):
        build_pyramid(features=(4,))
    with pytest.raises(ArchitectureError, match=r"arch_kwargs\.visual_attention names no class"):
        build_pyramid(visual_attention=None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_is_the_stock_one_and_nothing_is_left_of_the_stock_decoder(
    build_pyramid: Build, build: Build, kind: str
) -> None:
    ours = build_pyramid(kind, features=(4, 6, 8))
    stock = build(kind, stock=True, features=(4, 6, 8))
    keys = {name for name in ours.state_dict() if name.startswith("encoder.")}
    assert keys == {name for name in stock.state_dict() if name.startswith("encoder.")}
    stock.load_state_dict({name: ours.state_dict()[name] for name in keys}, strict=False)
    for feature, expected in zip(ours.encoder(image()), stock.encoder(image()), strict=True):
        assert torch.equal(feature, expected)
    assert not [name for name in ours.state_dict() if "transpconv" in name or ".encoder." in name]
    assert set(ours.state_dict()) == set(build_pyramid(kind, features=(4, 6, 8), deep_supervision=False).state_dict())


# ---- one pass, one tensor


def test_one_pass_serves_all_tasks_and_the_result_is_fresh(build_pyramid: Build, calls_of: CallsOf) -> None:
    network = build_pyramid(**OWN).eval()
    assert not network.conditioned
    assert not network.one_task_per_sample
    with torch.inference_mode(), calls_of(network.encoder.stages[0]) as calls:
        first = network(image())
        assert len(calls) == 1
        kept = first.clone()
        first += 1
        assert torch.equal(network(image()), kept)
    with torch.no_grad():
        assert torch.equal(asked(network).segmentation[0], kept)


def test_what_is_predicted_does_not_depend_on_what_is_supervised(build_pyramid: Build, calls_of: CallsOf) -> None:
    network = build_pyramid(**OWN).eval()
    with torch.no_grad():
        full, before, after = asked(network).segmentation
        with calls_of(network.decoder.fuse1) as calls:
            assert torch.equal(network(image()), full)
            network.decoder.deep_supervision = False
            assert torch.equal(asked(network).segmentation, full)
        assert not calls  # what nobody reads is not computed
    assert not torch.equal(before, after)


def test_the_order_of_the_outputs_is_final_then_behind_then_before_the_attention(build_pyramid: Build) -> None:
    network = build_pyramid()
    for index in range(3):
        network.zero_grad()
        asked(network).segmentation[index].square().mean().backward()
        taught = [layer.weight.grad is not None for layer in network.decoder.seg_layers]
        assert taught == [index == 2, index == 1, index == 0]
        through = [network.decoder.segmentation_aware, network.decoder.fuse1, network.decoder.fuse0]
        assert next(through[index].parameters()).grad is not None


def test_enlarging_logits_is_predicting_from_enlarged_features(build_pyramid: Build, calls_of: CallsOf) -> None:
    """The published order: the features to the size of the image, then the 1x1 convolution."""
    network = build_pyramid().eval()
    layer = network.decoder.seg_layers[-1]
    with torch.no_grad(), calls_of(layer) as calls:
        logits = network(image())
    ((feature,),) = calls
    enlarged = nn.functional.interpolate(feature, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, layer(enlarged), atol=1e-5, rtol=0)


# ---- who learns from what


PATHS = ("decoder.pyramid", "decoder.adaptive_attention", "decoder.fuse0", "encoder")
SEGMENTS = ("decoder.segmentation_aware", "decoder.seg_layers", "decoder.fuse1")
ANSWERS = ("classification", "classification_aware")


def test_the_class_loss_alone_reaches_the_shared_levels_and_nothing_that_segments(build_pyramid: Build) -> None:
    network = build_pyramid(**OWN)
    levels: list[Tensor] = []
    for attention in network.decoder.adaptive_attention:
        attention.register_forward_hook(lambda _, __, made: (made.retain_grad(), levels.append(made))[1])
    loss = asked(network).classification["nodes"][:, 0].square().sum()
    found = gradients(network, loss, *PATHS, *SEGMENTS, *ANSWERS)
    assert len(levels) == 4
    assert all(level.grad is not None and float(level.grad.abs().sum()) > 0 for level in levels)
    assert all(found[name] > 0 for name in (*PATHS, *ANSWERS))
    assert all(found[name] == 0 for name in SEGMENTS)


def test_the_segmentation_loss_alone_teaches_nothing_that_answers(build_pyramid: Build) -> None:
    network = build_pyramid(**OWN)
    loss = sum(each.square().mean() for each in asked(network).segmentation)
    found = gradients(network, loss, *PATHS, *SEGMENTS, *ANSWERS)
    assert all(found[name] > 0 for name in (*PATHS, *SEGMENTS))
    assert all(found[name] == 0 for name in ANSWERS)


def test_how_much_of_the_answers_gradient_is_shared_is_a_number(build_pyramid: Build) -> None:
    shared, aware = [], []
    for share in (1.0, 0.5, 0.0):
        network = build_pyramid(**OWN, class_gradient=share)
        loss = asked(network).classification["nodes"].square().sum()
        found = gradients(network, loss, "encoder", "classification_aware")
        shared.append(found["encoder"])
        aware.append(found["classification_aware"])
    assert shared[1] == pytest.approx(shared[0] / 2, rel=1e-4)
    assert shared[2] == 0
    assert aware == pytest.approx([aware[0]] * 3)


# ---- parts that are off


def has_the_part(network: Any, point: str) -> bool:
    """The property of a part, as the paper tells it, on the network as a whole."""
    decoder = network.decoder
    if point == "visual_attention":  # a level does not go down the pyramid as it came
        seen: list[bool] = []
        for attention in decoder.pyramid.visual_attention:
            attention.register_forward_hook(lambda _, given, made: seen.append(not torch.equal(given[0], made)))
        asked(network)
        return all(seen)
    if point == "adaptive_attention":  # the segmentation teaches the fusion before the attention
        final = asked(network).segmentation[0].square().mean()
        return gradients(network, final, "decoder.fuse0")["decoder.fuse0"] > 0
    if point == "segmentation_aware":  # what segments is not what the second path is supervised on
        final = asked(network).segmentation[0].square().mean()
        return gradients(network, final, "decoder.fuse1")["decoder.fuse1"] == 0
    answer = asked(network).classification["nodes"].square().sum()  # the answer has weights of its own before its head
    return gradients(network, answer, "classification_aware")["classification_aware"] > 0


@pytest.mark.parametrize("point", OFF)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_does_what_it_is_said_to_and_not_when_it_is_off(build_pyramid: Build, kind: str, point: str) -> None:
    assert has_the_part(build_pyramid(kind, **OWN), point)
    network = build_pyramid(kind, **OWN, **{point: OFF[point]})
    assert not has_the_part(network, point)
    output = asked(network)
    assert [tuple(each.shape[2:]) for each in output.segmentation] == [(32, 32)] * 3
    assert output.classification["nodes"].shape == (2, 2)


@pytest.mark.parametrize("off", [(), *[(point,) for point in OFF], tuple(OFF)])
@pytest.mark.parametrize("supervised", [True, False])
def test_every_weight_gets_a_gradient_whatever_is_off(build_pyramid: Build, off: Any, supervised: bool) -> None:
    """DistributedDataParallel waits for every one of them."""
    network = build_pyramid(**OWN, **{point: OFF[point] for point in off}, deep_supervision=supervised)
    output = asked(network)
    assert isinstance(output.segmentation, list) == supervised
    scales = output.segmentation if supervised else [output.segmentation]
    (sum(each.square().mean() for each in scales) + output.classification["nodes"].square().sum()).backward()
    assert not [name for name, value in network.named_parameters() if value.grad is None]


# ---- answers


@pytest.mark.parametrize("n_stages", [2, 3, 5])
@pytest.mark.parametrize("head", [AwareHead, EvidenceHead, BottleneckHead])
def test_every_head_answers_with_and_without_evidence(build_pyramid: Build, head: Any, n_stages: int) -> None:
    network = build_pyramid(features=[4, 6, 8, 8, 8][:n_stages], questions=[NODES, GRADE], classification=head)
    output = asked(network)
    assert {name: tuple(answer.shape) for name, answer in output.classification.items()} == {
        "nodes": (2, 2),
        "grade": (2, 3),
    }
    assert all(answer.dtype == torch.float32 for answer in output.classification.values())
    sum(answer.square().sum() for answer in output.classification.values()).backward()
    missing = {name for name, value in network.classification.named_parameters() if value.grad is None}
    assert not missing
    (sum(each.square().mean() for each in asked(network).segmentation)).backward()
    assert not [name for name, value in network.named_parameters() if value.grad is None]


def test_only_its_own_head_brings_the_branch_that_answers(build_pyramid: Build) -> None:
    def branch(**own: Any) -> int:
        return sum(value.numel() for value in build_pyramid(**own).classification_aware.parameters())

    assert branch(**OWN) > 0
    assert branch(questions=[NODES], classification=EvidenceHead) == 0
    assert branch() == 0
    assert asked(build_pyramid()).classification == {}


def test_the_answer_reads_the_whole_patch(build_pyramid: Build) -> None:
    network = build_pyramid(**OWN).eval()
    with torch.no_grad():
        x = image()
        before = asked(network, x).classification["nodes"]
        for corner in ((0, 0), (0, -6), (-6, 0), (-6, -6)):
            changed = x.clone()
            rows, columns = (slice(edge, edge + 6 or None) for edge in corner)
            changed[..., rows, columns] += 3
            assert not torch.allclose(asked(network, changed).classification["nodes"], before, atol=1e-4)


def test_images_are_described_differently_though_the_encoder_normalises(
    build_pyramid: Build, calls_of: CallsOf
) -> None:
    network = build_pyramid(features=(8, 16, 16, 16), options={"width": 16}, **OWN).eval()
    x = torch.cat([nn.functional.interpolate(torch.randn(1, 1, 2 + 2 * n, 2 + 2 * n), size=(32, 32)) for n in range(8)])
    with torch.no_grad():
        described = network.classification_aware(
            network.decoder(network.encoder(x)[-3:], supervised=False, attach=False)[0]
        )
    assert float(described.std(0).mean()) > 0.02


def test_heads_that_share_channels_or_read_the_bottleneck_work_too(build_pyramid: Build) -> None:
    slots = {"slot_of_region": [0, 1, 0, 0, 1]}
    network = build_pyramid(segmentation_head=SlotHead, **slots).eval()
    logits = network(image())
    assert torch.equal(logits[:, 0], logits[:, 3])
    assert all(layer.out_channels == 2 for layer in network.decoder.seg_layers)
    network = build_pyramid(segmentation_head=DynamicHead, **slots).eval()
    assert network.conditioned
    assert network(image()).shape == (2, 5, 32, 32)
    assert [tuple(each.shape[2:]) for each in asked(network).segmentation] == [(32, 32)] * 3


# ---- the host


@pytest.mark.parametrize("kind", ["plain", pytest.param("residual", marks=pytest.mark.slow)])
def test_it_is_compiled_whole(build_pyramid: Build, kind: str) -> None:
    torch._dynamo.reset()
    network = build_pyramid(kind, features=(4, 6, 8), questions=[NODES, GRADE], classification=AwareHead)
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for task in ([0, 0], [1, 2]):
        output = compiled(image(), task=torch.tensor(task), full_output=True)
        (sum(each.mean() for each in output.segmentation) + output.classification["nodes"].sum()).backward()
    assert counter.frame_count == 1
    eager = torch.compile(network.eval(), backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(eager(image()), network(image()))
    torch._dynamo.reset()


def test_bfloat16_autocast_gives_finite_logits_and_answers(build_pyramid: Build) -> None:
    network = build_pyramid(**OWN).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        output = asked(network)
    assert all(bool(each.isfinite().all()) for each in output.segmentation)
    assert output.classification["nodes"].dtype == torch.float32
    with torch.no_grad():
        expected = asked(network).segmentation[0]
    assert float((output.segmentation[0] - expected).abs().mean()) < 0.1 * float(expected.abs().mean())


def test_a_saved_network_gives_the_same_logits_and_answers(build_pyramid: Build) -> None:
    network, other = build_pyramid(**OWN).eval(), build_pyramid(**OWN).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn_like(value))
        other.load_state_dict(network.state_dict())
        assert torch.equal(other(image()), network(image()))
        assert torch.equal(*(asked(each).classification["nodes"] for each in (network, other)))


def test_planners_are_told_the_size_of_all_feature_maps(build_pyramid: Build) -> None:
    network = build_pyramid(features=(4, 6), options={"width": 4})
    decoder, level, half = network.decoder, 16 * 16, 4 * 16 * 16
    attention = 2 + 2 + 3 + 4  # convolutions of the four branches
    fusion, adaptive, segments = 3, 2 * 3 + 3, 3  # blocks of width 4 each, and the two reductions to 16, the weights
    own = (1 + attention + 1 + 2 * fusion + adaptive + segments) * half + (2 * 16 + 2) * level + 3 * 5 * level
    assert len(decoder.seg_layers) == 3
    assert network.compute_conv_feature_map_size((32, 32)) == own + network.encoder.compute_conv_feature_map_size(
        (32, 32)
    )
    deep = build_pyramid(features=(4, 6, 8, 8))
    assert deep.compute_conv_feature_map_size((32, 32)) > 0


def test_the_published_width_has_the_parameters_of_the_equations(build_pyramid: Build) -> None:
    with torch.device("meta"):
        ours = build_pyramid(dimensions=3, features=(32, 64, 128, 256, 320, 320), options={"width": 64}, **OWN)
    w, cube = 64, 27

    def block(channels: int, kernel: int = 1, made: int = w, bias: int = 1) -> int:
        return channels * made * kernel + bias * made + 2 * made + 1  # bias, GroupNorm, PReLU

    refining = 2 * block(w, cube)
    branches = [(1 + cube, 2), (2 * cube, 2), (3 * cube, 3), (4 * cube, 4)]
    visual = sum(
        sum(w * w * voxels + w * n for voxels, n in branches[:number]) + number * w * w + w + 1
        for number in (4, 3, 2, 2)
    )
    fusion = block(4 * w) + refining
    attend = block(w) + block(w, cube) + w * w * cube + w
    adaptive = attend + 2 * block(w, made=16, bias=0) + (2 * 16 * 2 + 2) + block(2 * w) + refining
    parts = {
        "reduce": sum(block(channels) for channels in (128, 256, 320, 320)),
        "pyramid": visual + 3 * 2 + (2 + 3 * 3) + 3 * block(w, bias=0),
        "fuse0": fusion,
        "adaptive_attention": 4 * adaptive + 3 * block(w, cube, bias=0),
        "fuse1": fusion,
        "segmentation_aware": block(3 * w) + block(2 * w) + 2 * (w * w + w) + refining,
        "seg_layers": 3 * (5 * w + 5),
    }
    found = {name: sum(value.numel() for value in part.parameters()) for name, part in ours.decoder.named_children()}
    assert found == parts
    aware = sum(value.numel() for value in ours.classification_aware.parameters())
    assert aware == 2 * block(w, cube, bias=0) + 2 * (block(2 * w) + w * w + w) + refining
    assert sum(value.numel() for value in ours.classification.parameters()) == 2 * (2 * w) + 2
