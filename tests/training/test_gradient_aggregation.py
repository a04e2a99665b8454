"""Aggregated gradients against closed forms, the properties their papers promise, and what AMP needs of them."""

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from nnunet_mtl.losses.weighting import EqualWeights
from nnunet_mtl.training.gradient_aggregation import METHODS, GradientAggregation, GradientAggregationError
from nnunet_mtl.training.loss_weighting import BODY, CLIP_GRADIENT_NORM, clip_gradients

CONFLICT = torch.tensor([[1.0, 0.0], [-2.0, 1.0]])
AGREEMENT = torch.tensor([[1.0, 0.5], [0.5, 2.0]])
STRONG = torch.tensor([[1.0, 0.1, 0.0, 0.3], [0.3, 1.0, 0.2, 0.0], [-0.8, -0.9, 0.3, 0.2]])


def names(count: int) -> list[str]:
    return [f"term/{index}" for index in range(count)]


def aggregate(
    method: str, rows: Tensor, scale: float = 1.0, weighting: EqualWeights | None = None
) -> tuple[Tensor, GradientAggregation]:
    """Gradient of a parameter for which the terms have these gradients, (terms, values)."""
    parameter = nn.Parameter(torch.zeros(rows.shape[1], dtype=rows.dtype))
    terms = names(len(rows))
    losses = dict(zip(terms, rows @ parameter, strict=True))
    weighting = weighting or GradientAggregation(terms, method)
    total = weighting.backward(losses, dict.fromkeys(terms, True), [parameter], lambda loss: scale * loss)
    assert total.shape == ()
    assert parameter.grad is not None
    return parameter.grad, weighting  # type: ignore[return-value]


def inner(rows: Tensor, gradient: Tensor) -> Tensor:
    return rows @ gradient


def test_pcgrad_of_two_is_both_projections_added() -> None:
    first, second = CONFLICT
    product = first @ second
    expected = first - product / (second @ second) * second + second - product / (first @ first) * first
    gradient, weighting = aggregate("pcgrad", CONFLICT)
    assert_close(gradient, expected)
    weights = torch.tensor(list(weighting.weights().values()))
    assert_close(weights @ CONFLICT, expected)
    # the sum of the gradients is not
    assert not torch.allclose(aggregate("none", CONFLICT, weighting=EqualWeights(names(2)))[0], expected)


@pytest.mark.parametrize("method", ["pcgrad", "upgrad"])
def test_gradients_that_agree_are_added(method: str) -> None:
    gradient, weighting = aggregate(method, AGREEMENT)
    assert_close(gradient, AGREEMENT.sum(0), atol=2e-4, rtol=0)
    assert list(weighting.weights().values()) == pytest.approx([1, 1], abs=1e-3)


@pytest.mark.parametrize("rows", [CONFLICT, STRONG, AGREEMENT])
def test_upgrad_makes_no_term_worse(rows: Tensor) -> None:
    assert (inner(rows, aggregate("upgrad", rows)[0]) >= -1e-3).all()


def test_the_sum_makes_a_term_worse() -> None:
    assert (inner(CONFLICT, CONFLICT.sum(0)) < 0).any()


def test_cagrad_stays_in_its_ball_and_helps_the_worst_term() -> None:
    rows = torch.tensor([[1.0, 0.2], [-0.6, 0.3]])
    gradient, _ = aggregate("cagrad", rows)
    total = rows.sum(0)
    assert (gradient - total).norm() <= 0.5 * total.norm() * 1.001
    assert inner(rows, gradient).min() > inner(rows, total).min() + 1e-3


def test_mgda_is_the_shortest_vector_of_the_hull() -> None:
    first, second = CONFLICT
    share = ((second - first) @ second) / ((first - second) @ (first - second))
    shortest = share * first + (1 - share) * second
    gradient, _ = aggregate("mgda", CONFLICT)
    assert_close(gradient, 2 * shortest, atol=1e-3, rtol=0)


def test_imtl_g_has_the_same_projection_on_every_gradient() -> None:
    gradient, _ = aggregate("imtl_g", STRONG)
    projections = inner(STRONG / STRONG.norm(dim=1, keepdim=True), gradient)
    assert_close(projections, projections[:1].expand(3), atol=1e-4, rtol=0)


def test_aligned_mtl_brings_orthogonal_gradients_to_the_length_of_the_shortest() -> None:
    gradient, _ = aggregate("aligned_mtl", torch.diag(torch.tensor([0.5, 2.0, 4.0])))
    assert_close(gradient, torch.full((3,), 0.5))


@pytest.mark.parametrize("rows", [CONFLICT, AGREEMENT, STRONG, 1e-6 * STRONG])
def test_nash_mtl_is_a_fair_bargain(rows: Tensor) -> None:
    """Each term gains the same in proportion: a_i (G a)_i is one number, the mean of the squared lengths."""
    gradient, weighting = aggregate("nash_mtl", rows.double())
    weights = torch.tensor(list(weighting.weights().values()), dtype=torch.float64)
    gains = weights * inner(rows.double(), gradient)
    assert (gains > 0).all()
    assert_close(gains, gains[:1].expand(len(rows)), rtol=1e-6, atol=0)
    assert gradient.norm() == pytest.approx(float(rows.double().norm()))


def test_a_term_that_is_all_but_learnt_does_not_stop_the_others_in_nash_mtl() -> None:
    rows = torch.diag(torch.tensor([1.0, 1.0, 0.01], dtype=torch.float64))
    gradient, _ = aggregate("nash_mtl", rows)
    assert gradient.norm() == pytest.approx(float(rows.sum(0).norm()), rel=1e-3)
    assert_close(gradient, gradient[:1].expand(3))


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP")
def test_nash_mtl_agrees_with_torchjd_where_that_arrives() -> None:
    from torchjd.aggregation import NashMTL

    rows = torch.tensor([[1.0, 0.2, 0.1], [0.3, 0.8, -0.2], [-0.2, 0.1, 1.1]])
    theirs = NashMTL(n_tasks=3)(rows)
    ours, _ = aggregate("nash_mtl", rows)
    assert_close(ours / ours.norm(), theirs / theirs.norm(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_opposite_gradients_give_a_finite_gradient(method: str) -> None:
    gradient, _ = aggregate(method, torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))
    assert gradient.isfinite().all()
    assert gradient.norm() < 10


# ---- of every method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [2.0**16, 2.0**-16])
def test_a_scaled_loss_has_the_scaled_gradient(method: str, factor: float) -> None:
    torch.manual_seed(0)
    plain, _ = aggregate(method, STRONG)
    torch.manual_seed(0)  # of PCGrad, which draws an order
    scaled, _ = aggregate(method, STRONG, factor)
    assert_close(scaled / factor, plain, atol=1e-4, rtol=1e-4)
    assert plain.norm() > 1e-2


class Shared(nn.Module):
    """A trunk with a normalisation, as nnU-Net's, and a head for each term."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.LeakyReLU())
        self.heads = nn.ModuleList(nn.Conv2d(3, 1, 1) for _ in range(heads))

    def losses(self, present: list[bool]) -> dict[str, Tensor]:
        features = self.trunk(torch.arange(72.0).reshape(2, 1, 6, 6).sin())
        targets = [features.new_full((2, 1, 4, 4), (-1.0) ** index) for index in range(len(self.heads))]
        values = [(head(features) - y).square().mean() for head, y in zip(self.heads, targets, strict=True)]
        # what nobody annotated has a loss of 0 that is attached to everything
        kept = [value if there else 0 * value for value, there in zip(values, present, strict=True)]
        return dict(zip(names(len(kept)), kept, strict=True))

    def step(
        self, weighting: EqualWeights, present: list[bool], scale: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        self.zero_grad(set_to_none=True)
        there = dict(zip(names(len(present)), present, strict=True))
        weighting.backward(self.losses(present), there, list(self.parameters()), scale)
        return {
            name: parameter.grad.clone() for name, parameter in self.named_parameters() if parameter.grad is not None
        }


def unscaled(loss: Tensor) -> Tensor:
    return loss


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("present", [[True, False, False], [False, False, False]])
def test_one_term_or_none_is_plain_backward(method: str, present: list[bool]) -> None:
    network = Shared(3)
    plain = network.step(EqualWeights(names(3)), present, unscaled)
    aggregated = network.step(GradientAggregation(names(3), method), present, unscaled)
    assert plain.keys() == aggregated.keys()
    assert all(torch.equal(plain[name], aggregated[name]) for name in plain)


@pytest.mark.parametrize("method", METHODS)
def test_heads_keep_their_own_gradient_and_the_trunk_gets_another(method: str) -> None:
    network = Shared(3)
    weighting = GradientAggregation(names(3), method)
    plain = network.step(EqualWeights(names(3)), [True, True, False], unscaled)
    aggregated = network.step(weighting, [True, True, False], unscaled)
    assert plain.keys() == aggregated.keys()
    for name in plain:
        if name.startswith("heads"):
            assert_close(aggregated[name], plain[name])
        elif name != "trunk.0.bias":  # of which the normalisation removes every trace
            assert not torch.allclose(aggregated[name], plain[name])
    assert weighting.weights()["term/2"] == 1.0
    assert weighting.weights()["term/0"] != 1.0


def test_a_term_without_a_gradient_leaves_the_others_to_themselves() -> None:
    rows = torch.cat([CONFLICT, torch.zeros(1, 2)])
    assert_close(aggregate("mgda", rows)[0], aggregate("mgda", CONFLICT)[0])
    assert_close(aggregate("nash_mtl", rows[1:])[0], rows[1])


def test_weights_are_means_over_the_steps_of_an_epoch() -> None:
    _, weighting = aggregate("pcgrad", CONFLICT)
    once = weighting.weights()
    aggregate("pcgrad", AGREEMENT, weighting=weighting)
    assert list(weighting.weights().values()) == pytest.approx([(value + 1) / 2 for value in once.values()])
    weighting.end_epoch({})
    assert list(weighting.weights().values()) == [1, 1]


def test_a_batch_whose_weights_cannot_be_found_has_equal_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, gramian: Tensor) -> Tensor:
        raise ValueError("Failed to solve the quadratic programming problem.")

    from torchjd.aggregation import PCGradWeighting, UPGradWeighting

    monkeypatch.setattr(UPGradWeighting, "forward", fails)
    assert torch.equal(aggregate("upgrad", CONFLICT)[0], CONFLICT.sum(0))
    monkeypatch.setattr(PCGradWeighting, "forward", lambda self, gramian: gramian[0] * math.nan)
    assert torch.equal(aggregate("pcgrad", CONFLICT)[0], CONFLICT.sum(0))


def test_a_solver_of_cagrad_that_gives_up_leaves_equal_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from cvxpy import Problem
    from cvxpy.error import SolverError

    def gives_up(*args: Any, **options: Any) -> None:
        raise SolverError("Solver 'CLARABEL' failed.")

    monkeypatch.setattr(Problem, "solve", gives_up)
    assert torch.equal(aggregate("cagrad", CONFLICT)[0], CONFLICT.sum(0))


@pytest.mark.parametrize("rows", [torch.tensor([[math.inf, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])])
def test_a_solver_is_not_asked_about_an_overflow_or_a_single_gradient(rows: Tensor) -> None:
    weighting = GradientAggregation(names(2), "pcgrad")
    asked: list[Tensor] = []
    weighting._solver = lambda gramian: asked.append(gramian) or gramian[0]  # type: ignore[func-returns-value]
    assert_close(weighting._solve((rows @ rows.T).double()), [1.0, 1.0])
    assert asked == []
    weighting._solve((CONFLICT @ CONFLICT.T).double())
    assert len(asked) == 1


# ---- mixed precision and clipping, as in a training step


@pytest.mark.parametrize("method", METHODS)
def test_an_overflow_skips_the_step_and_lowers_the_scale(method: str) -> None:
    network = Shared(2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1)
    weighting = GradientAggregation(names(2), method)

    def step(overflow: float) -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = network.losses([True, True])
        losses["term/1"] = losses["term/1"] * overflow
        weighting.backward(losses, dict.fromkeys(losses, True), list(network.parameters()), scaler.scale)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    def weights() -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    before = weights()
    step(math.inf)
    assert torch.equal(weights(), before)
    assert scaler.get_scale() == 2.0**9
    step(1.0)
    assert not torch.equal(weights(), before)
    assert scaler.get_scale() == 2.0**10


def test_the_norm_that_is_clipped_is_that_of_the_aggregate() -> None:
    rows = 1000 * torch.tensor([[1.0, 0.0], [-0.99, 0.1]])
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [parameter], "name": BODY}], lr=1.0)
    losses = dict(zip(names(2), rows @ parameter, strict=True))
    weighting = GradientAggregation(names(2), "pcgrad")
    weighting.backward(losses, dict.fromkeys(losses, True), [parameter], unscaled)
    direction, _ = aggregate("pcgrad", rows)
    clip_gradients(optimizer)
    assert_close(parameter.grad, CLIP_GRADIENT_NORM[BODY] * direction / direction.norm())


# ---- what is not installed


@pytest.mark.parametrize("method", [method for method in METHODS if method != "nash_mtl"])
def test_without_torchjd_one_line_says_what_to_install(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(GradientAggregationError, match=r'pip install "nnunet_mtl\[aggregation\]"') as error:
        GradientAggregation(names(2), method)
    assert f"loss_weighting={method}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("method", "solver"), [("upgrad", "quadprog"), ("cagrad", "cvxpy")])
def test_without_a_solver_the_same_line_says_so(method: str, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchjd._mixins as mixins

    find_spec = mixins.find_spec
    monkeypatch.setattr(mixins, "find_spec", lambda name: None if name == solver else find_spec(name))
    with pytest.raises(GradientAggregationError, match=r'pip install "nnunet_mtl\[aggregation\]"'):
        GradientAggregation(names(2), method)


def test_nash_mtl_needs_no_other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    GradientAggregation(names(2), "nash_mtl")
