import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.acsnet.deformable import DeformableConvolution
from nnunet_mtl.networks.acsnet.deformable_attention import (
    DeformableAttention,
    PlainAttention,
    SpatialAttention,
    plain_convolution,
)
from nnunet_mtl.networks.off_parts import NoStageAttention

SIZES = [(6, 5), (3, 5, 4)]
KINDS = [DeformableAttention, PlainAttention]
CHANNELS = 8  # 2 groups of 4


def attention(kind: type[NoStageAttention] = DeformableAttention, size: tuple[int, ...] = (6, 5)) -> NoStageAttention:
    torch.manual_seed(0)
    return kind(CHANNELS, 0, len(size), deformable_stages=2)


def image(size: tuple[int, ...] = (6, 5)) -> Tensor:
    return torch.randn(2, CHANNELS, *size, generator=torch.Generator().manual_seed(1))


def convolved(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, DeformableConvolution):
        module = module.convolution
    convolve = functional.conv2d if x.ndim == 4 else functional.conv3d
    return convolve(x, module.weight, module.bias, padding=1)


def written_out(module: SpatialAttention, x: Tensor) -> Tensor:
    norms = [(2, norm.weight, norm.bias) for norm in (module.first_norm, module.second_norm)]
    c = functional.relu(functional.group_norm(convolved(module.first, x), *norms[0]))
    maps = convolved(module.of_mean, c.mean(1, keepdim=True)), convolved(module.of_maximum, c.max(1, keepdim=True)[0])
    both = torch.cat([c / (1 + (-each).exp()) for each in maps], dim=1)
    return functional.relu(functional.group_norm(convolved(module.second, both), *norms[1]))


def attends(module: NoStageAttention, x: Tensor) -> bool:
    """Whether the output is that of two convolutions with spatial attention between them."""
    torch.manual_seed(0)
    inner = getattr(module, "attend", SpatialAttention(CHANNELS, x.ndim - 2, plain_convolution))
    return torch.allclose(module(x), written_out(inner, x), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_it_starts_as_two_convolutions_with_spatial_attention_between_them(
    kind: type[NoStageAttention], size: tuple[int, ...]
) -> None:
    assert attends(attention(kind, size), image(size))
    assert not attends(NoStageAttention(CHANNELS, 0, len(size)), image(size))


@pytest.mark.parametrize("size", SIZES)
def test_offsets_move_what_the_deformable_one_reads(size: tuple[int, ...]) -> None:
    module, x = attention(size=size), image(size)
    assert isinstance(module, DeformableAttention)
    module(x).square().sum().backward()
    for convolution in (module.attend.first, module.attend.second):
        gradient = convolution.predict.weight.grad[: -convolution.places]
        assert float(gradient.abs().max()) > 0
        with torch.no_grad():
            convolution.predict.bias[: -convolution.places] += 0.5
        assert not attends(module, x)
    assert not any("predict" in name for name, _ in attention(PlainAttention).named_parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("stages", "decoder"), [(1, 3), (2, 3), (2, 1), (9, 4)])
def test_the_deepest_stages_have_it_and_the_others_pass_as_they_are(
    kind: type[NoStageAttention], stages: int, decoder: int
) -> None:
    levels = [kind(CHANNELS, level, 2, deformable_stages=stages) for level in range(decoder)]
    assert [bool(list(level.parameters())) for level in levels] == [level < stages for level in range(decoder)]
    x = image()
    assert [level(x) is x for level in levels] == [level >= stages for level in range(decoder)]


@pytest.mark.parametrize("channels", [2, 3, 7, 32])
def test_groups_have_two_channels_or_more(channels: int) -> None:
    module = SpatialAttention(channels, 2, plain_convolution)
    norms = [part for part in module.modules() if isinstance(part, nn.GroupNorm)]
    assert len(norms) == 2
    assert all(norm.num_channels // norm.num_groups >= 2 for norm in norms)


@pytest.mark.parametrize("channels", [8, 320])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_parameters_by_the_formula(channels: int, dimensions: int) -> None:
    kernel = 3**dimensions
    plain, deformable = (kind(channels, 0, dimensions) for kind in (PlainAttention, DeformableAttention))
    count = sum(p.numel() for p in plain.parameters())
    assert count == kernel * (3 * channels**2 + 2) + 6 * channels + 2
    more = (dimensions + 1) * kernel * (3 * kernel * channels + 2)
    assert sum(p.numel() for p in deformable.parameters()) == count + more


def test_half_precision_features_stay_half() -> None:
    module, x = attention(), image()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = module(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), module(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("size", SIZES)
def test_it_compiles_whole(size: tuple[int, ...]) -> None:
    torch._dynamo.reset()
    module, x = attention(size=size), image(size)
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))
    torch._dynamo.reset()
