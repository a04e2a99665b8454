from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_mtl.networks.heads import SlotHead
from nnunet_mtl.networks.off_parts import NoConditioning, NoTaskAttention
from nnunet_mtl.networks.task_code import TaskCode
from nnunet_mtl.networks.task_guided import widen

Build = Callable[..., Any]
OFF = {"task_attention": NoTaskAttention, "segmentation_head": SlotHead, "slot_of_region": [0, 1, 0, 0, 1]}
INPUT, DECODER = OFF | {"input_conditioning": TaskCode}, OFF | {"decoder_conditioning": TaskCode}
KINDS = ["plain", "residual"]


def image(dimensions: int = 2, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 1, *[16] * dimensions, generator=torch.Generator().manual_seed(1))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_code_is_constant_and_one_hot() -> None:
    coded = TaskCode(3)(torch.zeros(2, 1, 4, 5), torch.tensor([2, 0]))
    assert coded.shape == (2, 4, 4, 5)
    assert torch.equal(coded[:, 1:, 0, 0], torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    assert torch.equal(coded, coded[:, :, :1, :1].expand_as(coded))
    x = torch.zeros(1, 1, 4)
    assert NoConditioning(3)(x) is x


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv3d(2, 3, (1, 3, 3)),
        nn.ConvTranspose2d(2, 3, 2, 2),
        nn.Conv2d(2, 3, 1, bias=False),
    ],
)
def test_a_wider_convolution_reads_what_is_appended(convolution: Any) -> None:
    before = convolution.weight
    widen(convolution, 0)
    assert convolution.weight is before
    widen(convolution, 2)
    x = torch.randn(1, 4, *[4] * (convolution.weight.ndim - 2))
    x.requires_grad_()
    convolution(x).square().sum().backward()
    assert (x.grad.flatten(2).abs().sum(2) > 0).all()
    assert convolution.weight.numel() == before.numel() * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_input_code_adds_the_first_convolutions_weights_for_k_channels_and_nothing_else(
    build: Build, kind: str, dimensions: int
) -> None:
    plain, coded = build(kind, dimensions=dimensions, **OFF), build(kind, dimensions=dimensions, **INPUT)
    assert count(coded) - count(plain) == 3 * 4 * 3**dimensions


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_code_adds_the_weights_of_k_channels_in_the_first_convolution_of_every_stage(
    build: Build, kind: str
) -> None:
    assert count(build(kind, **DECODER)) - count(build(kind, **OFF)) == 3 * (4 + 6) * 9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [INPUT, DECODER])
def test_with_zero_weights_for_the_code_both_are_the_network_without_a_task(
    build: Build, kind: str, own: dict[str, Any]
) -> None:
    plain, coded = build(kind, **OFF), build(kind, **own)
    state = plain.state_dict()
    with torch.no_grad():
        for name, value in coded.state_dict().items():
            inputs = state[name].shape[1] if value.ndim > 1 else 0
            if inputs and value.shape[1] > inputs:
                value[:, :inputs].copy_(state[name])
                value[:, inputs:].zero_()
            else:
                value.copy_(state[name])
    torch.testing.assert_close(coded(image(), task=torch.tensor([2, 1])), plain(image()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_the_task_where(build: Build, kind: str, calls_of: Any) -> None:
    x, tasks = image(), [torch.tensor([t, t]) for t in range(3)]
    for own, encoders, decoders in ((OFF, 1, 1), (INPUT, 3, 3), (DECODER, 1, 3)):
        network = build(kind, **own).eval()
        stem = network.get_submodule(network.keys_to_in_proj[0])
        with calls_of(stem) as encoded, calls_of(network.decoder.transpconvs[0]) as decoded:
            network(x)
        assert (len(encoded), len(decoded)) == (encoders, decoders)
        alone = [network(x, task=task) for task in tasks]
        assert torch.equal(alone[0], alone[1]) == (own is OFF)
        with calls_of(network.decoder.transpconvs[0]) as features:
            network(x, task=tasks[0])
            network(x, task=tasks[1])
        assert torch.equal(features[0][0], features[1][0]) == (own is not INPUT)


@pytest.mark.parametrize("own", [INPUT, DECODER])
def test_a_mixed_batch_equals_its_samples_and_all_tasks_equal_one_pass_each(build: Build, own: dict[str, Any]) -> None:
    network, x, task = build(**own).eval(), image(batch=3), torch.tensor([2, 0, 1])
    together = network(x, task=task)
    everything = network(x)
    for n, owner in enumerate(task.tolist()):
        alone = network(x[n : n + 1], task=task[n : n + 1])
        torch.testing.assert_close(together[n : n + 1], alone, atol=1e-5, rtol=0)
        for region in [r for r, t in enumerate([0, 0, 1, 2, 2]) if t == owner]:
            torch.testing.assert_close(everything[n, region], alone[0, region], atol=1e-5, rtol=0)
