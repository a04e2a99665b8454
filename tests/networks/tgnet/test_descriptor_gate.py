import pytest
import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.normalised_feature import GlobalMean, NormalisedFeature, num_groups
from nnunet_mtl.networks.tgnet.descriptor_gate import DescriptorGate

CHANNELS, TASKS, FACTORS = 12, 3, 5
SIZES = [(6, 5), (2, 5, 4)]


def descriptor(kind: str) -> nn.Module:
    return {
        "normalised mean": nn.Sequential(NormalisedFeature(CHANNELS), GlobalMean()),
        "mean": GlobalMean(),
        "normalised": NormalisedFeature(CHANNELS),
        "mean behind an instance norm": nn.Sequential(nn.InstanceNorm3d(CHANNELS, affine=True), GlobalMean()),
    }[kind]


def gate(kind: str, gates: str = "faithful") -> DescriptorGate:
    torch.manual_seed(0)
    return DescriptorGate(descriptor(kind), CHANNELS, TASKS, FACTORS, gates)


def images(batch: int, size: tuple[int, ...] = (3, 6, 5)) -> Tensor:
    """Features whose channels differ in mean between the images."""
    ones = [1] * len(size)
    return torch.randn(batch, CHANNELS, *ones) + torch.randn(batch, CHANNELS, *size)


def over_images(module: DescriptorGate) -> float:
    with torch.no_grad():
        return float(module(images(16), torch.ones(16, dtype=torch.long)).std(0).mean())


def over_tasks(module: DescriptorGate) -> float:
    with torch.no_grad():
        return float(module(images(1).expand(TASKS, -1, -1, -1, -1), torch.arange(TASKS)).std(0).mean())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["normalised mean", "mean", "normalised"])
def test_the_gate_is_one_convolution_of_descriptor_and_code(kind: str, size: tuple[int, ...]) -> None:
    module, feature, task = gate(kind), images(3, size), torch.tensor([2, 0, 2])
    described = feature
    if "normalised" in kind:
        nn.init.normal_(
            module.get_parameter("descriptor.0.norm.weight" if "mean" in kind else "descriptor.norm.weight")
        )
        norm = next(part for part in module.modules() if isinstance(part, nn.GroupNorm))
        described = functional.group_norm(feature, 6, norm.weight, norm.bias).clamp_min(0)
    if "mean" in kind:
        described = described.mean(tuple(range(2, feature.ndim)), keepdim=True)
    code = functional.one_hot(task, TASKS).float().reshape(3, TASKS, *[1] * len(size))
    weight = module.output.weight.reshape(FACTORS, -1, *[1] * len(size))
    convolve = {2: functional.conv2d, 3: functional.conv3d}[len(size)]
    tiled = code.expand(-1, -1, *described.shape[2:])
    nn.init.normal_(module.output.bias)
    expected = torch.sigmoid(convolve(torch.cat((described, tiled), dim=1), weight, module.output.bias))
    assert module(feature, task).shape == (3, FACTORS, *described.shape[2:])
    torch.testing.assert_close(module(feature, task), expected)


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 3), (7, 1), (12, 6), (30, 15), (32, 16), (320, 16)]
)
def test_a_group_has_two_channels_or_more(channels: int, groups: int) -> None:
    assert num_groups(channels) == groups


def test_faithful_weights_start_as_a_convolutions_and_nnunet_does_not_touch_them() -> None:
    module = gate("normalised mean")
    before = module.output.weight.clone()
    module.apply(InitWeights_He(1e-2))
    assert torch.equal(module.output.weight, before)
    assert not module.output.bias.any()
    bound = (CHANNELS + TASKS) ** -0.5  # uniform, as PyTorch starts a convolution of so many inputs
    assert 0.95 * bound < float(before.detach().abs().max()) <= bound
    with torch.no_grad():
        factors = module(images(8), torch.zeros(8, dtype=torch.long))
    assert 0.2 < float(factors.min()) < float(factors.max()) < 0.8


def test_identity_starts_at_one_and_can_learn() -> None:
    module = gate("normalised mean", "identity")
    factors = module(images(2), torch.tensor([0, 2]))
    assert torch.equal(factors, torch.ones(2, FACTORS, 1, 1, 1))
    factors.sum().backward()
    assert bool(module.output.weight.grad[:, [0, CHANNELS, CHANNELS + 2]].all())


def test_identity_factors_reach_from_zero_to_two() -> None:
    module = gate("mean", "identity")
    nn.init.constant_(module.output.weight, 1)
    extremes = torch.tensor([-100.0, 100.0]).reshape(2, 1, 1, 1).expand(-1, CHANNELS, 2, 2)
    assert module(extremes, torch.tensor([0, 0])).flatten(1).tolist() == [[0.0] * FACTORS, [2.0] * FACTORS]


@pytest.mark.parametrize("kind", ["normalised mean", "mean", "normalised"])
def test_weights_of_absent_tasks_get_no_gradient(kind: str) -> None:
    module = gate(kind)
    module(images(2), torch.tensor([2, 0])).square().sum().backward()
    of_code = module.output.weight.grad[:, CHANNELS:]
    assert not of_code[:, 1].any()
    assert of_code[:, 0].all()
    assert of_code[:, 2].all()


@pytest.mark.parametrize("kind", ["normalised mean", "mean"])
def test_factors_vary_with_the_image_and_with_the_task(kind: str) -> None:
    assert over_images(gate(kind)) > 0.01
    assert over_tasks(gate(kind)) > 0.01


def test_factors_pooled_behind_an_instance_norm_vary_with_the_task_only() -> None:
    module = gate("mean behind an instance norm")
    assert over_images(module) < 1e-6
    assert over_tasks(module) > 0.01


@pytest.mark.parametrize("kind", ["normalised mean", "mean"])
def test_the_order_of_the_voxels_does_not_matter(kind: str) -> None:
    module, feature, task = gate(kind), images(2), torch.tensor([0, 2])
    shuffled = feature.flatten(2)[:, :, torch.randperm(90)].reshape(feature.shape)
    torch.testing.assert_close(module(shuffled, task), module(feature, task), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["normalised mean", "mean", "normalised"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_read_in_single_precision(kind: str, dtype: torch.dtype) -> None:
    module, feature, task = gate(kind), (300 * images(2, (40, 40))).to(dtype), torch.tensor([0, 1])
    expected = module(feature.float(), task)
    with torch.autocast("cpu", dtype=dtype):
        factors = module(feature, task)
    assert factors.dtype == torch.float32
    torch.testing.assert_close(factors, expected, atol=1e-5, rtol=0)


def test_a_feature_in_double_precision_stays_so() -> None:
    assert gate("normalised mean").double()(images(2).double(), torch.tensor([0, 1])).dtype == torch.float64


def test_a_checkpoint_holds_the_weights_only() -> None:
    module = gate("normalised mean")
    assert set(module.state_dict()) == {name for name, _ in module.named_parameters()}
    assert (
        sum(weight.numel() for weight in module.parameters()) == (CHANNELS + TASKS) * FACTORS + FACTORS + 2 * CHANNELS
    )
