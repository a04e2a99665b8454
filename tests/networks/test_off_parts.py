"""Attention of stages: what the encoder's outputs and the decoder's stages pass on their way on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mtl.networks.classification import ClassificationHead
from nnunet_mtl.networks.off_parts import NoStageAttention


class Scaled(NoStageAttention):
    """Multiplies by a factor, and remembers how it was built and called."""

    def __init__(self, channels: int, level: int, dimensions: int, factor: float = 2.0) -> None:
        super().__init__(channels, level, dimensions)
        self.built = (channels, level, dimensions)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        self.seen = tuple(x.shape)
        return self.factor * x


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_output_of_the_encoder_and_every_stage_of_the_decoder_passes_its_own(
    build: Callable[..., Any], kind: str, dimensions: int
) -> None:
    network = build(kind, dimensions=dimensions, encoder_attention=Scaled, decoder_attention=Scaled)
    assert [part.built for part in network.encoder_attention] == [
        (8, 0, dimensions),
        (6, 1, dimensions),
        (4, 2, dimensions),
    ]
    assert [part.built for part in network.decoder_attention] == [(6, 0, dimensions), (4, 1, dimensions)]
    network(torch.randn(2, 1, *[16] * dimensions))
    assert [part.seen[1:3] for part in network.encoder_attention] == [(8, 4), (6, 8), (4, 16)]
    assert [part.seen[1:3] for part in network.decoder_attention] == [(6, 8), (4, 16)]


def test_the_next_stage_of_the_encoder_reads_what_nothing_attended_to(build: Callable[..., Any]) -> None:
    image = torch.randn(2, 1, 16, 16)
    inputs: list[Tensor] = []
    for attention in (NoStageAttention, Scaled):
        network = build(encoder_attention=attention).eval()
        network.encoder.stages[2].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        stage = network.encoder.stages[2][0].convs[0].conv
        stage.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        network(image)
    first, second = inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :]
    assert first
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_each_of_them_changes_the_result_and_none_does_not(build: Callable[..., Any]) -> None:
    image = torch.randn(2, 1, 16, 16)
    off = build().eval()(image)
    assert torch.equal(off, build(encoder_attention=NoStageAttention, decoder_attention=NoStageAttention).eval()(image))
    for point in ("encoder_attention", "decoder_attention"):
        network = build(**{point: Scaled}).eval()
        for part in getattr(network, point):
            part.factor = 1.0
        assert torch.equal(network(image), off)
        for part in getattr(network, point):
            part.factor = 3.0
            assert not torch.allclose(network(image), off)
            part.factor = 1.0


def test_numbers_of_the_method_reach_it(build: Callable[..., Any]) -> None:
    network = build(decoder_attention=Scaled, encoder_attention=Scaled, method_options={"factor": 5.0})
    assert {part.factor for part in (*network.encoder_attention, *network.decoder_attention)} == {5.0}


def test_answers_read_the_coarsest_stage_after_its_attention(build: Callable[..., Any]) -> None:
    seen: list[Any] = []

    class Reader(ClassificationHead):
        def answer(self, *arguments: Any) -> nn.Module:
            return nn.Identity()

        def forward(self, index: int, features: Any, evidence: Tensor | None) -> Tensor:
            seen.append(features)
            return torch.zeros(2, 2)

    question = {"name": "q", "outputs": 2, "evidence": -1, "task": -1}
    network = build(decoder_attention=Scaled, classification=Reader, questions=[question])
    outputs: list[Tensor] = []
    network.decoder_attention[0].register_forward_hook(lambda *arguments: outputs.append(arguments[2]))
    network(torch.randn(2, 1, 16, 16), full_output=True)
    assert torch.equal(seen[0].attended, outputs[0])
