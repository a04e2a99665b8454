from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.lab.phantoms.organs_cases import PhantomOptions, plan_cases, render
from nnunet_mtl.networks.clip_driven.region_embedding_head import Embedding, RegionEmbeddingHead
from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.dodnet.dynamic_head import PooledDescriptor, dynamic_layers
from nnunet_mtl.networks.heads import DeepestStage
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.task_passes import PassResult, Step, TaskPasses

LAYOUT = Layout((0, 0, 1, 2, 2), (0, 1, 0, 1, 0), ((1, 2), (2,), (3,), (4,), (5,)))
CHANNELS, SIZE = 12, 20
KINDS: list[Embedding] = ["random", "learned", "file"]


def build(embedding: Embedding = "random", **options: Any) -> RegionEmbeddingHead:
    torch.manual_seed(0)
    head = RegionEmbeddingHead(LAYOUT, CHANNELS, embedding, SIZE, **options)
    if embedding == "file":
        head.load_embedding(torch.randn(5, SIZE))
    return head


def deepest(batch: int) -> Tensor:
    means = torch.randn(batch, CHANNELS, 1, 1, 1)
    return means + (0.5 + torch.rand(batch, CHANNELS, 1, 1, 1)) * torch.randn(batch, CHANNELS, 3, 2, 3)


def theta_spread(thetas: Tensor) -> float:
    return float(thetas[..., :136].detach().std(0).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_theta_of_a_region_is_the_controller_of_image_and_region(kind: Embedding) -> None:
    head, read = build(kind), deepest(2)
    theta = head.context(DeepestStage(read))
    assert theta.shape == (2, 5, 153)
    pooled = functional.relu(head.descriptor[0].norm(read)).mean((2, 3, 4))
    for sample in range(2):
        for region in range(5):
            text = functional.relu(head.of_region(head.embedding[region]))
            expected = head.controller(torch.cat((head.of_image(pooled[sample]), text)))
            torch.testing.assert_close(theta[sample, region], expected)


def test_a_region_runs_its_own_layers_on_what_all_regions_read() -> None:
    head, layer = build(), nn.Conv2d(4, RegionEmbeddingHead.channels(LAYOUT), 1)
    features, theta = torch.randn(2, 4, 3, 3), torch.randn(2, 5, 153)
    logits = head(features, layer, theta)
    assert logits.shape == (2, 5, 3, 3)
    for region in range(5):
        alone = dynamic_layers(layer(features), theta[:, [region]], 1)[:, 0, 0]
        torch.testing.assert_close(logits[:, region], alone)
    assert head.regions(logits) is logits
    assert not head.conditioned
    assert not head.shared
    assert head.reads_deepest


@pytest.mark.parametrize("kind", KINDS)
def test_theta_depends_on_the_region_and_on_the_image(kind: Embedding) -> None:
    theta = build(kind).context(DeepestStage(deepest(6)))
    assert theta_spread(theta[0]) > 0.05
    assert theta_spread(theta[:, 0]) > 0.05


def test_regions_of_equal_embeddings_get_equal_logits_and_exchanged_ones_exchange_them() -> None:
    head, layer, read, features = build("file"), nn.Conv2d(4, 8, 1), deepest(2), torch.randn(2, 4, 3, 3)
    rows = torch.randn(5, SIZE)
    rows[3] = rows[0]
    head.load_embedding(rows)
    logits = head(features, layer, head.context(DeepestStage(read)))
    torch.testing.assert_close(logits[:, 3], logits[:, 0])
    assert float((logits[:, 1] - logits[:, 0]).detach().abs().max()) > 1e-3
    order = [4, 2, 1, 0, 3]
    head.load_embedding(rows[order])
    torch.testing.assert_close(head(features, layer, head.context(DeepestStage(read))), logits[:, order])


def test_all_regions_come_from_one_pass() -> None:
    head, layer, calls = build(), nn.Conv2d(4, 8, 1), []
    features, read = torch.randn(2, 4, 3, 3), deepest(2)

    def segment(_: Tensor, *task: Tensor) -> PassResult:
        calls.append(task)
        return PassResult(head(features, layer, head.context(DeepestStage(read), *task)))

    logits, _ = TaskPasses(LAYOUT.task_of_region)((Step(segment, head.conditioned),), torch.zeros(2, 1, 3, 3))
    assert calls == [()]
    torch.testing.assert_close(logits, head(features, layer, head.context(DeepestStage(read))))


def test_a_loss_on_one_region_moves_image_region_and_encoder() -> None:
    head, layer, encoder = build("learned"), nn.Conv2d(4, 8, 1), nn.Conv3d(1, CHANNELS, 3)
    theta = head.context(DeepestStage(encoder(torch.randn(2, 1, 5, 5, 5))))
    head(torch.randn(2, 4, 3, 3), layer, theta)[:, 2].square().sum().backward()
    assert float(encoder.weight.grad.abs().sum()) > 0  # through theta alone: the features are constants
    moved = head.embedding.grad.abs().sum(1)
    assert float(moved[2]) > 0
    assert not moved[[0, 1, 3, 4]].any()


def test_image_and_region_start_with_the_same_say_and_logits_near_zero() -> None:
    torch.manual_seed(0)
    head, read = RegionEmbeddingHead(LAYOUT, 64), torch.randn(6, 64, 6, 6, 6)
    with torch.no_grad():
        of_image = head.of_image(head.descriptor(read)).square().sum(1)
        of_region = functional.relu(head.of_region(head.embedding)).square().sum(1)
        theta = head.context(DeepestStage(read))
        logits = dynamic_layers(torch.randn(6, 8, 8, 8), theta, 1)
    assert float(of_image.mean()) == pytest.approx(16, rel=0.25)
    assert float(of_region.mean()) == pytest.approx(16, rel=0.25)
    assert float(theta[..., :128].square().mean()) == pytest.approx(2 / 8, rel=0.25)
    assert 0.02 < float(logits.square().mean().sqrt()) < 0.3


def test_it_is_in_single_precision_under_autocast() -> None:
    head, layer = build(), nn.Conv2d(4, 8, 1)
    read = deepest(2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theta = head.context(DeepestStage(read))
        logits = head(torch.randn(2, 4, 3, 3), layer, theta)
    assert logits.dtype == theta.dtype == torch.float32
    assert torch.equal(theta, head.context(DeepestStage(read.float())))


@pytest.mark.parametrize(("kind", "own"), [("random", 0), ("learned", 5 * 512), ("file", 0)])
def test_parameters_by_the_formula(kind: Embedding, own: int) -> None:
    count = sum(p.numel() for p in RegionEmbeddingHead(LAYOUT, 320, kind).parameters())
    controller = (256 + 256) * 153 + 153
    assert count == 2 * 320 + (320 * 256 + 256) + (512 * 256 + 256) + controller + own
    assert count - own == 292_633


def test_random_rows_are_unit_vectors_of_the_seed_whatever_else_was_drawn() -> None:
    first = build().embedding
    torch.manual_seed(7)
    again = RegionEmbeddingHead(LAYOUT, CHANNELS, embedding_size=SIZE).embedding
    assert torch.equal(first, again)
    assert not torch.equal(first, build(seed=1).embedding)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(5))
    assert torch.equal(build("learned").embedding, first)


def test_only_a_learned_embedding_is_a_parameter_and_every_one_is_in_the_checkpoint() -> None:
    for kind in KINDS:
        head = build(kind)
        assert ("embedding" in dict(head.named_parameters())) == (kind == "learned")
        assert "embedding" in head.state_dict()


def test_an_embedding_from_a_file_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3, SIZE))
    layout = Layout((0, 0, 1), (0, 1, 0), ((1, 2), (2,), (3,)))
    trained = RegionEmbeddingHead(layout, CHANNELS, "file", SIZE)
    trained.load_embedding(torch.from_numpy(rows))
    torch.save(trained.state_dict(), tmp_path / "checkpoint.pth")
    head = RegionEmbeddingHead(layout, CHANNELS, "file", SIZE)
    head.load_state_dict(torch.load(tmp_path / "checkpoint.pth"))
    expected = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()
    torch.testing.assert_close(head.embedding, expected)
    read = deepest(2)
    assert torch.equal(head.context(DeepestStage(read)), trained.context(DeepestStage(read)))


def test_without_its_file_every_logit_is_no_number() -> None:
    head = RegionEmbeddingHead(LAYOUT, CHANNELS, "file", SIZE)
    logits = head(torch.randn(2, 4, 3, 3), nn.Conv2d(4, 8, 1), head.context(DeepestStage(deepest(2))))
    assert bool(logits.isnan().all())


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (torch.ones(5, SIZE + 1), r"of shape \(5, 20\), got \(5, 21\)"),
        (torch.ones(4, SIZE), r"of shape \(5, 20\), got \(4, 20\)"),
        (torch.zeros(5, SIZE), "all zero or not finite"),
        (torch.full((5, SIZE), torch.inf), "all zero or not finite"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_changed(rows: Tensor, problem: str) -> None:
    head = build()
    before = head.embedding.clone()
    with pytest.raises(UserError, match=problem):
        head.load_embedding(rows)
    assert torch.equal(head.embedding, before)


def test_an_unknown_kind_of_embedding_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"embedding='clip' must be one of random, learned, file"):
        build("clip")  # type: ignore[arg-type]


def test_compilation_breaks_no_graph() -> None:
    torch._dynamo.reset()
    head, layer, counter = build(), nn.Conv2d(4, 8, 1), CompileCounter()

    def segment(features: Tensor, read: Tensor) -> Tensor:
        return head(features, layer, head.context(DeepestStage(read)))

    compiled = torch.compile(segment, backend=counter, fullgraph=True)
    for batch in (2, 2, 1, 2, 1):
        arguments = torch.randn(batch, 4, 3, 3), deepest(batch)
        torch.testing.assert_close(compiled(*arguments), segment(*arguments))
    assert counter.frame_count == 2
    torch._dynamo.reset()


@pytest.mark.parametrize("axes", [2, 3])
def test_a_scale_is_normalised_and_rectified_before_its_eight_channels(axes: int) -> None:
    convolution: Any = (nn.Conv2d if axes == 2 else nn.Conv3d)(48, RegionEmbeddingHead.channels(LAYOUT), 1)
    layer = build().seg_layer(convolution, LAYOUT)
    features = 2 * torch.randn(2, 48, *[4] * axes) + 1
    kept = features.clone()
    groups = features.reshape(2, 16, -1)
    deviations = (groups.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normalised = ((groups - groups.mean(2, keepdim=True)) / deviations).reshape_as(features)
    torch.testing.assert_close(layer(features), convolution(normalised.relu()))
    assert torch.equal(features, kept)
    # the published backbone of DoDNet has both already
    assert build().seg_layer(layer, LAYOUT) is layer


def test_behind_instance_normalisation_the_descriptor_tells_half_as_much_of_the_image() -> None:
    options = PhantomOptions(dimension=2, cases_per_task=3, test_cases=3)
    scans = [torch.as_tensor(render(options, case).image).float().squeeze() for case in plan_cases(options)]
    images = torch.stack([(scan - scan.mean()) / scan.std() for scan in scans])[:, None]
    torch.manual_seed(0)
    norm: dict[str, Any] = {"norm_op": nn.InstanceNorm2d, "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU}
    encoder = PlainConvEncoder(1, 5, [16, 32, 64, 128, 128], nn.Conv2d, 3, [1, 2, 2, 2, 2], 2, conv_bias=True, **norm)
    encoder.apply(InitWeights_He(1e-2))
    before: list[Tensor] = []
    encoder.stages[-1][-1].convs[-1].norm.register_forward_pre_hook(lambda _, read: before.append(read[0]))
    descriptor = PooledDescriptor(128)

    def varies(feature: Tensor) -> float:
        v = descriptor(feature)
        return float((v.std(0) / v.mean(0)).median())

    with torch.no_grad():
        behind = encoder(images)
        assert varies(before[0]) == pytest.approx(0.14, abs=0.02)
        assert varies(behind) == pytest.approx(0.08, abs=0.015)
