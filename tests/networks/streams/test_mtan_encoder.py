from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.pre_norm import stage_blocks
from nnunet_mtl.networks.streams.mtan_encoder import AttentionMask, AttentionStreams
from nnunet_mtl.networks.streams.stream_heads import StreamHead
from nnunet_mtl.networks.streams.task_streams import EncoderPlan, StreamTasks

Build = Callable[..., Any]
KINDS = ["plain", "residual"]
ASKED = {"questions": [{"name": "stage", "outputs": 3, "evidence": -1, "task": -1}], "classification": StreamHead}


def image(batch: int = 2, dimensions: int = 2) -> Tensor:
    return torch.randn(batch, 1, *[16] * dimensions, generator=torch.Generator().manual_seed(1))


def everything(network: Any, x: Tensor) -> Any:
    return network(x, task=torch.zeros(len(x), dtype=torch.long), full_output=True)


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def masks_of(network: Any, x: Tensor) -> list[Tensor]:
    """The factors every mask of a network gives, in the order of the masks."""
    found: dict[int, Tensor] = {}
    masks = [module for module in network.modules() if isinstance(module, AttentionMask)]
    handles = [mask.register_forward_hook(lambda m, _, y: found.__setitem__(id(m), y)) for mask in masks]
    everything(network, x)
    for handle in handles:
        handle.remove()
    return [found[id(mask)] for mask in masks]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", [1, 2, 7])
def test_a_mask_for_every_task_and_stage_and_one_carrying_convolution_for_every_stage(
    build_streamed: Build, kind: str, dimensions: int, tasks: int
) -> None:
    layout = {"dimensions": dimensions, "features": (4, 6, 8, 8)}
    network = build_streamed("mtan", kind, task_of_region=list(range(tasks)), **layout, **ASKED)
    encoder, decoder = 4, 3
    masks = [module for module in network.modules() if isinstance(module, AttentionMask)]
    assert len(masks) == tasks * (encoder + decoder) + encoder  # a question has no decoder
    assert len(network.streams.carry) == len(network.decoders.carry) == 3
    one = build_streamed("mtan", kind, task_of_region=[0], **layout, **ASKED)
    assert count(network.streams.carry) == count(one.streams.carry)
    assert count(network.decoders.carry) == count(one.decoders.carry)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_by_the_formula(build_streamed: Build, kind: str) -> None:
    channels = (4, 6, 8)

    def mask(c_in: int, c: int) -> int:
        return (c_in + 1) * c + (c + 1) * c + 4 * c

    def carry(c_in: int, c: int) -> int:
        return 9 * c_in * c + c + 2 * c

    of_encoder = mask(4, 4) + mask(12, 6) + mask(16, 8)
    of_decoder = mask(12, 6) + mask(8, 4)
    of_answer = (6 + 1) + (9 * 4 * 4 + 4) + (4 + 1)  # at half resolution, and behind another convolution
    carried = carry(4, 6) + carry(6, 8) + carry(8 + 6, 6) + carry(6 + 4, 4)
    built = {tasks: build_streamed("mtan", kind, task_of_region=list(range(tasks))) for tasks in (1, 2, 7)}
    for tasks, network in built.items():
        assert count(network) - count(network.encoder) - count(network.decoder.stages, network.decoder.transpconvs) == (
            tasks * (of_encoder + of_decoder + of_answer) + carried
        )
        assert count(network.streams, network.decoders) == tasks * (of_encoder + of_decoder) + carried
    for stage, c in enumerate(channels):
        assert count(built[2].streams.masks[1][stage]) == mask(c if stage == 0 else 2 * c, c)


def test_a_narrow_mask_has_a_quarter_of_the_channels_inside_but_at_least_eight(build: Build) -> None:
    plan = EncoderPlan.of(build(stock=True).encoder)
    for channels, hidden in ((64, 16), (32, 8), (4, 8)):
        mask = AttentionMask(plan, 2 * channels, channels, "quarter")
        assert mask[0].weight.shape[:2] == (hidden, 2 * channels)
        assert count(mask) == (2 * channels + 1) * hidden + (hidden + 1) * channels + 2 * (hidden + channels)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_lie_between_0_and_1_and_differ_from_voxel_to_voxel(build_streamed: Build, kind: str) -> None:
    for factors in masks_of(build_streamed("mtan", kind, **ASKED), image()):
        assert bool((factors > 0).all())
        assert bool((factors < 1).all())
        assert bool((factors.flatten(2).std(2) > 0.05).all())
        assert not torch.equal(factors[0], factors[1])


def test_a_mask_whose_last_layers_are_zero_is_one_half_everywhere(build_streamed: Build) -> None:
    network = build_streamed("mtan")
    assert not all(bool((factors == 0.5).all()) for factors in masks_of(network, image()))
    with torch.no_grad():
        for mask in (module for module in network.modules() if isinstance(module, AttentionMask)):
            for parameter in (*mask[3].parameters(), mask[4].bias):
                parameter.zero_()
    assert all(bool((factors == 0.5).all()) for factors in masks_of(network, image()))


def test_the_equations_of_the_encoder(build_streamed: Build) -> None:
    """Written out with torch's own functions for a question and a task of a network of three stages."""
    network = build_streamed("mtan", strides=[[1, 1], [2, 1], [2, 2]], **ASKED)
    streams = network.streams
    encoded = network._encode(image(), keep_features=False).stages

    def convolved(layer: Any, norm: Any, x: Tensor, padding: int = 0) -> Tensor:
        x = functional.conv2d(x, layer.weight, layer.bias, padding=padding)
        return functional.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=1e-5)

    for task, deepest in ((1, encoded[2].last), (3, encoded[2].before_norm)):
        seen = streams.of_task(task, streams(encoded))
        carried: list[Tensor] = []
        for level, stage in enumerate(encoded):
            first, norm, _, second, last_norm, _ = streams.masks[task][level]
            hidden = functional.relu(convolved(first, norm, torch.cat((stage.inner, *carried), 1)))
            factors = torch.sigmoid(convolved(second, last_norm, hidden))
            expected = factors * (deepest if level == 2 else stage.last)
            torch.testing.assert_close(seen[level], expected)
            if level < 2:
                layer, norm, _ = streams.carry[level]
                grown = functional.relu(convolved(layer, norm, expected, padding=1))
                carried = [functional.max_pool2d(grown, [(2, 1), (2, 2)][level])]


def test_the_equations_of_the_decoder(build_streamed: Build) -> None:
    network = build_streamed("mtan", convs=1)
    decoders, decoder = network.decoders, network.decoder
    encoded = network._encode(image(), keep_features=False).stages
    skips = network.streams.of_task(2, network.streams(encoded))
    shared = [stage.last for stage in encoded]
    x, attended = shared[-1], skips[-1]
    decoded = decoders.of_task(decoder, 2, skips, decoders(decoder, shared))
    for level in range(2):
        upsampled = decoder.transpconvs[level](x)
        x = decoder.stages[level](torch.cat((upsampled, shared[1 - level]), 1))
        grown = functional.interpolate(attended, scale_factor=2, mode="bilinear", align_corners=True)
        carried = decoders.carry[level](torch.cat((grown, skips[1 - level]), 1))
        attended = decoders.masks[2][level](torch.cat((upsampled, carried), 1)) * x
        torch.testing.assert_close(decoded.stages[level], attended)
    half, full = decoders.layers(decoder, 2)
    logits = everything(network, image()).segmentation
    torch.testing.assert_close(logits[0][:, [1, 4]], full(decoded.stages[1]))
    torch.testing.assert_close(logits[1][:, [1, 4]], half(decoded.stages[0]))
    assert [tuple(layer.kernel_size) for layer in full] == [(3, 3), (1, 1)]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_without_skips_the_decoder_is_the_released_one(build_streamed: Build, dimensions: int) -> None:
    """SegNet has no skips: with zeros for them, D reads what is enlarged with corners aligned, and nothing else."""
    strides = [[1] * dimensions, [1, 2, 2][-dimensions:], [2] * dimensions]
    network = build_streamed("mtan", dimensions=dimensions, strides=strides)
    decoders, decoder = network.decoders, network.decoder
    encoded = network._encode(image(dimensions=dimensions), keep_features=False).stages
    deepest = network.streams.of_task(1, network.streams(encoded))[-1]
    skips = [torch.zeros_like(stage.last) for stage in encoded[:-1]]
    shared = decoders(decoder, [stage.last for stage in encoded])
    made = decoders.of_task(decoder, 1, [*skips, deepest], shared).stages
    attended, mode = deepest, "bilinear" if dimensions == 2 else "trilinear"
    convolve = functional.conv2d if dimensions == 2 else functional.conv3d
    for level, (p, u, _) in enumerate(shared):
        factor = tuple(float(step) for step in strides[2 - level])
        grown = functional.interpolate(attended, scale_factor=factor, mode=mode, align_corners=True)
        convolution, norm, _ = decoders.carry[level]
        weight = convolution.weight[:, : attended.shape[1]]
        b = norm(convolve(grown, weight, convolution.bias, padding=1)).relu()
        attended = decoders.masks[1][level](torch.cat((p, b), 1)) * u
        torch.testing.assert_close(made[level], attended, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_one_task_is_not_the_plain_network_but_for_its_masks(build_streamed: Build, kind: str) -> None:
    """With every mask at one, a task sees what the encoder computed."""
    network = build_streamed("mtan_resnet", kind, task_of_region=[0, 0])
    plain = build_streamed("hps", kind, task_of_region=[0, 0])
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "streams." not in name})
    assert not torch.allclose(network(image()), plain(image()), atol=1e-2)
    with torch.no_grad():
        for mask in (module for module in network.modules() if isinstance(module, AttentionMask)):
            for parameter in (*mask[3].parameters(), mask[4].weight):
                parameter.zero_()
            mask[4].bias.fill_(30.0)  # a sigmoid of one in float32
    torch.testing.assert_close(network(image()), plain(image()))


def of_task(network: Any, regions: list[int]) -> dict[str, Tensor]:
    network.zero_grad()
    everything(network, image()).segmentation[0][:, regions].square().sum().backward()
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_moves_the_masks_of_its_task_alone_and_what_all_share(build_streamed: Build, kind: str) -> None:
    network = build_streamed("mtan", kind, **ASKED)
    for task, regions in enumerate(([0, 3], [2], [1, 4])):
        moved = {name for name, gradient in of_task(network, regions).items() if gradient.any()}
        for other in range(3):
            own = {name for name in moved if name.startswith((f"streams.masks.{other}.", f"decoders.masks.{other}."))}
            assert bool(own) == (other == task)
        assert not any(name.startswith(("streams.masks.3.", "classification.")) for name in moved)
        for level in (0, 1):  # E and D, which all tasks teach
            assert f"streams.carry.{level}.0.weight" in moved
            assert f"decoders.carry.{level}.0.weight" in moved
        assert {"decoder.transpconvs.0.weight", "decoder.stages.1.convs.0.conv.weight"} <= moved


def test_the_form_for_residual_networks(build_streamed: Build) -> None:
    network = build_streamed("mtan_resnet", method_options={"width": "full"}, features=(32, 48, 64))
    masks = [module for module in network.modules() if isinstance(module, AttentionMask)]
    assert len(masks) == 3 * 3  # none in the decoder
    assert [mask[0].weight.shape[0] for mask in masks[:3]] == [8, 12, 16]
    assert len(network.decoders.others) == 2
    block = network.streams.carry[0]
    inside = [block.conv1.conv, block.conv2.conv, block.conv3.conv]
    assert [tuple(layer.weight.shape) for layer in inside] == [(12, 32, 1, 1), (12, 12, 3, 3), (48, 12, 1, 1)]
    x = torch.randn(1, 32, 4, 4)
    torch.testing.assert_close(block(x), functional.relu(block.conv3(block.conv2(block.conv1(x))) + block.skip(x)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_for_residual_networks_masks_the_last_block_by_what_the_one_before_made(
    build_streamed: Build, kind: str
) -> None:
    """As released; with the first block for the last but one, the same only in stages of two."""
    blocks = {"plain": "n_conv_per_stage", "residual": "n_blocks_per_stage"}[kind]
    for form, index in (("mtan", 1), ("mtan_resnet", 3)):
        network = build_streamed(form, kind, **{blocks: [2, 4, 1]})
        full, stage, deepest = network._encode(image(), keep_features=False).stages
        _, of_stage = stage_blocks(network.encoder.stages[1])
        x = full.last
        for block in of_stage[:index]:
            x = block(x)
        assert torch.equal(stage.inner, x)
        assert not torch.equal(stage.inner, stage.last)
        assert torch.equal(stage.last, network.encoder(image())[1])
        assert deepest.inner is deepest.last  # a single block has none before


def test_the_residual_bottleneck_projects_its_skip_where_channels_stay_too(build_streamed: Build) -> None:
    """As released: kernel 1 and a normalisation, and no bias anywhere."""
    network = build_streamed("mtan_resnet", features=(32, 32, 48))
    for block, (c_in, c) in zip(network.streams.carry, ((32, 32), (32, 48)), strict=True):
        hidden = max(c // 4, 8)
        weights = c_in * c + c_in * hidden + 9 * hidden * hidden + hidden * c
        assert count(block) == weights + 2 * (c + hidden + hidden + c)
        x = torch.randn(2, c_in, 4, 4)
        convolution = next(module for module in block.skip.modules() if isinstance(module, nn.Conv2d))
        norm = next(module for module in block.skip.modules() if isinstance(module, nn.InstanceNorm2d))
        projected = norm(functional.conv2d(x, convolution.weight))
        expected = functional.relu(block.conv3(block.conv2(block.conv1(x))) + projected)
        torch.testing.assert_close(block(x), expected)


def test_a_pooled_stream_differs_between_images_as_behind_the_normalisation_it_would_not(
    build_streamed: Build,
) -> None:
    network = build_streamed("mtan", **ASKED)
    x = image(8) * torch.linspace(0.2, 3, 8).reshape(-1, 1, 1, 1) + torch.linspace(-2, 2, 8).reshape(-1, 1, 1, 1)
    encoded = network._encode(x, keep_features=False).stages
    question = network.streams.of_task(3, network.streams(encoded))[-1]
    behind = encoded[-1].last
    spread = [feature.flatten(2).mean(2).std(0).mean() / feature.std() for feature in (question, behind)]
    assert spread[0] > 2 * spread[1]


def test_a_stream_without_a_normalisation(build: Build) -> None:
    plan = EncoderPlan.of(build(stock=True).encoder)._replace(norm_op=None)
    streams = AttentionStreams(plan, StreamTasks(1, 0))
    assert count(streams.masks) == sum((c_in + 1) * c + (c + 1) * c for c_in, c in ((4, 4), (12, 6), (16, 8)))
