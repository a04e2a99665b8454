from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mtl.networks.tgnet.descriptor_gate import DescriptorGate
from nnunet_mtl.networks.tgnet.skip_gates import ChannelGate, ParallelGates, SerialGates, SpatialGate

SKIP, COARSER, TASKS = 8, 12, 3
ALL = [ChannelGate, SpatialGate, SerialGates, ParallelGates]
SIZES = [(6, 10), (3, 8, 6)]


def built(kind: type, gates: str = "faithful") -> Any:
    torch.manual_seed(0)
    return kind(SKIP, COARSER, TASKS, gates)


def tensors(batch: int = 3, size: tuple[int, ...] = (3, 8, 6)) -> tuple[Tensor, Tensor, Tensor]:
    """Skip, coarser feature and upsampled feature, the last with other channel means in every image."""
    coarser = torch.full((batch, COARSER, *[1] * len(size)), torch.nan)  # not to be read
    upsampled = torch.randn(batch, SKIP, *[1] * len(size)) + torch.randn(batch, SKIP, *size)
    return torch.randn(batch, SKIP, *size), coarser, upsampled


def factors(module: nn.Module, upsampled: Tensor, task: Tensor) -> Tensor:
    with torch.no_grad():
        return module(torch.ones_like(upsampled), upsampled, upsampled, task)


def over_images(kind: type) -> float:
    return float(factors(built(kind), tensors(16)[2], torch.ones(16, dtype=torch.long)).std(0).mean())


def over_tasks(kind: type) -> float:
    upsampled = tensors(1)[2].expand(TASKS, -1, -1, -1, -1)
    return float(factors(built(kind), upsampled, torch.arange(TASKS)).std(0).mean())


def of_absent_task(kind: type) -> tuple[float, float]:
    """Absolute gradient of the weights that read the code: of a task in the batch, and of one that is not."""
    module = built(kind)
    module(*tensors(2), torch.tensor([2, 0])).square().sum().backward()
    gradients = [part.output.weight.grad for part in module.modules() if isinstance(part, DescriptorGate)]
    present, absent = (float(sum(g[:, SKIP + task].abs().sum() for g in gradients if g is not None)) for task in (2, 1))
    return present, absent


@pytest.mark.parametrize(
    ("kind", "added"),
    [
        (ChannelGate, lambda c, k: (c + k) * c + 3 * c),
        (SpatialGate, lambda c, k: c + k + 1 + 2 * c),
        (SerialGates, lambda c, k: (c + k) * c + 3 * c + c + k + 1 + 2 * c),
        (ParallelGates, lambda c, k: (c + k) * c + 3 * c + c + k + 1 + 2 * c),
    ],
)
@pytest.mark.parametrize("gates", ["identity", "faithful"])
def test_the_number_of_parameters(kind: type, gates: str, added: Callable[[int, int], int]) -> None:
    for skip, tasks in ((SKIP, TASKS), (5, 1), (32, 7)):
        module = kind(skip, COARSER, tasks, gates)
        assert sum(weight.numel() for weight in module.parameters()) == added(skip, tasks)


def test_the_four_skips_of_the_published_network_add_91840_parameters() -> None:
    skips = [ChannelGate(channels, 2 * channels, 7, "faithful") for channels in (32, 64, 128, 256)]
    assert sum(weight.numel() for skip in skips for weight in skip.parameters()) == 91_840


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ALL)
def test_identity_leaves_the_skip_bit_for_bit(kind: type, size: tuple[int, ...]) -> None:
    skip, coarser, upsampled = tensors(size=size)
    assert torch.equal(built(kind, "identity")(skip, coarser, upsampled, torch.tensor([0, 2, 1])), skip)


@pytest.mark.parametrize(
    ("kind", "factor"), [(ChannelGate, 0.5), (SpatialGate, 0.5), (SerialGates, 0.25), (ParallelGates, 0.5)]
)
def test_zero_weights_halve_the_skip_for_every_task(kind: type, factor: float) -> None:
    module = built(kind)
    for part in module.modules():
        if isinstance(part, DescriptorGate):
            nn.init.zeros_(part.output.weight)
    skip, coarser, upsampled = tensors()
    assert torch.equal(module(skip, coarser, upsampled, torch.tensor([0, 2, 1])), skip * factor)


@pytest.mark.parametrize("size", SIZES)
def test_a_channel_is_scaled_by_one_factor_everywhere_in_any_order_of_the_decoders_voxels(
    size: tuple[int, ...],
) -> None:
    module, task = built(ChannelGate), torch.tensor([0, 2, 1])
    skip, coarser, upsampled = tensors(size=size)
    gated = module(skip, coarser, upsampled, task)
    ratio = (gated / skip).detach().flatten(2)
    torch.testing.assert_close(ratio, ratio[:, :, :1].expand_as(ratio))
    assert float(ratio[:, :, 0].std(1).min()) > 0.01  # of its own
    shuffled = upsampled.flatten(2)[:, :, torch.randperm(ratio.shape[2])].reshape(upsampled.shape)
    torch.testing.assert_close(module(skip, coarser, shuffled, task), gated)


@pytest.mark.parametrize("size", SIZES)
def test_a_voxel_is_scaled_by_one_factor_in_all_channels_that_reads_this_voxel_only(size: tuple[int, ...]) -> None:
    module, task = built(SpatialGate), torch.tensor([0, 2, 1])
    skip, coarser, upsampled = tensors(size=size)
    ratio = (module(skip, coarser, upsampled, task) / skip).detach().flatten(2)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert float(ratio[:, 0].std(1).min()) > 0.01
    order = torch.randperm(ratio.shape[2])
    shuffled = upsampled.flatten(2)[:, :, order].reshape(upsampled.shape)
    of_shuffled = (module(skip, coarser, shuffled, task) / skip).detach().flatten(2)
    torch.testing.assert_close(of_shuffled, ratio[:, :, order])


@torch.no_grad()
def test_serial_is_spatial_after_channel_and_parallel_their_mean() -> None:
    skip, coarser, upsampled = tensors()
    task = torch.tensor([0, 2, 1])
    for kind in (SerialGates, ParallelGates):
        module = built(kind)
        channel, spatial = built(ChannelGate), built(SpatialGate)
        channel.load_state_dict(module.channel.state_dict())
        spatial.load_state_dict(module.spatial.state_dict())
        one, other = (each(skip, coarser, upsampled, task) for each in (channel, spatial))
        expected = spatial(one, coarser, upsampled, task) if kind is SerialGates else (one + other) / 2
        assert torch.equal(module(skip, coarser, upsampled, task), expected)
        assert float((one - other).abs().max()) > 0.01


@pytest.mark.parametrize("kind", ALL)
def test_factors_vary_with_the_image_and_with_the_task(kind: type) -> None:
    assert over_images(kind) > 0.01
    assert over_tasks(kind) > 0.01


@pytest.mark.parametrize("kind", ALL)
def test_weights_of_absent_tasks_get_no_gradient(kind: type) -> None:
    present, absent = of_absent_task(kind)
    assert present > 0
    assert absent == 0


@pytest.mark.parametrize("kind", ALL)
def test_with_gates_of_one_the_decisive_tests_fail(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DescriptorGate, "forward", lambda self, feature, task: feature.new_ones(()).requires_grad_())
    assert over_images(kind) == over_tasks(kind) == 0
    assert of_absent_task(kind) == (0, 0)
    with pytest.raises(AssertionError):
        test_zero_weights_halve_the_skip_for_every_task(kind, 0.25 if kind is SerialGates else 0.5)


@pytest.mark.parametrize("kind", ALL)
def test_a_mixed_batch_is_its_samples_one_by_one(kind: type) -> None:
    module, inputs, task = built(kind), tensors(), torch.tensor([2, 0, 2])
    alone = [module(*(each[i : i + 1] for each in inputs), task[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(module(*inputs, task), torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ALL)
def test_the_skip_keeps_its_precision_under_autocast(kind: type, dtype: torch.dtype) -> None:
    module, task = built(kind), torch.tensor([2, 0, 2])
    skip, coarser, upsampled = (each.to(dtype) for each in tensors())
    with torch.autocast("cpu", dtype=dtype):
        gated = module(skip, coarser, 300 * upsampled, task)
    assert gated.dtype == dtype
    gated.float().sum().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in module.parameters())
    single = module(skip.float(), coarser, 300 * upsampled.float(), task)
    torch.testing.assert_close(gated.float(), single, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("kind", [ChannelGate, SpatialGate])
def test_of_full_size_the_backward_pass_needs_the_skip_and_the_upsampled_feature_only(
    kind: type, saved_bytes: Callable[[Callable[[], object]], int]
) -> None:
    skip, coarser, upsampled = (each.requires_grad_() for each in tensors(2, (16, 16, 16)))
    saved = saved_bytes(lambda: built(kind)(skip, coarser, upsampled, torch.tensor([0, 1])))
    feature = skip.numel() * skip.element_size()
    assert saved < (2 + 2 / SKIP) * feature
