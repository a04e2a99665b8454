from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mtl.networks.streams.task_streams import (
    EncoderPlan,
    NoStreamBottleneck,
    Recompute,
    SharedStreams,
    StageFeatures,
    StreamTasks,
    each_of,
)

Build = Callable[..., Any]


def stages(*sizes: int) -> list[StageFeatures]:
    rng = torch.Generator().manual_seed(0)
    return [StageFeatures(*(torch.randn(2, 4, size, size, generator=rng) for _ in range(3))) for size in sizes]


def plan_of(network: Any) -> EncoderPlan:
    return EncoderPlan.of(network.encoder)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_what_is_read_off_an_encoder(build: Build, kind: str) -> None:
    layout = {"dimensions": 3, "kernels": [[1, 3, 3], [3, 3, 3], 3], "strides": [1, [1, 2, 2], 2]}
    plan = plan_of(build(kind, stock=True, **layout))
    assert plan.channels == (4, 6, 8)
    assert plan.kernel_sizes == ((1, 3, 3), (3, 3, 3), (3, 3, 3))
    assert plan.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    assert plan.dimensions == 3
    assert isinstance(plan.norm(4), nn.InstanceNorm3d)
    assert plan.norm(4).weight.shape == (4,)  # affine, as planned
    convolution, norm, activation = plan.block(4, 6, 0)
    assert convolution.weight.shape == (6, 4, 1, 3, 3)
    assert plan.block(4, 6, 0)(torch.randn(1, 4, 4, 6, 8)).shape == (1, 6, 4, 6, 8)
    assert isinstance(norm, nn.InstanceNorm3d)
    assert isinstance(activation, nn.ReLU)
    assert isinstance(plan._replace(norm_op=None).norm(4), nn.Identity)


def test_pooling_takes_maxima_in_windows_of_the_planned_stride_and_keeps_the_rest(build: Build) -> None:
    plan = plan_of(build(stock=True, strides=[[1, 1], [1, 2], [2, 2]]))
    x = torch.tensor([[1.0, 5.0, 2.0], [4.0, 3.0, 6.0], [0.0, 7.0, -1.0]])[None, None]
    assert torch.equal(plan.pooled(x, 1), torch.tensor([[5.0, 2.0], [4.0, 6.0], [7.0, -1.0]])[None, None])
    assert torch.equal(plan.pooled(x, 2), torch.tensor([[5.0, 6.0], [7.0, -1.0]])[None, None])


@pytest.mark.parametrize("edge", [15, 16, 17])
def test_a_pooled_size_is_that_of_the_strided_stage(build: Build, edge: int) -> None:
    network = build(stock=True, strides=[1, 3, 2], kernels=[[3, 3], [1, 3], [3, 3]])
    plan, skips = plan_of(network), network.encoder(torch.randn(1, 1, edge, edge))
    for stage, (skip, below) in enumerate(pairwise(skips), start=1):
        assert plan.pooled(skip, stage).shape[2:] == below.shape[2:]


def test_shared_streams_are_the_features_and_for_questions_the_deepest_before_its_normalisation(build: Build) -> None:
    streams = SharedStreams(plan_of(build(stock=True)), StreamTasks(2, 1), width="full")
    features = stages(8, 4, 2)
    shared = streams(features)
    for pixel in (0, 1):
        assert [id(x) for x in streams.of_task(pixel, shared)] == [id(stage.last) for stage in features]
    expected = [features[0].last, features[1].last, features[2].before_norm]
    assert [id(x) for x in streams.of_task(2, shared)] == [id(x) for x in expected]
    assert streams.tasks.number == 3
    assert not list(streams.parameters())


def test_streams_that_do_not_meet_are_made_one_by_one(build: Build) -> None:
    class Counted(SharedStreams):
        made: list[int] = []  # noqa: RUF012 - of this test

        def of_task(self, index: int, shared: Any) -> list[Tensor]:
            self.made.append(index)
            return super().of_task(index, shared)

    class Sum(NoStreamBottleneck):
        exchanges = True

        def forward(self, streams: list[Tensor]) -> list[Tensor]:
            return [torch.stack(streams).sum(0)] * len(streams)

    streams = Counted(plan_of(build(stock=True)), StreamTasks(2, 1))
    features = stages(4, 2)
    seen = each_of(streams, NoStreamBottleneck(4, 3, recompute="all"), streams(features))
    assert Counted.made == []
    assert seen(1)[-1] is features[1].last
    assert Counted.made == [1]
    met = each_of(streams, Sum(4, 3), streams(features))
    assert Counted.made == [1, 0, 1, 2]
    assert met(0)[0] is features[0].last
    torch.testing.assert_close(met(2)[1], 2 * features[1].last + features[1].before_norm)
    untouched = [torch.ones(1)]
    assert NoStreamBottleneck(4, 3)(untouched) is untouched


def test_recomputing_runs_a_part_again_in_the_backward_pass_only_where_a_gradient_is_wanted() -> None:
    calls = []

    def part(x: Tensor) -> Tensor:
        calls.append(1)
        return x.sin()

    x = torch.ones(3, requires_grad=True)
    for wanted, expected in ((True, 2), (False, 1)):
        calls.clear()
        Recompute(nn.Linear(1, 1), wanted=wanted)(part, x).sum().backward()
        assert len(calls) == expected
    calls.clear()
    with torch.no_grad():
        Recompute(nn.Linear(1, 1), wanted=True)(part, x)
    assert len(calls) == 1


@pytest.mark.parametrize("module", [nn.BatchNorm2d(2), nn.Dropout(0.1), nn.Dropout3d(0.1)])
def test_what_a_second_pass_would_change_is_not_recomputed(module: nn.Module) -> None:
    assert not Recompute(nn.Sequential(nn.Linear(1, 1), module), wanted=True).on
    assert Recompute(nn.Sequential(nn.Linear(1, 1), nn.InstanceNorm2d(2, affine=True)), wanted=True).on
