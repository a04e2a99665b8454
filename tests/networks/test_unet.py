from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from nnunet_mtl.networks.attention import TaskGuidedAttention
from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.heads import SlotHead
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.networks.off_parts import NoTaskAttention
from nnunet_mtl.networks.unet import TaskGuidedPlainConvUNet

Build = Callable[..., nn.Module]
CallsOf = Callable[[nn.Module], AbstractContextManager[list[tuple[Any, ...]]]]
SavedBytes = Callable[[Callable[[], object]], int]
KINDS = ["plain", "residual"]
IMAGE = (1, 16, 16)


def image(batch: int = 2, dimensions: int = 2) -> Tensor:
    return torch.randn(batch, 1, *[16] * dimensions, generator=torch.Generator().manual_seed(1))


def backbone_state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if not name.startswith("task_attention.")}


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_before_training_features_and_logits_equal_the_stock_network_with_the_same_weights(
    build: Build, kind: str, dimensions: int, calls_of: CallsOf
) -> None:
    ours = build(kind, dimensions=dimensions)
    stock = build(kind, dimensions=dimensions, stock=True)
    stock.load_state_dict(backbone_state(ours))
    x = image(2, dimensions)
    with calls_of(ours.decoder.seg_layers[-1]) as features, calls_of(stock.decoder.seg_layers[-1]) as stock_features:
        output = ours(x, task=torch.tensor([2, 0]), full_output=True)
        expected = stock(x)
    assert torch.equal(features[0][0], stock_features[0][0])
    assert len(output.segmentation) == len(expected) == 2
    for logits, stock_logits in zip(output.segmentation, expected, strict=True):
        assert torch.equal(logits, stock_logits)
    assert torch.equal(ours(x), expected[0])
    assert torch.equal(ours(x, task=torch.tensor([1, 1])), expected[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tasks", [1, 2, 7, 32])
def test_all_tasks_cost_one_encoder_pass_and_equal_one_pass_per_task(
    build: Build, trained: Callable[..., nn.Module], kind: str, num_tasks: int, calls_of: CallsOf
) -> None:
    owners = [*range(num_tasks), 0]
    network = trained(build(kind, task_of_region=owners))
    x = image()
    stem = network.get_submodule(network.keys_to_in_proj[0])
    with calls_of(stem) as stem_calls, calls_of(network.decoder.transpconvs[0]) as decoder_calls:
        logits = network(x)
    assert len(stem_calls) == 1
    assert len(decoder_calls) == num_tasks
    for region, owner in enumerate(owners):
        alone = network(x, task=torch.tensor([owner, owner]))
        torch.testing.assert_close(logits[:, region], alone[:, region], atol=1e-5, rtol=0)


def test_tasks_differ_after_training_and_their_features_with_them(
    build: Build, trained: Callable[..., nn.Module]
) -> None:
    network = trained(build())
    logits = [network(image(), task=torch.tensor([task, task])) for task in range(3)]
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)
    assert not torch.allclose(logits[1], logits[2], atol=1e-2)


def test_without_attention_one_pass_serves_all_tasks(build: Build, calls_of: CallsOf) -> None:
    network = build(task_attention=NoTaskAttention)
    stock = build(stock=True)
    stock.load_state_dict(network.state_dict())
    with calls_of(network.decoder.transpconvs[0]) as decoder_calls:
        logits = network(image())
    assert len(decoder_calls) == 1
    assert torch.equal(logits, stock(image())[0])
    assert torch.equal(network(image(), task=torch.tensor([2, 1])), logits)


@pytest.mark.parametrize("gates", ["identity", "faithful"])
def test_a_batch_of_mixed_tasks_equals_its_samples_one_by_one(
    build: Build, trained: Callable[..., nn.Module], gates: str
) -> None:
    network = trained(build(gates=gates))
    x, task = image(4), torch.tensor([2, 0, 1, 2])
    together = network(x, task=task)
    for n in range(4):
        torch.testing.assert_close(together[n : n + 1], network(x[n : n + 1], task=task[n : n + 1]), atol=1e-4, rtol=0)
    assert not torch.allclose(together, network(x, task=torch.zeros_like(task)), atol=1e-2)


def test_gates_read_the_image_through_what_the_normalisation_of_the_coarser_stage_reads(
    build: Build, calls_of: CallsOf
) -> None:
    network = build(gates="faithful", features=(8, 16, 16, 16))
    smooth = [torch.randn(1, 1, 2 + 2 * n, 2 + 2 * n) for n in range(8)]
    x = torch.cat([nn.functional.interpolate(noise, size=(32, 32), mode="bilinear") for noise in smooth])
    task = torch.ones(8, dtype=torch.long)
    for _ in range(3):
        network(x, task=task)  # the running estimates of a first few training steps
    network.eval()
    for level, gate in enumerate(network.task_attention):
        coarser = network.encoder.stages[-1] if level == 0 else network.decoder.stages[level - 1].convs[-1].norm
        with calls_of(gate) as gate_calls, calls_of(coarser) as norm_calls, torch.no_grad():
            network(x, task=task)
            _, feature, upsampled, _ = gate_calls[0]
            assert upsampled.shape[2:] == gate_calls[0][0].shape[2:]
            factors = gate.factors(feature, task)
        if level > 0:
            assert torch.equal(feature, norm_calls[0][0])
        assert float(factors.std(0).mean()) > 0.02


LAYOUTS: list[dict[str, Any]] = [
    {"features": (4, 5), "dimensions": 2},
    {"features": (3, 5, 7, 7), "dimensions": 3, "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 1]]},
    {"features": (4, 6, 8), "dimensions": 3, "kernels": [[1, 3, 3], [3, 3, 3], [3, 1, 3]], "convs": 1},
    {"features": (4, 4, 4, 4, 4, 4, 4, 4), "dimensions": 2, "strides": [[1, 1], *[[2, 2]] * 3, *[[1, 2], [1, 1]] * 2]},
    {"features": (4, 6, 8), "dimensions": 2, "strides": [[1, 1], [3, 2], [2, 3]], "convs": 3},
    {"features": (5, 4, 3), "dimensions": 2, "convs": 1},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("head", [{}, {"segmentation_head": SlotHead, "slot_of_region": [0, 1, 0, 0, 1]}])
def test_any_layout_of_stages_gives_logits_of_the_images_shape(
    build: Build, kind: str, layout: dict[str, Any], head: dict[str, Any]
) -> None:
    network = build(kind, gates="faithful", **layout, **head)
    size = (36, 36) if [3, 2] in layout.get("strides", []) else (32,) * layout["dimensions"]
    x = torch.randn(2, 1, *size)
    output = network(x, task=torch.tensor([0, 2]), full_output=True)
    assert len(output.segmentation) == len(layout["features"]) - 1
    assert output.segmentation[0].shape == network(x).shape == (2, 5, *size)
    for scale, layer_input in zip(output.segmentation[1:], output.segmentation[:-1], strict=True):
        assert scale.shape[:2] == (2, 5)
        assert all(coarse <= fine for coarse, fine in zip(scale.shape[2:], layer_input.shape[2:], strict=True))
    assert all(bool(scale.isfinite().all()) for scale in output.segmentation)


def test_slots_are_shared_between_tasks_and_read_by_region(build: Build, trained: Callable[..., nn.Module]) -> None:
    network = trained(build(segmentation_head=SlotHead, slot_of_region=[0, 1, 0, 0, 1]))
    assert all(layer.out_channels == 2 for layer in network.decoder.seg_layers)
    x = image()
    of_task = network(x, task=torch.tensor([2, 2]))
    assert torch.equal(of_task[:, 0], of_task[:, 3])
    logits = network(x)
    torch.testing.assert_close(logits[:, 3:], of_task[:, 3:], atol=1e-5, rtol=0)
    assert not torch.allclose(logits[:, 0], logits[:, 3], atol=1e-2)


@pytest.mark.parametrize("attention", [TaskGuidedAttention, NoTaskAttention])
def test_the_result_over_all_tasks_is_fresh_memory_even_with_deep_supervision_on(build: Build, attention: type) -> None:
    network = build(task_attention=attention).eval()
    assert network.decoder.deep_supervision
    with torch.inference_mode():
        first = network(image())
        assert isinstance(first, Tensor)
        assert first.is_contiguous()
        kept = first.clone()
        first += 1
        assert torch.equal(network(image()), kept)


def test_the_mode_follows_from_the_arguments_not_from_training(build: Build) -> None:
    network = build()
    task = torch.tensor([0, 1])
    for mode in (True, False):
        network.train(mode)
        network.decoder.deep_supervision = True
        assert isinstance(network(image()), Tensor)
        assert isinstance(network(image(), task=task), Tensor)
        assert isinstance(network(image(), full_output=True).segmentation, Tensor)
        output = network(image(), task=task, full_output=True)
        assert isinstance(output, MultiTaskOutput)
        assert isinstance(output.segmentation, list)
        assert output.classification == {}
        network.decoder.deep_supervision = False
        assert isinstance(network(image(), task=task, full_output=True).segmentation, Tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_keys(build: Build, kind: str) -> None:
    stock, ours = build(kind, stock=True), build(kind)
    assert set(ours.state_dict()) == set(build(kind, deep_supervision=False).state_dict())
    result = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert result.missing_keys
    assert all(key.startswith("task_attention.") for key in result.missing_keys)
    assert not any(".seg_layers." in key for key in result.missing_keys)

    def duplicates(network: nn.Module) -> int:
        state = network.state_dict()
        return len(state) - len({value.data_ptr() for value in state.values()})

    assert duplicates(ours) == duplicates(stock)


def test_a_saved_network_gives_the_same_logits(build: Build, trained: Callable[..., nn.Module]) -> None:
    network = trained(build())
    other = build().eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(image()), network(image()))


@pytest.mark.parametrize("gates", ["identity", "faithful"])
def test_bfloat16_autocast_gives_finite_logits_near_those_of_float32(
    build: Build, trained: Callable[..., nn.Module], gates: str
) -> None:
    network = trained(build(gates=gates))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(image())
        output = network(image(), task=torch.tensor([0, 2]), full_output=True)
    assert logits.dtype == torch.bfloat16
    assert all(bool(scale.isfinite().all()) for scale in output.segmentation)
    expected = network(image())
    assert bool((logits - expected).abs().mean() < 0.1 * expected.abs().mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [{}, {"segmentation_head": SlotHead, "slot_of_region": [0, 1, 0, 0, 1]}])
def test_one_task_step_reaches_every_parameter(build: Build, kind: str, head: dict[str, Any]) -> None:
    network = build(kind, **head)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        output = network(image(), task=torch.tensor([1, 1]), full_output=True)
        sum(scale.square().mean() for scale in output.segmentation).backward()
        optimizer.step()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without
    still = [
        name
        for name, parameter in network.named_parameters()
        if name.startswith("task_attention.") and not bool(parameter.grad.abs().sum() > 0)
    ]
    assert not still


@pytest.mark.parametrize("gates", ["identity", "faithful"])
@pytest.mark.parametrize(
    ("dimensions", "features", "stock_millions", "bound"),
    [(3, (32, 64, 128, 256, 320, 320), 31.20, 0.01), (2, (32, 64, 128, 256, 512, 512, 512, 512), 46.33, 0.02)],
)
def test_few_parameters_are_added_to_default_plans(
    build: Build, gates: str, dimensions: int, features: tuple[int, ...], stock_millions: float, bound: float
) -> None:
    with torch.device("meta"):
        stock = build(dimensions=dimensions, features=features, stock=True, num_classes=13)
        ours = build(dimensions=dimensions, features=features, gates=gates, task_of_region=[*range(7), *range(6)])
    before, after = (sum(parameter.numel() for parameter in net.parameters()) for net in (stock, ours))
    assert before / 1e6 == pytest.approx(stock_millions, abs=0.02)
    assert 0 < after / before - 1 <= bound


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("gates", ["identity", "faithful"])
def test_autograd_keeps_next_to_nothing_more_than_for_the_stock_network(
    build: Build, gates: str, autocast: bool, saved_bytes: SavedBytes
) -> None:
    # Features are a quarter of the default 3D plans', so the weights are too small to hide a kept activation;
    # what the gates keep for themselves does not grow with the patch, which is 1/64 of a default one here.
    features = (8, 16, 32, 64)
    stock, ours = (
        build(dimensions=3, features=features, stock=is_stock, **own)
        for is_stock, own in ((True, {}), (False, {"gates": gates}))
    )
    x = torch.randn(2, 1, 32, 32, 32)
    task = torch.tensor([0, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        before = saved_bytes(lambda: stock(x))
        after = saved_bytes(lambda: ours(x, task=task, full_output=True))
    assert after / before - 1 <= 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_compilation_breaks_no_graph_and_recompiles_for_no_task(build: Build, kind: str) -> None:
    torch._dynamo.reset()
    network = build(kind, features=(4, 6), convs=1)
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for task in ([0, 0], [1, 2], [2, 0]):
        output = compiled(image(), task=torch.tensor(task), full_output=True)
        sum(scale.mean() for scale in output.segmentation).backward()
    assert counter.frame_count == 1
    torch.testing.assert_close(
        compiled.eval()(image(), task=torch.tensor([1, 2])), network(image(), task=torch.tensor([1, 2]))
    )
    torch._dynamo.reset()


def test_the_planner_builds_it_without_tasks_and_estimates_the_stock_size(build: Build) -> None:
    stock = build(stock=True)
    network = TaskGuidedPlainConvUNet(
        num_classes=5,
        input_channels=1,
        n_stages=3,
        features_per_stage=[4, 6, 8],
        conv_op=nn.Conv2d,
        kernel_sizes=[[3, 3]] * 3,
        strides=[[1, 1], [2, 2], [2, 2]],
        n_conv_per_stage=[2] * 3,
        n_conv_per_stage_decoder=[2] * 2,
        deep_supervision=True,
    )
    assert isinstance(network, PlainConvUNet)
    assert network.compute_conv_feature_map_size((16, 16)) == stock.compute_conv_feature_map_size((16, 16))
    assert network(image()).shape == (2, 5, 16, 16)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"task_attention": None}, r"task_attention names no class.*NoTaskAttention"),
        ({"segmentation_head": None}, r"segmentation_head names no class"),
        ({"gates": "open"}, r"gates='open' must be 'identity' or 'faithful'"),
        ({"num_classes": 4}, r"task_of_region=.* each of the 4 regions"),
        ({"task_of_region": [0, 2, 2, 0, 0]}, r"task_of_region=.* without gaps"),
        ({"slot_of_region": [1, 1, 2, 1, 1]}, r"slot_of_region=.* without gaps"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(build: Build, own: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build(**own)
