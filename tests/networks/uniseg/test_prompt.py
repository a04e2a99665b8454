from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from nnunet_mtl.networks.off_parts import NoBottleneckConditioning
from nnunet_mtl.networks.uniseg.prompt import UniversalPrompt

CHANNELS, TASKS = 9, 3
SIZES = [(4, 3), (3, 4, 2)]


def prompted(size: tuple[int, ...] = (4, 3)) -> UniversalPrompt:
    torch.manual_seed(0)
    return UniversalPrompt(CHANNELS, TASKS, size)


def appended(module: UniversalPrompt, x: Tensor, task: list[int]) -> Tensor:
    return module(x, torch.tensor(task))[:, -1]


@pytest.mark.parametrize("size", SIZES)
def test_one_channel_is_appended_behind_the_feature_itself(size: tuple[int, ...]) -> None:
    x = torch.randn(2, CHANNELS, *size)
    result = prompted(size)(x, torch.tensor([2, 0]))
    assert result.shape == (2, CHANNELS + UniversalPrompt.extra_channels(), *size)
    assert torch.equal(result[:, :-1], x)
    assert UniversalPrompt.conditioned


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_tasks_channel_of_three_blocks_that_read_feature_and_prompt(size: tuple[int, ...]) -> None:
    module, x, task = prompted(size), torch.randn(2, CHANNELS, *size), [2, 1]
    convolution, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[len(size)]
    widths = [CHANNELS + TASKS, 3, 3, TASKS]  # (9 + 3) // 4 = 3
    y = torch.cat((x, torch.cat([module.prompt, module.prompt])), dim=1)
    parameters = iter(module.fusion.parameters())
    for inputs, outputs in pairwise(widths):
        block = nn.Sequential(convolution(inputs, outputs, 3, padding=1), norm(outputs, affine=True), nn.LeakyReLU())
        for parameter in block.parameters():
            parameter.data = next(parameters).data
        y = block(y)
    assert not list(parameters)
    torch.testing.assert_close(appended(module, x, task), torch.stack([y[i, t] for i, t in enumerate(task)]))


def test_the_prompt_starts_as_standard_normal_noise_and_is_learned() -> None:
    module = UniversalPrompt(CHANNELS, 5, (16, 16, 8))
    assert module.prompt.shape == (1, 5, 16, 16, 8)
    assert "prompt" in dict(module.named_parameters())
    values = module.prompt.detach()
    assert float(values.mean().abs()) < 0.05
    assert float(values.std()) == pytest.approx(1, abs=0.05)


def test_every_tasks_prompt_moves_all_of_the_universal_one() -> None:
    module = prompted()
    appended(module, torch.randn(2, CHANNELS, 4, 3), [1, 1]).square().mul(torch.randn(4, 3)).sum().backward()
    moved = module.prompt.grad.abs().flatten(2).sum(2)
    assert float(moved.min()) > 1e-3 * float(moved.max()) > 0


def test_the_channel_depends_on_the_task_on_the_image_and_on_the_prompt() -> None:
    module, x = prompted(), torch.randn(1, CHANNELS, 4, 3)
    with torch.no_grad():
        of_tasks = [appended(module, x, [task]) for task in range(TASKS)]
        of_image = appended(module, torch.randn_like(x), [0])
        module.prompt.normal_()
        of_prompt = appended(module, x, [0])
    for other in (*of_tasks[1:], of_image, of_prompt):
        assert float((of_tasks[0] - other).abs().mean()) > 0.1


def test_a_batch_of_mixed_tasks_equals_its_samples_alone() -> None:
    module, x = prompted(), torch.randn(3, CHANNELS, 4, 3)
    together = module(x, torch.tensor([2, 0, 2]))
    for i, task in enumerate([2, 0, 2]):
        torch.testing.assert_close(together[[i]], module(x[[i]], torch.tensor([task])))


@pytest.mark.parametrize("rest", [(1,), (1, 1)])
def test_the_prompt_is_resampled_linearly_to_features_of_another_size(rest: tuple[int, ...]) -> None:
    planned, larger = prompted((2, *rest)), prompted((4, *rest))
    larger.fusion.load_state_dict(planned.fusion.state_dict())
    with torch.no_grad():
        first, second = planned.prompt.unbind(2)
        steps = first, 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second, second  # centres 1/4, 3/4 voxel off
        larger.prompt.copy_(torch.stack(steps, dim=2))
    x, task = torch.randn(2, CHANNELS, 4, *rest), torch.tensor([0, 2])
    torch.testing.assert_close(planned(x, task), larger(x, task))


@pytest.mark.parametrize(("channels", "tasks", "size"), [(9, 3, (4, 3)), (320, 7, (4, 5, 6)), (1, 1, (2, 2))])
def test_parameters_by_the_formula(channels: int, tasks: int, size: tuple[int, ...]) -> None:
    voxels, kernel, middle = torch.Size(size).numel(), 3 ** len(size), max(1, (channels + tasks) // 4)
    count = sum(p.numel() for p in UniversalPrompt(channels, tasks, size).parameters())
    convolutions = kernel * (middle * (channels + tasks) + middle**2 + middle * tasks)
    assert count == tasks * voxels + convolutions + 3 * (2 * middle + tasks)


def test_half_precision_features_stay_half() -> None:
    x = torch.randn(2, CHANNELS, 4, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = prompted()(x, torch.tensor([0, 1]))
    assert result.dtype == torch.bfloat16
    assert torch.equal(result[:, :-1], x)


def test_compilation_recompiles_for_no_task() -> None:
    torch._dynamo.reset()
    module, counter = prompted(), CompileCounter()
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for batches, compilations in (([[0, 0], [1, 2], [2, 0]], 1), ([[1], [0], [2], [2, 2]], 2)):
        for tasks in batches:
            arguments: Any = torch.randn(len(tasks), CHANNELS, 4, 3), torch.tensor(tasks)
            torch.testing.assert_close(compiled(*arguments), module(*arguments))
        assert counter.frame_count == compilations
    torch._dynamo.reset()


def test_nothing_is_the_feature_itself() -> None:
    x = torch.randn(2, CHANNELS, 4, 3)
    off = NoBottleneckConditioning(CHANNELS, TASKS, (4, 3))
    assert off(x) is x
    assert not off.conditioned
    assert NoBottleneckConditioning.extra_channels() == 0
    assert not off.state_dict()
