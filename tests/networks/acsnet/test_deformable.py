from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest
import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import deform_conv2d

from nnunet_mtl.networks.acsnet.deformable import DeformableConvolution, ZeroConvolution, deformable_convolution

SIZES = [(6, 5), (3, 6, 5), (1, 6, 5)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def arguments(size: tuple[int, ...], kernel: tuple[int, ...], inputs: int = 4, outputs: int = 3) -> list[Tensor]:
    """Input, offsets of about a voxel, factors, weights and biases, in double precision."""
    places = torch.Size(kernel).numel()
    return [
        random(2, inputs, *size, seed=0),
        random(2, places * len(size), *size, seed=1),
        random(2, places, *size, seed=2),
        random(outputs, inputs, *kernel, seed=3),
        random(outputs, seed=4),
    ]


def module_of(size: tuple[int, ...]) -> DeformableConvolution:
    torch.manual_seed(0)
    module = DeformableConvolution(4, 3, len(size))
    module.apply(InitWeights_He(1e-2))  # as nnU-Net does
    return module


def offset(module: DeformableConvolution, by: float = 0.4) -> DeformableConvolution:
    with torch.no_grad():
        module.predict.bias.add_(by)
    return module


def starts_as_a_convolution(module: nn.Module, convolution: nn.Module, size: tuple[int, ...]) -> bool:
    x = torch.randn(2, 4, *size)
    return torch.allclose(module(x), convolution(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_it_starts_as_an_ordinary_convolution(size: tuple[int, ...]) -> None:
    module = module_of(size)
    assert starts_as_a_convolution(module, module.convolution, size)
    assert not starts_as_a_convolution(offset(module), module.convolution, size)
    assert not starts_as_a_convolution(nn.Identity(), nn.Conv2d(4, 4, 3, padding=1), (6, 5))


def test_the_start_survives_nnunets_initialisation_which_the_weights_do_not() -> None:
    torch.manual_seed(0)
    module = DeformableConvolution(4, 3, 3)
    before = module.convolution.weight.clone()
    module.apply(InitWeights_He(1e-2))
    assert not torch.equal(module.convolution.weight, before)
    assert not module.predict.weight.any()
    assert not module.predict.bias.any()
    assert not module.convolution.bias.any()


@pytest.mark.parametrize("size", SIZES)
def test_factors_double_or_silence_a_place(size: tuple[int, ...]) -> None:
    module, x = module_of(size), torch.randn(2, 4, *size)
    plain = module(x)
    with torch.no_grad():
        module.predict.bias[-module.places :] = 50  # 2 sigmoid(50) = 2
        torch.testing.assert_close(module(x), 2 * plain, atol=1e-5, rtol=1e-5)
        module.predict.bias[-module.places :] = -50
        torch.testing.assert_close(module(x), torch.zeros_like(plain))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_whole_offsets_read_the_neighbour_along_their_axis_and_zero_outside(axis: int) -> None:
    x, offsets, _, weight, bias = arguments((3, 6, 5), (3, 3, 3))
    along = torch.zeros_like(offsets).reshape(2, 27, 3, 3, 6, 5)
    along[:, :, axis] = 1
    moved = deformable_convolution(x, along.flatten(1, 2), torch.ones(2, 27, 3, 6, 5).double(), weight, bias)
    wide = functional.pad(x, [2, 2] * 3)
    wide = wide.narrow(axis + 2, 1, wide.shape[axis + 2] - 1)
    expected = functional.conv3d(wide, weight, bias)  # at every place one voxel further, in an image padded with zeros
    torch.testing.assert_close(moved, expected[:, :, 1:4, 1:7, 1:6])


def test_between_voxels_it_interpolates_linearly_and_fades_to_zero_outside() -> None:
    x = torch.tensor([1.0, 3.0, 8.0]).reshape(1, 1, 3, 1, 1)
    offsets = torch.zeros(1, 3, 3, 1, 1)
    offsets[:, 0] = 0.25
    result = deformable_convolution(x, offsets, torch.ones(1, 1, 3, 1, 1), torch.ones(1, 1, 1, 1, 1), torch.zeros(1))
    torch.testing.assert_close(result.flatten(), torch.tensor([1.5, 4.25, 6.0]))  # 0.75 a + 0.25 b


def gradients(result: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(result.shape, dtype=result.dtype, generator=torch.Generator().manual_seed(9))
    return list(torch.autograd.grad((result * weights).sum(), inputs))


def as_planes(planes: list[Tensor], depth_offset: float) -> list[Tensor]:
    """The 3D arguments of a 2D convolution: a kernel of depth 1, offsets along depth all the same."""
    x, offsets, factors, weight, bias = planes
    offsets = offsets.reshape(2, 9, 2, *x.shape[2:])
    offsets = torch.cat((torch.full_like(offsets[:, :, :1], depth_offset), offsets), dim=2)
    return [x[:, :, None], offsets.flatten(1, 2)[:, :, None], factors[:, :, None], weight[:, :, None], bias]


def test_on_a_slice_it_is_torchvisions_operator_gradients_included() -> None:
    planes = arguments((6, 5), (3, 3))
    x, offsets, factors, weight, bias = planes
    theirs = deform_conv2d(x, offsets, weight, bias, padding=1, mask=factors)
    ours = deformable_convolution(*as_planes(planes, 0.0))[:, :, 0]
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients(ours, planes), gradients(theirs, planes), strict=True):
        torch.testing.assert_close(mine, other)
    beside = deformable_convolution(*as_planes(planes, 0.5))[:, :, 0]  # half of it is outside
    torch.testing.assert_close(beside - bias[:, None, None], (theirs - bias[:, None, None]) / 2)


def test_a_full_kernel_on_one_slice_uses_its_middle_plane() -> None:
    planes = arguments((6, 5), (3, 3))
    x, offsets, factors, weight, bias = as_planes(planes, 0.0)
    full = functional.pad(weight, [0, 0, 0, 0, 1, 1]) + 7 * (torch.arange(3) != 1)[:, None, None]
    around = [functional.pad(each, [0] * 6 + [n, n]) for each, n in ((offsets, 27), (factors, 9))]
    torch.testing.assert_close(
        deformable_convolution(x, *around, full, bias), deformable_convolution(x, offsets, factors, weight, bias)
    )


def test_2d_is_torchvisions_operator_with_as_much_padding_as_keeps_the_size() -> None:
    x, offsets, factors, weight, bias = arguments((6, 5), (3, 5))
    theirs = deform_conv2d(x, offsets, weight, bias, padding=(1, 2), mask=factors)
    assert torch.equal(deformable_convolution(x, offsets, factors, weight, bias), theirs)


def test_every_axis_is_treated_alike() -> None:
    """The axes in another order give the result in that order."""
    x, offsets, factors, weight, bias = arguments((3, 6, 5), (3, 3, 3))
    turned = [each.permute(0, 1, 4, 2, 3) for each in (x, factors, weight)]
    split = offsets.reshape(2, 3, 3, 3, 3, 3, 6, 5)  # kernel, then axis, then space
    places = split.permute(0, 3, 1, 2, 4, 7, 5, 6)[:, :, :, :, [2, 0, 1]].flatten(1, 4)
    kernel = turned[1].reshape(2, 3, 3, 3, 5, 3, 6).permute(0, 3, 1, 2, 4, 5, 6).flatten(1, 3)
    result = deformable_convolution(turned[0], places, kernel, turned[2], bias)
    expected = deformable_convolution(x, offsets, factors, weight, bias).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(result, expected)


def test_gradients_of_everything_are_those_of_finite_differences() -> None:
    inputs = arguments((2, 3, 2), (3, 1, 3), inputs=2, outputs=2)
    with torch.no_grad():  # away from whole voxels, where the interpolation has a kink
        inputs[1].copy_(inputs[1].floor() + 0.2 + 0.6 * (inputs[1] - inputs[1].floor()))
    assert torch.autograd.gradcheck(deformable_convolution, inputs)


@pytest.mark.parametrize("size", SIZES[:2])
def test_offsets_and_factors_learn_from_the_first_step(size: tuple[int, ...]) -> None:
    module = module_of(size)
    module(torch.randn(2, 4, *size)).square().sum().backward()
    assert module.predict.weight.grad is not None
    per_output = module.predict.weight.grad.flatten(1).abs().amax(1)
    assert float(per_output.min()) > 0


@contextmanager
def kept_for_backward() -> Iterator[list[int]]:
    sizes: dict[int, int] = {}
    total: list[int] = []

    def keep(value: Tensor) -> Tensor:
        sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        yield total
    total.append(sum(sizes.values()))


def test_what_was_sampled_is_not_kept_for_the_backward_pass() -> None:
    x = torch.randn(1, 64, 4, 16, 16, requires_grad=True)
    module = DeformableConvolution(64, 4, 3)
    with kept_for_backward() as kept:
        result = module(x)
    result.sum().backward()
    sampled = 27 * 4 * x.numel()
    assert kept[0] < sampled / 3  # less than 9 of 27 places: the input, offsets, factors and weights


@pytest.mark.parametrize("size", SIZES[:2])
def test_half_precision_is_computed_in_single(size: tuple[int, ...]) -> None:
    module = offset(module_of(size))
    x = torch.randn(2, 4, *size).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = module(x)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, module(x.float()), rtol=0, atol=0)


@pytest.mark.parametrize(("channels", "dimensions"), list(product([(4, 3), (64, 32)], [2, 3])))
def test_parameters_by_the_formula(channels: tuple[int, int], dimensions: int) -> None:
    inputs, outputs = channels
    kernel = 3**dimensions
    count = sum(p.numel() for p in DeformableConvolution(inputs, outputs, dimensions).parameters())
    assert count == kernel * inputs * outputs + outputs + (dimensions + 1) * kernel * (kernel * inputs + 1)


@pytest.mark.parametrize("size", SIZES[:2])
def test_it_compiles_whole_and_so_does_its_backward_pass(size: tuple[int, ...]) -> None:
    torch._dynamo.reset()
    module, x = offset(module_of(size)), torch.randn(2, 4, *size)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    found = []
    for run in (module, compiled):
        module.zero_grad()
        run(x).square().sum().backward()
        found.append([value.grad.clone() for value in module.parameters() if value.grad is not None])
    assert len(found[0]) == 4
    torch.testing.assert_close(compiled(x), module(x))
    torch.testing.assert_close(found[1], found[0])
    torch._dynamo.reset()


def test_a_convolution_that_stays_at_zero_is_one_all_the_same() -> None:
    for size in SIZES[:2]:
        module, x = ZeroConvolution(4, 2, len(size)), torch.randn(1, 4, *size)
        assert not module(x).any()
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
        convolve = functional.conv2d if len(size) == 2 else functional.conv3d
        assert torch.equal(module(x), convolve(x, module.weight, module.bias, padding=1))
