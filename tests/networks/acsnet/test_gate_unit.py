from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.acsnet.gate_unit import GateAfterNorm, GateUnit
from nnunet_mtl.networks.off_parts import NoStageAttention

SIZES = [(5, 4), (3, 5, 4)]
ORDERS = [GateUnit, GateAfterNorm]
CHANNELS = 32  # 4 hidden channels in 2 groups, 8 groups of 4 behind the convolution


def unit(order: type[GateUnit] = GateUnit, size: tuple[int, ...] = (5, 4), channels: int = CHANNELS) -> GateUnit:
    torch.manual_seed(0)
    return order(channels, 0, len(size), deformable_stages=2)


def image(size: tuple[int, ...] = (5, 4), channels: int = CHANNELS) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def refined(module: GateUnit, x: Tensor) -> Tensor:
    """ReLU(GN(conv(x))) with the module's weights, written out."""
    convolve: Callable[..., Tensor] = functional.conv2d if x.ndim == 4 else functional.conv3d
    y = convolve(x, module.refine.weight, module.refine.bias, padding=1)
    return functional.relu(functional.group_norm(y, 8, module.norm.weight, module.norm.bias))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", SIZES)
def test_the_gate_is_one_number_between_0_and_2_for_every_image(order: type[GateUnit], size: tuple[int, ...]) -> None:
    module = unit(order, size)
    s = module.scalar(image(size)).detach()
    assert s.shape == (2, 1, *[1] * len(size))
    assert float(s.min()) > 0
    assert float(s.max()) < 2
    assert float((s[0] - s[1]).abs()) > 1e-4  # of the image
    assert module(image(size)).shape == image(size).shape


@pytest.mark.parametrize("size", SIZES)
def test_it_is_a_mean_and_a_maximum_of_two_maps(size: tuple[int, ...]) -> None:
    module, x = unit(size=size), image(size)
    convolve: Callable[..., Tensor] = functional.conv2d if len(size) == 2 else functional.conv3d
    first, norm, _, last = module.scores
    z = functional.group_norm(convolve(x, first.weight, first.bias, padding=1), 2, norm.weight, norm.bias)
    z = convolve(functional.relu(z), last.weight, last.bias, padding=1)
    assert z.shape == (2, 2, *size)
    for i in range(2):
        expected = (1 / (1 + (-z[i, 0]).exp())).mean() + (1 / (1 + (-z[i, 1]).exp())).max()
        torch.testing.assert_close(module.scalar(x)[i].squeeze(), expected)


@pytest.mark.parametrize("size", SIZES)
def test_the_published_order_multiplies_before_and_the_other_behind(size: tuple[int, ...]) -> None:
    x = image(size)
    before, behind = unit(GateUnit, size), unit(GateAfterNorm, size)
    torch.testing.assert_close(before(x), refined(before, before.scalar(x) * x))
    torch.testing.assert_close(behind(x), behind.scalar(x) * refined(behind, x))


def is_open_with_zero_scores(module: nn.Module) -> bool:
    """Whether the output is ReLU(GN(conv(x))) exactly where the last convolution of the gate is zero."""
    x, reference = image(), unit()
    if isinstance(module, GateUnit):
        nn.init.zeros_(module.scores[-1].weight)
        nn.init.zeros_(module.scores[-1].bias)
        assert torch.equal(module.scalar(x), torch.ones(2, 1, 1, 1))
    return torch.equal(module(x), refined(reference, x))


def test_with_zero_scores_the_factor_is_exactly_1() -> None:
    assert is_open_with_zero_scores(unit(GateUnit))
    assert is_open_with_zero_scores(unit(GateAfterNorm))
    assert not is_open_with_zero_scores(NoStageAttention(CHANNELS, 0, 2))


def follows_the_gate(module: nn.Module) -> bool:
    """Whether the output changes with the scores' last bias, all else equal."""
    x = image()
    with torch.no_grad():
        before = module(x)
        for name, value in module.named_parameters():
            if name == "scores.3.bias":
                value.sub_(3)
        return float((module(x) - before).abs().max()) > 0.05


def with_bias(module: GateUnit) -> GateUnit:
    """As in training, which moves the bias that nnU-Net starts at zero."""
    nn.init.normal_(module.refine.bias, generator=torch.Generator().manual_seed(2))
    return module


def without_bias(module: GateUnit) -> GateUnit:
    nn.init.zeros_(module.refine.bias)
    return module


def test_what_the_decoder_reads_follows_the_gate_but_not_without_one() -> None:
    assert follows_the_gate(with_bias(unit(GateUnit)))
    assert follows_the_gate(without_bias(unit(GateAfterNorm)))
    assert not follows_the_gate(NoStageAttention(CHANNELS, 0, 2))


def test_the_published_order_undoes_the_factor_where_the_convolution_has_no_bias() -> None:
    x, half = image(), torch.full((2, 1, 1, 1), 0.5)
    published, after_norm = without_bias(unit(GateUnit)), without_bias(unit(GateAfterNorm))
    torch.testing.assert_close(published.gated(x, half), published.gated(x, 3 * half), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(3 * after_norm.gated(x, half), after_norm.gated(x, 3 * half))
    assert not follows_the_gate(published)


def test_a_batch_equals_its_samples_alone() -> None:
    module, x = unit(), image()
    for i in range(2):
        torch.testing.assert_close(module(x)[[i]], module(x[[i]]))


@pytest.mark.parametrize("channels", [2, 3, 6, 7, 20, 32])
def test_groups_have_two_channels_or_more(channels: int) -> None:
    module = unit(channels=channels)
    norms = [part for part in module.modules() if isinstance(part, nn.GroupNorm)]
    assert len(norms) == 2
    assert all(norm.num_channels // norm.num_groups >= 2 for norm in norms)
    assert torch.isfinite(module(image(channels=channels))).all()


@pytest.mark.parametrize(("channels", "size"), [(32, (5, 4)), (320, (3, 5, 4)), (6, (5, 4)), (6, (3, 5, 4))])
def test_parameters_by_the_formula(channels: int, size: tuple[int, ...]) -> None:
    kernel, hidden = 3 ** len(size), max(channels // 8, 2)
    count = sum(p.numel() for p in unit(size=size, channels=channels).parameters())
    assert count == kernel * (channels * hidden + 2 * hidden + channels**2) + 3 * hidden + 3 * channels + 2


@pytest.mark.parametrize("order", ORDERS)
def test_half_precision_features_stay_half_and_the_gate_does_not(order: type[GateUnit]) -> None:
    module, x = unit(order), image()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = module(x.bfloat16())
        assert low.dtype == torch.bfloat16
        assert module.scalar(x.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(low.float(), module(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("order", ORDERS)
def test_it_compiles_whole(order: type[GateUnit]) -> None:
    torch._dynamo.reset()
    module, x = unit(order), image()
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))
    torch._dynamo.reset()
