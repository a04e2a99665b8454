import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual import BottleneckD
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.normalised_feature import GlobalMean
from nnunet_mtl.networks.off_parts import NoEncoderConditioning
from nnunet_mtl.networks.pre_norm import run_encoder
from nnunet_mtl.networks.tgnet import residual_gates
from nnunet_mtl.networks.tgnet.descriptor_gate import DescriptorGate
from nnunet_mtl.networks.tgnet.residual_gates import TaskGuidedResidual

TASKS = 3
CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
DROPOUT = {"dropout_op": nn.Dropout2d, "dropout_op_kwargs": {"p": 0.5, "inplace": True}}
PLAIN = {"n_conv_per_stage": [2, 1, 3]}
RESIDUAL = {"n_blocks_per_stage": [1, 3, 2]}
ENCODERS: dict[str, tuple[type, dict[str, Any]]] = {
    "plain": (PlainConvEncoder, PLAIN),
    "plain, pooled": (PlainConvEncoder, PLAIN | {"pool": "max"}),
    "plain, activated first": (PlainConvEncoder, PLAIN | {"nonlin_first": True}),
    "plain, no norm": (PlainConvEncoder, PLAIN | {"norm_op": None}),
    "plain, no activation": (PlainConvEncoder, PLAIN | {"nonlin": None}),
    "plain, bare": (PlainConvEncoder, PLAIN | {"nonlin": None, "norm_op": None}),
    "plain, dropout": (PlainConvEncoder, PLAIN | DROPOUT),
    "residual": (ResidualEncoder, RESIDUAL),
    "residual, pooled": (ResidualEncoder, RESIDUAL | {"pool_type": "avg"}),
    "residual, no norm": (ResidualEncoder, RESIDUAL | {"norm_op": None}),
    "residual, no stem": (ResidualEncoder, RESIDUAL | {"disable_default_stem": True}),
    "residual, dropout": (ResidualEncoder, RESIDUAL | DROPOUT),
    "residual, squeezed": (ResidualEncoder, RESIDUAL | {"stochastic_depth_p": 0.5, "squeeze_excitation": True}),
    "residual, bottleneck": (ResidualEncoder, RESIDUAL | {"block": BottleneckD, "bottleneck_channels": 3}),
}
MAIN = ["plain", "residual"]


def encoder(
    kind: str, dimensions: int = 2, features: Sequence[int] = (4, 6, 6), strides: Sequence[Any] = (1, 2, 2), **own: Any
) -> Any:
    torch.manual_seed(0)
    encoder_class, parts = ENCODERS[kind]
    kwargs = {
        "norm_op": NORMS[dimensions],
        "norm_op_kwargs": {"affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }
    return encoder_class(
        2, len(features), features, CONVOLUTIONS[dimensions], 3, strides, conv_bias=True, return_skips=True,
        **(kwargs | parts | own),
    )  # fmt: skip


def guides(of: Any, tasks: int = TASKS) -> list[TaskGuidedResidual]:
    torch.manual_seed(1)
    return [TaskGuidedResidual(stage, tasks) for stage in of.stages]


def run(of: Any, conditioning: Sequence[Any], x: Tensor, *task: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    x = x if getattr(of, "stem", None) is None else of.stem(x)
    skips, before_norm = [], []
    for stage, part in zip(of.stages, conditioning, strict=True):
        x, feature = part.run(stage, x, *task)
        skips.append(x)
        before_norm.append(feature)
    return skips, before_norm


def images(batch: int, size: Sequence[int] = (16, 16)) -> Tensor:
    return torch.randn(batch, 2, *[1] * len(size)) + torch.rand(batch, 2, *[1] * len(size)) * torch.randn(
        batch, 2, *size
    )


def count(modules: Sequence[nn.Module]) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters())


def recorded_factors(of: Any, conditioning: Sequence[TaskGuidedResidual], x: Tensor, task: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    handles = [part.gate.register_forward_hook(lambda *call: seen.append(call[2].flatten(1))) for part in conditioning]
    with torch.no_grad():
        run(of, conditioning, x, task)
    for handle in handles:
        handle.remove()
    return seen


def discs(batch: int, edge: int = 16) -> Tensor:
    """Discs of several sizes and intensities: behind an instance norm, noise has the same mean in every image."""
    axis = torch.linspace(-1, 1, edge)
    distance = (axis[:, None].square() + axis.square()).sqrt()
    inside = (distance < 0.2 + 0.6 * torch.rand(batch, 1, 1, 1)).float()
    return inside * (0.5 + 2 * torch.rand(batch, 2, 1, 1)) + 0.2 * torch.randn(batch, 2, edge, edge)


def over_images(of: Any, conditioning: Sequence[TaskGuidedResidual]) -> list[float]:
    """Spread of every stage's factors over images at one task."""
    every = recorded_factors(of, conditioning, discs(16), torch.ones(16, dtype=torch.long))
    return [float(factors.std(0).mean()) for factors in every]


def stage_0_difference(kind: str) -> float:
    """Between two tasks, of the features of full resolution."""
    of = encoder(kind).eval()
    with torch.no_grad():
        skips, _ = run(of, guides(of), images(1).expand(2, -1, -1, -1), torch.tensor([0, 2]))
    return float((skips[0][0] - skips[0][1]).abs().max())


def code_gradients(kind: str) -> tuple[float, float]:
    """Absolute gradient of the weights that read the code: of the tasks in the batch, and of the one that is not."""
    of = encoder(kind)
    parts = guides(of)
    sum(skip.square().mean() for skip in run(of, parts, images(2), torch.tensor([2, 0]))[0]).backward()
    gradients = [part.gate.output.weight.grad for part in parts]
    codes = torch.cat([torch.zeros(1, TASKS), *(each[:, -TASKS:] for each in gradients if each is not None)]).abs()
    return float(codes[:, [0, 2]].sum()), float(codes[:, 1].sum())


def independent(stage: Any, part: TaskGuidedResidual, x: Tensor, task: Tensor) -> Tensor:
    """The equation, with torch's own functions; for stages of stock order, without dropout."""
    residual = not isinstance(stage, nn.Sequential)
    *first, last = stage.blocks if residual else stage[-1].convs
    convolutions = [last.conv1, last.conv2] if residual else [*first, last][-2:]
    for module in first if residual else first[:-1]:
        x = module(x)
    shortcut = last.skip(x) if residual else part.projection(x)
    conv = convolutions[0].conv
    u = functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
    code = functional.one_hot(task, TASKS).to(u.dtype)
    factors = torch.sigmoid(functional.linear(torch.cat((u.mean((2, 3)), code), 1), part.gate.output.weight))
    branch = convolutions[0].norm(u)
    for each in convolutions[1:]:
        branch = each.norm(each.conv(functional.leaky_relu(branch)))
    return functional.leaky_relu(branch + shortcut * factors[:, :, None, None])


@pytest.mark.parametrize("kind", MAIN)
def test_every_stage_follows_the_equation(kind: str) -> None:
    of = encoder(kind)
    x, task = images(3), torch.tensor([2, 0, 1])
    x = of.stem(x) if kind == "residual" else x
    for stage, part in zip(of.stages, guides(of), strict=True):
        expected = independent(stage, part, x, task)
        x, _ = part.run(stage, x, task)
        torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("kind", ENCODERS)
def test_stages_keep_their_sizes_and_every_weight_learns(kind: str) -> None:
    of = encoder(kind)
    torch.manual_seed(2)
    image = images(2)
    parts = guides(of)
    expected = [(skip.shape, feature.shape) for skip, feature in zip(*run_encoder(of, image.clone()), strict=True)]
    skips, before_norm = run(of, parts, image.clone(), torch.tensor([1, 2]))
    assert [(skip.shape, feature.shape) for skip, feature in zip(skips, before_norm, strict=True)] == expected
    sum(tensor.square().mean() for tensor in (*skips, *before_norm)).backward()
    assert all(weight.grad is not None for module in (of, *parts) for weight in module.parameters())


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind.startswith("residual")])
def test_with_open_gates_a_residual_stage_is_the_stock_stage(kind: str) -> None:
    of = encoder(kind)
    parts = guides(of)
    for part in parts:
        nn.init.constant_(part.gate.output.bias, 1000)
    image = images(2)
    torch.manual_seed(2)
    expected = run_encoder(of, image.clone())
    torch.manual_seed(2)
    skips, before_norm = run(of, parts, image.clone(), torch.tensor([1, 2]))
    for one, other in zip((*skips, *before_norm), (*expected[0], *expected[1]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind.startswith("plain")])
def test_with_closed_gates_a_plain_stage_is_the_stock_stage(kind: str) -> None:
    of = encoder(kind)
    parts = guides(of)
    for part in parts:
        nn.init.constant_(part.gate.output.bias, -1000)
    image = images(2)
    torch.manual_seed(2)
    expected = run_encoder(of, image.clone())
    torch.manual_seed(2)
    skips, before_norm = run(of, parts, image.clone(), torch.tensor([1, 2]))
    for one, other in zip((*skips, *before_norm), (*expected[0], *expected[1]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ENCODERS)
def test_zero_weights_halve_the_shortcut_for_every_task(kind: str) -> None:
    """Read off the sum: with gates open the shortcut counts once, with gates closed not at all."""
    of = encoder(kind, nonlin=None).eval()
    x, task = images(3), torch.tensor([0, 1, 2])
    x = of.stem(x) if getattr(of, "stem", None) is not None else x
    for stage, part in zip(of.stages, guides(of), strict=True):
        nn.init.zeros_(part.gate.output.weight)
        outputs = []
        for bias in (-1000, 0, 1000):
            nn.init.constant_(part.gate.output.bias, bias)
            outputs.append(part.run(stage, x, task)[0])
        closed, half, opened = outputs
        assert float((opened - closed).detach().abs().max()) > 0.1
        torch.testing.assert_close(half, (closed + opened) / 2)
        x = half.detach()


@pytest.mark.parametrize(("kind", "projections"), [("residual", 0), ("plain", None)])
def test_the_five_stages_of_the_published_network_add_158464_parameters(kind: str, projections: int | None) -> None:
    features = (32, 64, 128, 256, 256)
    blocks = {"n_blocks_per_stage": 1} if kind == "residual" else {"n_conv_per_stage": 2}
    with torch.device("meta"):
        of = encoder(kind, 3, features, (1, 2, 2, 2, 2), **blocks)
        parts = [TaskGuidedResidual(stage, 7) for stage in of.stages]
    assert count([part.gate for part in parts]) == 158_464
    expected = sum(i * o + 2 * o for i, o in zip((2, *features), features, strict=False)) if projections is None else 0
    assert count([part.projection for part in parts]) == expected


def test_a_bottleneck_block_pools_its_narrow_convolution() -> None:
    of = encoder("residual, bottleneck")
    assert [count([part]) for part in guides(of)] == [(3 + TASKS) * channels + channels for channels in (4, 6, 6)]


@pytest.mark.parametrize(
    ("kind", "identities"), [("plain", [False, False, True]), ("plain, pooled", [False, False, True])]
)
def test_plain_stages_project_only_where_the_shape_changes(kind: str, identities: list[bool]) -> None:
    parts = guides(encoder(kind))
    assert [isinstance(part.projection, nn.Identity) for part in parts] == identities
    assert [isinstance(p.projection, nn.Identity) for p in guides(encoder("plain", features=(2, 2, 2)))] == [
        True,
        False,
        True,
    ]


def test_a_projection_is_normalised_like_the_stage_with_weights_of_its_own() -> None:
    of = encoder("plain")
    stage, part = of.stages[0], guides(of)[0]
    convolution, norm = part.projection
    assert convolution.bias is None
    own = stage[-1].convs[-1].norm
    assert repr(norm) == repr(own)
    assert norm.weight is not own.weight
    assert not {id(weight) for weight in part.parameters()} & {id(weight) for weight in of.parameters()}


@pytest.mark.parametrize("kind", ENCODERS)
def test_features_of_full_resolution_differ_between_tasks(kind: str) -> None:
    assert stage_0_difference(kind) > 1e-3


@pytest.mark.parametrize("kind", MAIN)
def test_factors_vary_with_the_image_and_with_the_task(kind: str) -> None:
    of = encoder(kind)
    assert min(over_images(of, guides(of))) > 5e-4
    by_task = recorded_factors(of, guides(of), discs(1).expand(TASKS, -1, -1, -1), torch.arange(TASKS))
    assert min(float(factors.std(0).mean()) for factors in by_task) > 0.01


@pytest.mark.parametrize("kind", MAIN)
def test_factors_pooled_behind_an_instance_norm_do_not_vary_with_the_image(kind: str) -> None:
    of = encoder(kind)
    parts = guides(of)
    for part, channels in zip(parts, of.output_channels, strict=True):
        part.gate.descriptor = nn.Sequential(nn.InstanceNorm2d(channels), GlobalMean())
    assert max(over_images(of, parts)) < 1e-6


@pytest.mark.parametrize("kind", MAIN)
def test_weights_of_absent_tasks_get_no_gradient(kind: str) -> None:
    present, absent = code_gradients(kind)
    assert present > 0
    assert absent == 0


@pytest.mark.parametrize("kind", MAIN)
def test_with_gates_of_one_the_decisive_tests_fail(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DescriptorGate, "forward", lambda self, feature, task: feature.new_ones(()))
    assert stage_0_difference(kind) == 0
    assert code_gradients(kind) == (0, 0)
    for test in (test_every_stage_follows_the_equation, test_zero_weights_halve_the_shortcut_for_every_task):
        with pytest.raises(AssertionError):
            test(kind)


SIZES: list[tuple[int, Any, tuple[int, ...]]] = [
    (2, (1, 2, 2), (16, 16)),
    (2, ((1, 1), (2, 1), (2, 2)), (13, 7)),
    (3, ((1, 1, 1), (1, 2, 2), (2, 2, 1)), (5, 12, 9)),
]


@pytest.mark.parametrize(("dimensions", "strides", "size"), SIZES)
@pytest.mark.parametrize("kind", MAIN)
def test_a_mixed_batch_is_its_samples_one_by_one(
    kind: str, dimensions: int, strides: Any, size: tuple[int, ...]
) -> None:
    of = encoder(kind, dimensions, strides=strides)
    parts, image, task = guides(of), images(3, size), torch.tensor([2, 0, 2])
    if kind == "residual":  # pools its shortcut, which loses the last row of an odd size
        image = functional.interpolate(image, [8 * -(-edge // 8) for edge in size])
    mixed, _ = run(of, parts, image, task)
    for sample in range(3):
        alone, _ = run(of, parts, image[sample : sample + 1], task[sample : sample + 1])
        for one, other in zip(mixed, alone, strict=True):
            torch.testing.assert_close(one[sample : sample + 1], other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", MAIN)
def test_a_stage_runs_under_autocast_with_factors_in_single_precision(kind: str, dtype: torch.dtype) -> None:
    of = encoder(kind)
    parts, image, task = guides(of), images(2), torch.tensor([0, 1])
    single, _ = run(of, parts, image, task)
    with torch.autocast("cpu", dtype=dtype):
        factors = recorded_factors(of, parts, image, task)
        skips, _ = run(of, parts, image, task)
    assert {each.dtype for each in factors} == {torch.float32}
    sum(skip.float().square().mean() for skip in skips).backward()
    assert all(bool(weight.grad.isfinite().all()) for part in parts for weight in part.parameters())
    torch.testing.assert_close(skips[0].float(), single[0], atol=0.1, rtol=0.1)


def test_the_shortcut_keeps_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(
        residual_gates, "run_residual_block", lambda block, x, guide: (seen.append(guide(x, x)), (x, x))[1]
    )
    of = encoder("residual")
    guides(of)[0].run(of.stages[0], torch.randn(2, 4, 8, 8, dtype=torch.bfloat16), torch.tensor([0, 1]))
    assert seen[0].dtype == torch.bfloat16


def test_the_stage_is_not_kept_in_the_guide() -> None:
    of = encoder("residual")
    part = guides(of)[0]
    assert set(part.state_dict()) == {"gate.output.weight", "gate.output.bias"}
    part.run(copy.deepcopy(of.stages[0]), torch.randn(1, 4, 8, 8), torch.tensor([0]))


@pytest.mark.parametrize("kind", MAIN)
def test_no_conditioning_runs_the_stage_as_it_is(kind: str) -> None:
    of = encoder(kind)
    parts = [NoEncoderConditioning(stage, TASKS) for stage in of.stages]
    image = images(2)
    for one, other in zip(run(of, parts, image), run_encoder(of, image), strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert not NoEncoderConditioning.conditioned
    assert not any(part.state_dict() for part in parts)
