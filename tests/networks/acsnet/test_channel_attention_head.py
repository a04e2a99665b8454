import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_mtl.networks.acsnet.channel_attention_head import ChannelAttention, ChannelAttentionHead
from nnunet_mtl.networks.classification import Features, Question

QUESTIONS: list[Question] = [
    {"name": "malignancy", "outputs": 2, "evidence": 0, "task": 0},
    {"name": "grade", "outputs": 3, "evidence": -1, "task": -1},
]
ENCODER, DECODER = [8, 16, 32, 48], [32, 16, 8]
SIZES = [(5, 4), (3, 5, 4)]


def head(dropout: float = 0.0) -> ChannelAttentionHead:
    torch.manual_seed(0)
    return ChannelAttentionHead(QUESTIONS, ENCODER, DECODER, dropout)


def features(size: tuple[int, ...], batch: int = 2, seed: int = 0) -> Features:
    rng = torch.Generator().manual_seed(seed)
    sizes = [[4 * edge for edge in size], [2 * edge for edge in size], size, [(edge + 1) // 2 for edge in size]]
    encoder = [torch.randn(batch, count, *edges, generator=rng) for count, edges in zip(ENCODER, sizes, strict=True)]
    decoder, attended = (torch.randn(batch, DECODER[0], *size, generator=rng) for _ in range(2))
    return Features(encoder, decoder, attended)


def attended_by_hand(module: ChannelAttention, x: Tensor) -> Tensor:
    pooled = torch.cat((x.flatten(2).mean(2), x.flatten(2).max(2)[0]), dim=1)
    first, _, second, _ = module.factors
    hidden = functional.relu(pooled @ first.weight.T + first.bias)
    factors = 1 / (1 + (-(hidden @ second.weight.T + second.bias)).exp())
    return functional.relu(x * factors.reshape(*factors.shape, *[1] * (x.ndim - 2)))


@pytest.mark.parametrize("size", SIZES)
def test_channel_attention_is_one_factor_per_channel_from_mean_and_maximum(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, x = ChannelAttention(32), torch.randn(2, 32, *size)
    torch.testing.assert_close(module(x), attended_by_hand(module, x))
    assert float(module(x).detach().min()) == 0
    assert not torch.allclose(module(x), functional.relu(x))  # which the identity in its place would give


@pytest.mark.parametrize("channels", [16, 32, 320, 8])
def test_channel_attention_has_the_papers_sizes(channels: int) -> None:
    hidden = max(channels // 16, 1)
    shapes = {name: tuple(value.shape) for name, value in ChannelAttention(channels).named_parameters()}
    weights = [shape for shape in shapes.values() if len(shape) == 2]
    assert weights == [(hidden, 2 * channels), (channels, hidden)]
    assert sum(a * b for a, b in weights) == 2 * channels * hidden + hidden * channels


@pytest.mark.parametrize("size", SIZES)
def test_the_answer_is_that_of_the_equations(size: tuple[int, ...]) -> None:
    module, read = head(), features(size)
    assert read.attended is not None
    finer, deepest, decoded = (
        attended_by_hand(attend, x)
        for attend, x in zip(module.attention, (read.encoder[2], read.encoder[3], read.attended), strict=True)
    )
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    deepest = functional.interpolate(deepest, size, mode=mode)
    pooled = torch.cat((finer, deepest, decoded), dim=1).flatten(2).mean(2)
    hidden = functional.relu(pooled @ module.hidden.weight.T + module.hidden.bias)
    for index, question in enumerate(QUESTIONS):
        logits = module(index, read, None)
        last = module.answers[index]
        assert logits.shape == (2, question["outputs"])
        torch.testing.assert_close(logits, hidden @ last.weight.T + last.bias)


def what_it_reads(module: ChannelAttentionHead) -> list[bool]:
    """Of the encoder's stages, the decoder before a normalisation and behind its attention."""
    read = features((5, 4))
    every = [*read.encoder, read.decoder, read.attended]
    for x in every:
        assert x is not None
        x.requires_grad_()
    module(0, read, torch.full((2, 1, 5, 4), torch.nan)).sum().backward()
    return [x is not None and x.grad is not None and bool(x.grad.any()) for x in every]


def test_it_reads_the_two_deepest_stages_and_the_attended_decoder_and_no_evidence() -> None:
    assert what_it_reads(head()) == [False, False, True, True, False, True]


def test_a_network_of_two_stages_has_enough() -> None:
    torch.manual_seed(0)
    module, read = ChannelAttentionHead(QUESTIONS, ENCODER[2:], DECODER[:1], 0.0), features((5, 4))
    assert module(0, read._replace(encoder=read.encoder[2:]), None).shape == (2, 2)


def test_questions_share_all_but_the_last_layer() -> None:
    module, read = head(), features((5, 4))
    module(1, read, None).sum().backward()
    without = {name for name, value in module.named_parameters() if value.grad is None}
    assert without == {"answers.0.weight", "answers.0.bias"}


def test_dropout_is_of_training_alone() -> None:
    module, read = head(dropout=0.5), features((5, 4))
    assert not torch.equal(module(0, read, None), module(0, read, None))
    module.eval()
    assert torch.equal(module(0, read, None), module(0, read, None))


@pytest.mark.parametrize("size", SIZES)
def test_half_precision_is_computed_in_single(size: tuple[int, ...]) -> None:
    module, read = head(), features(size)
    assert read.attended is not None
    low = Features([x.bfloat16() for x in read.encoder], read.decoder.bfloat16(), read.attended.bfloat16())
    assert module(0, low, None).dtype == torch.float32
    torch.testing.assert_close(module(0, low, None), module(0, read, None), rtol=0.02, atol=0.01)


def test_parameters_by_the_formula() -> None:
    channels = [32, 48, 32]  # of the two deepest stages and the coarsest of the decoder
    of_attention = sum(3 * c * (c // 16) + c // 16 + c for c in channels)
    total = sum(channels)
    hidden = total // 2
    expected = of_attention + total * hidden + hidden + sum((hidden + 1) * q["outputs"] for q in QUESTIONS)
    assert sum(p.numel() for p in head().parameters()) == expected
