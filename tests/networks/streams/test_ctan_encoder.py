import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.streams.ctan_bottleneck import (
    CrossTaskBlock,
    CrossTaskBottleneck,
    num_heads,
    sine_positions,
    token_grid,
)
from nnunet_mtl.networks.streams.ctan_encoder import CrossAttentionStreams
from nnunet_mtl.networks.streams.stream_heads import StreamHead

Build = Callable[..., Any]
ASKED = {"questions": [{"name": "stage", "outputs": 3, "evidence": -1, "task": -1}], "classification": StreamHead}
METHODS = ["ctan_encoder", "ctan_bottleneck", "ctan"]


def image(batch: int = 2, dimensions: int = 2) -> Tensor:
    return torch.randn(batch, 1, *[16] * dimensions, generator=torch.Generator().manual_seed(1))


def everything(network: Any, x: Tensor) -> Any:
    return network(x, task=torch.zeros(len(x), dtype=torch.long), full_output=True)


def streams_of(network: Any, x: Tensor) -> tuple[list[Any], list[list[Tensor]]]:
    encoded = network._encode(x, keep_features=False).stages
    return encoded, network.streams(encoded)


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def moved_by(network: Any, regions: list[int]) -> set[str]:
    """Names of the weights that the loss of some regions moves."""
    network.zero_grad()
    everything(network, image()).segmentation[0][:, regions].square().sum().backward()
    return {name for name, value in network.named_parameters() if value.grad is not None and value.grad.any()}


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("method", METHODS)
def test_a_task_learns_through_the_masks_of_the_others(build_streamed: Build, method: str, kind: str) -> None:
    network = build_streamed(method, kind, **ASKED)
    for regions in ([0, 3], [2], [1, 4]):
        moved = moved_by(network, regions)
        for other in range(4):  # the last one is a question
            assert f"streams.masks.{other}.1.3.weight" in moved
    # and without exchange through its own alone
    alone = moved_by(build_streamed("mtan_resnet", kind, **ASKED), [2])
    assert "streams.masks.1.1.3.weight" in alone
    assert not any(name.startswith(("streams.masks.0.", "streams.masks.2.", "streams.masks.3.")) for name in alone)


def test_the_decoders_and_the_answers_are_not_exchanged(build_streamed: Build) -> None:
    moved = moved_by(build_streamed("ctan", **ASKED), [2])
    assert not any(name.startswith(("decoder.stages.", "decoders.others.1.", "classification.")) for name in moved)
    assert any(name.startswith("decoders.others.0.") for name in moved)


@pytest.mark.parametrize("method", METHODS)
def test_tasks_may_come_in_any_order_with_their_parameters(build_streamed: Build, method: str) -> None:
    network = build_streamed(method, task_of_region=[0, 1, 2]).eval()
    other = build_streamed(method, task_of_region=[0, 1, 2]).eval()
    order = [2, 0, 1]  # where the parameters of the other's tasks come from
    state, changed = network.state_dict(), {}
    pairs = {(i, k): i * 2 + k - (k > i) for i in range(3) for k in range(3) if i != k}

    def source(name: str) -> str:
        parts = name.split(".")
        if name.startswith("streams.masks."):
            parts[2] = str(order[int(parts[2])])
        elif name.startswith("streams.crossing."):
            ((i, k),) = [pair for pair, place in pairs.items() if place == int(parts[3])]
            parts[3] = str(pairs[order[i], order[k]])
        elif name.startswith("stream_bottleneck.blocks."):
            parts[2] = str(order[int(parts[2])])
        elif name.startswith(("decoder.", "decoders.others.")) and "encoder" not in name:
            start = 1 if parts[0] == "decoder" else 3
            task = order[0 if parts[0] == "decoder" else int(parts[2]) + 1]
            parts = [*(["decoder"] if task == 0 else ["decoders", "others", str(task - 1)]), *parts[start:]]
        return ".".join(parts)

    for name in state:
        changed[name] = state[source(name)]
    if "stream_bottleneck.code" in state:
        changed["stream_bottleneck.code"] = state["stream_bottleneck.code"][order]
    other.load_state_dict(changed)
    with torch.no_grad():
        torch.testing.assert_close(other(image()), network(image())[:, order], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(other(image()), network(image()), atol=1e-2)


@pytest.mark.parametrize("pairs", ["own", "shared"])
def test_what_a_task_takes_from_another_is_not_what_it_gives(build_streamed: Build, pairs: str) -> None:
    network = build_streamed("ctan_encoder", task_of_region=[0, 1, 2], method_options={"pairs": pairs})
    _, seen = streams_of(network, image())
    first, second = seen[0][1], seen[1][1]
    there = network.streams.mask_of_pair(0, 1, 1)(torch.cat((first, second), 1))
    back = network.streams.mask_of_pair(1, 0, 1)(torch.cat((second, first), 1))
    assert not torch.allclose(there, back, atol=0.05)
    found = {id(network.streams.mask_of_pair(i, k, 1)) for i in range(3) for k in range(3) if i != k}
    assert len(found) == len(network.streams.crossing[1]) == (6 if pairs == "own" else 1)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_the_equations_of_the_encoder(build_streamed: Build, kind: str) -> None:
    network = build_streamed("ctan_encoder", kind, **ASKED)
    streams = network.streams
    encoded, seen = streams_of(network, image())
    carried: list[list[Tensor]] = [[], [], [], []]
    for level, stage in enumerate(encoded):
        own = []
        for task in range(4):
            u = stage.before_norm if task == 3 and level == 2 else stage.last
            own.append(streams.masks[task][level](torch.cat((stage.inner, *carried[task]), 1)) * u)
        for i in range(4):
            expected = own[i]
            for k in [k for k in range(4) if k != i]:
                factors = streams.crossing[level][3 * i + k - (k > i)](torch.cat((own[i], own[k]), 1))
                expected = expected + factors * own[k] / 3
            torch.testing.assert_close(seen[i][level], expected)
            assert not torch.allclose(expected, own[i], atol=1e-2)
            if level < 2:
                carried[i] = [functional.max_pool2d(streams.carry[level](expected), 2)]


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_the_encoder_of_a_single_task_is_that_of_mtan(build_streamed: Build, kind: str) -> None:
    narrow = {"task_of_region": [0, 0], "method_options": {"width": "quarter"}}
    for pairs in ("own", "shared"):
        options = narrow | {"method_options": {"pairs": pairs}}
        ours, masked = (
            build_streamed("ctan_encoder", kind, **options),
            build_streamed("ctan_bottleneck", kind, **narrow),
        )
        assert count(ours.streams) == count(masked.streams)
        ours.streams.load_state_dict(masked.streams.state_dict())
        encoded, (seen,) = streams_of(ours, image())
        for left, right in zip(seen, masked.streams.of_task(0, encoded), strict=True):
            assert torch.equal(left, right)


def test_parameters_by_the_formula(build_streamed: Build) -> None:
    def mask(c_in: int, c: int) -> int:
        hidden = max(c // 4, 8)
        return (c_in + 1) * hidden + (hidden + 1) * c + 2 * hidden + 2 * c

    channels = (32, 48, 64)
    for tasks in (2, 3):
        network = build_streamed("ctan", task_of_region=list(range(tasks)), features=channels)
        own = mask(32, 32) + mask(96, 48) + mask(128, 64)
        crossing = mask(64, 32) + mask(96, 48) + mask(128, 64)
        carried = sum(9 * a * b + b + 2 * b for a, b in ((32, 48), (48, 64)))
        assert count(network.streams) == tasks * own + tasks * (tasks - 1) * crossing + carried
        block = 4 * (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64) + 3 * 2 * 64
        assert count(network.stream_bottleneck) == tasks * (block + 64)


@pytest.mark.parametrize(
    ("channels", "heads"),
    [(320, 8), (512, 8), (256, 8), (128, 4), (96, 3), (64, 2), (48, 1), (33, 1), (8, 1), (350, 7)],
)
def test_heads(channels: int, heads: int) -> None:
    assert num_heads(channels) == heads
    assert heads == max((h for h in range(1, 9) if channels % h == 0 and channels / h >= 32), default=1)


@pytest.mark.parametrize("tasks", [1, 2, 7])
def test_the_attention_of_a_token_adds_up_to_one_over_the_tokens_of_the_others(tasks: int) -> None:
    torch.manual_seed(0)
    block = CrossTaskBlock(64)
    tokens = [torch.randn(2, 6, 64) for _ in range(tasks)]
    others = tokens[1:] or tokens
    query, keys = block.asked(tokens[0], others, list(torch.randn(len(others), 64)), torch.randn(6, 64))
    _, rows = block.attention(query, keys, keys, need_weights=True, average_attn_weights=False)
    assert rows.shape == (2, 2, 6, 6 * len(others))
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 2, 6))
    assert bool(rows.std(-1).mean() > 1e-3)


def bottleneck(tasks: int = 3, channels: int = 8, **options: Any) -> CrossTaskBottleneck:
    torch.manual_seed(0)
    made = CrossTaskBottleneck(channels, tasks, **options)
    with torch.no_grad():
        made.code.normal_()
    return made


def test_the_equations_of_the_bottleneck() -> None:
    made = bottleneck()
    x = [torch.randn(2, 8, 3, 4) for _ in range(3)]
    rows = [each.flatten(2).transpose(1, 2) for each in x]
    where = sine_positions((3, 4), 8, torch.device("cpu"))
    for task, seen in enumerate(made(x)):
        block, others = made.blocks[task], [k for k in range(3) if k != task]
        normed = [functional.layer_norm(rows[k] + where, (8,)) + made.code[k] for k in others]
        q = functional.layer_norm(rows[task] + where, (8,))
        kv = torch.cat(normed, 1)
        weights, bias = block.attention.in_proj_weight.chunk(3), block.attention.in_proj_bias.chunk(3)
        q, k, v = (functional.linear(a, w, b) for a, w, b in zip((q, kv, kv), weights, bias, strict=True))
        mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(8), -1) @ v
        z = rows[task] + block.attention.out_proj(mixed)
        y = z + block.perceptron(functional.layer_norm(z, (8,)))
        torch.testing.assert_close(seen, y.transpose(1, 2).reshape(2, 8, 3, 4))


def test_a_task_asks_the_others_and_a_single_one_itself() -> None:
    made = bottleneck()
    x = [torch.randn(1, 8, 2, 2, requires_grad=True) for _ in range(3)]
    (made(x)[0] - x[0]).square().sum().backward()
    assert x[1].grad is not None
    assert bool(x[1].grad.any())
    # what it is of the others does not depend on which of them says it, but for their codes
    plain = bottleneck()
    with torch.no_grad():
        plain.code.copy_(plain.code[:1].expand(3, -1))
        swapped = [x[0], x[2], x[1]]
        torch.testing.assert_close(plain(x)[0], plain(swapped)[0])
        assert not torch.allclose(made(x)[0], made(swapped)[0], atol=1e-4)
        (alone,) = bottleneck(1)([x[0]])
    assert alone.shape == (1, 8, 2, 2)
    assert not torch.allclose(alone, x[0], atol=1e-2)


def test_positions_are_told_apart() -> None:
    made = bottleneck(2)
    constant = [torch.ones(1, 8, 4, 4) for _ in range(2)]
    with torch.no_grad():
        assert float(made(constant)[0].flatten(2).std(2).max()) > 1e-3


@pytest.mark.parametrize("size", [(5,) * 3, (4, 6), (3, 5)])
@pytest.mark.parametrize("channels", [4, 12, 13, 64])
def test_positions_are_sines_of_each_axis(size: tuple[int, ...], channels: int) -> None:
    found = sine_positions(size, channels, torch.device("cpu"))
    waves = channels // (2 * len(size))
    assert found.shape == (math.prod(size), channels)
    voxel = [edge - 1 for edge in size]
    expected = []
    for axis in voxel:
        angles = [axis / 10_000 ** (wave / waves) for wave in range(waves)]
        expected += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    expected += [0.0] * (channels - len(expected))
    torch.testing.assert_close(found[-1], torch.tensor(expected))
    if waves:
        assert len(found.unique(dim=0)) == math.prod(size)


@pytest.mark.parametrize(
    ("size", "most", "grid"),
    [
        ((4, 4, 4), 4096, (4, 4, 4)),
        ((16, 16, 16), 4096, (16, 16, 16)),
        ((17, 16, 16), 4096, (9, 16, 16)),
        ((20, 32, 32), 4096, (10, 16, 16)),
        ((100, 100), 4096, (50, 50)),
        ((3, 3), 4, (2, 2)),
        ((1, 9), 1, (1, 1)),
    ],
)
def test_the_longest_axis_is_halved_until_there_are_few_enough_tokens(
    size: tuple[int, ...], most: int, grid: tuple[int, ...]
) -> None:
    assert token_grid(size, most) == grid


@pytest.mark.parametrize("size", [(6, 4), (4, 6, 2)])
def test_of_many_voxels_means_are_asked_and_what_is_added_is_interpolated(size: tuple[int, ...]) -> None:
    made = bottleneck(2, most_tokens=8)
    grid = token_grid(size, 8)
    x = [torch.randn(1, 8, *size) for _ in range(2)]
    axes = len(size)
    pool: Any = (functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d)[axes - 2]
    means = [pool(each, grid) for each in x]
    with torch.no_grad():
        few, many = bottleneck(2, most_tokens=10**6)(means), made(x)
    for index in range(2):
        added = functional.interpolate(few[index] - means[index], size=size, mode=("bilinear", "trilinear")[axes - 2])
        torch.testing.assert_close(many[index], x[index] + added, atol=1e-5, rtol=1e-4)


def test_layer_norms_are_computed_in_single_precision_under_autocast() -> None:
    made = bottleneck(2)
    seen = []
    for module in made.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _, args, y: seen.append((args[0].dtype, y.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = made([torch.randn(1, 8, 2, 2).bfloat16() for _ in range(2)])
    assert seen == [(torch.float32, torch.float32)] * 6
    assert all(each.dtype == torch.bfloat16 for each in result)


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_reads_the_pixel_level_tasks(build_streamed: Build, method: str) -> None:
    """Tasks of pixel and image level exchange information: without exchange an answer does not see their masks."""

    def answer(of: str, *, changed: bool) -> Tensor:
        network = build_streamed(of, **ASKED).eval()
        with torch.no_grad():
            network.classification.answers[0].output.weight.fill_(1.0)
            if changed:
                network.streams.masks[0][1][4].bias.fill_(3.0)
            answered: Tensor = everything(network, image()).classification["stage"]
            return answered

    assert not torch.allclose(answer(method, changed=True), answer(method, changed=False), atol=1e-4)
    assert torch.equal(answer("mtan_resnet", changed=True), answer("mtan_resnet", changed=False))


def test_the_width_and_the_pairs_are_options(build_streamed: Build) -> None:
    of = {"task_of_region": list(range(3)), "features": (32, 48, 64)}
    sizes = [
        count(build_streamed("ctan_encoder", **of, method_options=options).streams)
        for options in ({}, {"width": "full"}, {"pairs": "shared"})
    ]
    assert sizes[2] < sizes[0] < sizes[1]
    assert isinstance(build_streamed("ctan").streams, CrossAttentionStreams)
