import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from nnunet_mtl.losses.weighting import (
    DynamicWeightAverage,
    EqualWeights,
    FixedWeights,
    KendallWeights,
    LiebelKoernerWeights,
    LossWeightingError,
    fixed_factors,
)

TERMS = ("segmentation/liver", "regression/dose", "classification/malignancy")
BOTH = dict.fromkeys(TERMS, True)
UNCERTAIN = [KendallWeights, LiebelKoernerWeights]


def every():
    return [
        EqualWeights(TERMS),
        FixedWeights(TERMS, {TERMS[0]: 0.5}),
        KendallWeights(TERMS),
        LiebelKoernerWeights(TERMS),
        DynamicWeightAverage(TERMS),
    ]


def losses(*values, grad=False):
    return {term: torch.tensor(float(v), requires_grad=grad) for term, v in zip(TERMS, values, strict=True)}


def number(scalar):
    return scalar.detach().item()


def at_log_variance(cls, *values):
    weighting = cls(TERMS)
    weighting.log_variance.data = torch.tensor([float(value) for value in values])
    return weighting


def train_as_one_of_two(rank):
    """Ranks see other losses, and one sees no answer; their parameters must stay the same."""
    torch.manual_seed(rank)
    weighting = LiebelKoernerWeights(TERMS)
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1)
    local = []
    for step in range(3):
        terms = losses(*(torch.rand(3) + rank))
        present = {**BOTH, TERMS[2]: rank == 0 or step > 0}
        alone = LiebelKoernerWeights(TERMS)
        alone.load_state_dict(weighting.state_dict())
        alone(terms, present).backward()
        local.append(alone.log_variance.grad.clone())
        optimizer.zero_grad(set_to_none=True)
        weighting.backward(terms, present, [], lambda loss: loss)
        local.append(weighting.log_variance.grad.clone())
        optimizer.step()
    return {"gradients": torch.stack(local), "weights": weighting.log_variance.detach()}


def test_gradients_of_the_weights_are_averaged_over_processes(two_processes):
    first, second = two_processes
    assert torch.equal(first["weights"], second["weights"])
    alone = torch.stack([first["gradients"][::2], second["gradients"][::2]])
    assert not torch.allclose(alone[0], alone[1])
    for rank in (first, second):
        assert_close(rank["gradients"][1::2], alone.mean(0))


def test_equal_is_the_sum_of_any_terms():
    assert number(EqualWeights(TERMS)(losses(1, -3, 0.5), BOTH)) == -1.5
    assert EqualWeights(TERMS).weights() == dict.fromkeys(TERMS, 1.0)
    assert not list(EqualWeights(TERMS).parameters())
    assert not EqualWeights(TERMS).state_dict()


def test_fixed_is_the_weighted_sum():
    weighting = FixedWeights(TERMS, {TERMS[0]: 0.5, TERMS[2]: 0.0})
    assert number(weighting(losses(1, 3, 7), BOTH)) == 3.5
    assert list(weighting.weights().values()) == [0.5, 1.0, 0.0]
    assert not weighting.state_dict()


def test_liebel_koerner_at_the_start_and_where_sigma_is_known():
    weighting = LiebelKoernerWeights(TERMS)
    assert number(weighting(losses(1, 1, 0), {**BOTH, TERMS[2]: False})) == pytest.approx(2.386294, abs=1e-6)
    values = [0.2, 3.0, 1.5]
    expected = 0.5 * sum(values) + 3 * math.log(2)
    assert number(weighting(losses(*values), BOTH)) == pytest.approx(expected)
    assert list(weighting.weights().values()) == [0.5] * 3
    sigma = 2.0
    weighting = at_log_variance(LiebelKoernerWeights, *[math.log(sigma**2)] * 3)
    expected = sum(value / (2 * sigma**2) + math.log(1 + sigma**2) for value in values)
    assert number(weighting(losses(*values), BOTH)) == pytest.approx(expected)


def test_kendall_halves_regression_terms_only():
    sigma, values = 2.0, [0.2, 3.0, 1.5]
    weighting = at_log_variance(KendallWeights, *[math.log(sigma**2)] * 3)
    expected = (0.2 + 3.0 / 2 + 1.5) / sigma**2 + 3 * math.log(sigma)
    assert number(weighting(losses(*values), BOTH)) == pytest.approx(expected)
    assert list(KendallWeights(TERMS).weights().values()) == [1.0, 0.5, 1.0]


@pytest.mark.parametrize("loss", [0.1, 1.0, 4.0])
def test_the_optima_are_those_of_the_equations(loss):
    variances = {
        KendallWeights: [2 * loss, loss, 2 * loss],
        LiebelKoernerWeights: [(loss + math.sqrt(loss**2 + 8 * loss)) / 4] * 3,
    }
    for cls, optimum in variances.items():
        weighting = at_log_variance(cls, *(math.log(value) for value in optimum))
        weighting(losses(loss, loss, loss), BOTH).backward()
        assert_close(weighting.log_variance.grad, torch.zeros(3), atol=1e-6, rtol=0)
        # and minima: a step to either side is worse
        best = number(weighting(losses(loss, loss, loss), BOTH))
        for shift in (-0.3, 0.3):
            beside = at_log_variance(cls, *(math.log(value) + shift for value in optimum))
            assert number(beside(losses(loss, loss, loss), BOTH)) > best


def test_a_loss_of_one_leaves_sigma_at_one():
    weighting = LiebelKoernerWeights(TERMS)
    weighting(losses(1, 1, 0.5), BOTH).backward()
    assert weighting.log_variance.grad.tolist() == pytest.approx([0, 0, 0.25])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=3, max_size=3), st.lists(st.floats(-9, 9), min_size=3, max_size=3))
def test_liebel_koerner_is_never_negative(values, log_variances):
    assert number(at_log_variance(LiebelKoernerWeights, *log_variances)(losses(*values), BOTH)) >= 0


@pytest.mark.parametrize("weighting", every(), ids=lambda weighting: type(weighting).__name__)
def test_a_term_nobody_taught_adds_nothing_and_stays_in_the_graph(weighting):
    terms = losses(0.6, 0.7, 0.9, grad=True)
    present = {**BOTH, TERMS[1]: False}
    total = weighting.backward(terms, present, [], lambda loss: loss)
    others = {**terms, TERMS[1]: torch.tensor(123.0)}
    assert number(total) == number(weighting(others, present))
    assert number(total) < number(weighting(terms, BOTH))
    assert number(terms[TERMS[1]].grad) == 0
    assert number(terms[TERMS[0]].grad) == pytest.approx(weighting.weights()[TERMS[0]])
    for parameter in weighting.parameters():
        assert (parameter.grad != 0).tolist() == [True, False, True]


@pytest.mark.parametrize("weighting", every()[1:], ids=lambda weighting: type(weighting).__name__)
def test_a_negative_term_is_refused_by_name(weighting):
    with pytest.raises(LossWeightingError, match=r"regression/dose is -0\.3; .* loss_weighting=equal") as error:
        weighting(losses(1, -0.3, 1), BOTH)
    assert "\n" not in str(error.value)
    weighting(losses(1, -1e-6, 1), BOTH)  # 1 - Dice, rounded


@pytest.mark.parametrize("cls", UNCERTAIN)
def test_a_log_variance_that_left_its_bounds_comes_back(cls):
    weighting = at_log_variance(cls, -7, 0, 7)
    assert weighting.weights() == at_log_variance(cls, -5, 0, 5).weights()
    weighting(losses(10, 1, 10), BOTH).backward()
    assert weighting.log_variance.tolist() == [-5, 0, 5]
    # it can leave the bound: a large loss raises the variance, a small one lowers it
    assert weighting.log_variance.grad[0] < 0 < weighting.log_variance.grad[2]


@pytest.mark.parametrize("cls", UNCERTAIN)
def test_two_totals_can_share_a_backward_pass(cls):
    weighting = cls(TERMS)
    (weighting(losses(2, 1, 1), BOTH) + weighting(losses(2, 1, 1), BOTH)).backward()
    twice = weighting.log_variance.grad
    alone = cls(TERMS)
    alone(losses(2, 1, 1), BOTH).backward()
    assert_close(twice, 2 * alone.log_variance.grad)


@pytest.mark.parametrize("cls", UNCERTAIN)
def test_learned_weights_go_to_their_optimum(cls):
    weighting = cls(TERMS)
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        weighting.backward(losses(0.5, 2, 2), BOTH, [], lambda loss: loss)
        optimizer.step()
    weighting(losses(0.5, 2, 2), BOTH).backward()
    assert weighting.weights()[TERMS[0]] > weighting.weights()[TERMS[2]]
    assert_close(weighting.log_variance.grad, torch.zeros(3), atol=1e-3, rtol=0)


def test_dynamic_weights_follow_the_ratio_of_two_epochs():
    weighting = DynamicWeightAverage(TERMS, temperature=2.0)
    seen = [list(weighting.weights().values())]
    for means in ((4.0, 1.0, 2.0), (1.0, 1.0, 1.0), (1.0, 0.5, 1.0)):
        weighting.end_epoch(dict(zip(TERMS, means, strict=True)))
        seen.append(list(weighting.weights().values()))
    assert seen[0] == seen[1] == [1, 1, 1]  # of the first two epochs

    def expected(*ratios):
        powers = [math.exp(ratio / 2) for ratio in ratios]
        return pytest.approx([3 * power / sum(powers) for power in powers])

    assert seen[2] == expected(0.25, 1, 0.5)
    assert seen[3] == expected(1, 0.5, 1)
    assert [sum(weights) for weights in seen] == pytest.approx([3] * 4)
    total = weighting(losses(1, 2, 3), BOTH)
    assert number(total) == pytest.approx(sum(w * v for w, v in zip(seen[3], (1, 2, 3), strict=True)))


def test_a_large_temperature_makes_dynamic_weights_equal():
    weighting = DynamicWeightAverage(TERMS, temperature=1e6)
    for means in ((4.0, 1.0, 2.0), (1.0, 1.0, 1.0)):
        weighting.end_epoch(dict(zip(TERMS, means, strict=True)))
    assert list(weighting.weights().values()) == pytest.approx([1, 1, 1], abs=1e-5)


def test_an_epoch_that_did_not_teach_a_term_is_left_out_of_its_ratio():
    weighting, plain = DynamicWeightAverage(TERMS), DynamicWeightAverage(TERMS)
    nan = math.nan
    for means in ((4.0, nan, 2.0), (2.0, nan, nan), (1.0, nan, 1.0)):
        weighting.end_epoch(dict(zip(TERMS, means, strict=True)))
    for means in ((2.0, 1.0, 2.0), (1.0, 1.0, 1.0)):
        plain.end_epoch(dict(zip(TERMS, means, strict=True)))
    assert weighting.weights() == pytest.approx(plain.weights())


def test_a_term_that_stays_at_zero_has_the_weight_of_one_that_stays():
    weighting = DynamicWeightAverage(TERMS)
    for _ in range(2):
        weighting.end_epoch(dict(zip(TERMS, (0.0, 1.0, 0.3), strict=True)))
    assert list(weighting.weights().values()) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("before", [0.0, -1e-5, 1e-12])
def test_a_term_that_leaves_zero_weighs_for_one_epoch_what_one_that_stays_weighs(before):
    weighting = DynamicWeightAverage(TERMS)
    for means in ((before, 1.0, 2.0), (0.3, 1.0, 1.0)):
        weighting.end_epoch(dict(zip(TERMS, means, strict=True)))
    powers = [math.exp(ratio / 2) for ratio in (1, 1, 0.5)]
    assert list(weighting.weights().values()) == pytest.approx([3 * power / sum(powers) for power in powers])
    weighting.end_epoch(dict(zip(TERMS, (0.6, 1.0, 1.0), strict=True)))  # from then on it has a ratio
    powers = [math.exp(ratio / 2) for ratio in (2, 1, 1)]
    assert list(weighting.weights().values()) == pytest.approx([3 * power / sum(powers) for power in powers])


@given(st.lists(st.tuples(*[st.floats(1e-3, 1e3)] * 3), min_size=2, max_size=5))
def test_dynamic_weights_are_the_published_ones_of_all_positive_means(epochs):
    weighting = DynamicWeightAverage(TERMS, temperature=2.0)
    for means in epochs:
        weighting.end_epoch(dict(zip(TERMS, means, strict=True)))
    ratios = [now / before for before, now in zip(*epochs[-2:], strict=True)]
    powers = [math.exp((ratio - max(ratios)) / 2) for ratio in ratios]
    expected = [3 * power / sum(powers) for power in powers]
    assert list(weighting.weights().values()) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("cls", [*UNCERTAIN, DynamicWeightAverage])
def test_the_state_is_tensors_and_restores_everything(cls, tmp_path):
    weighting = cls(TERMS)
    for means in ((4.0, 1.0, 2.0), (1.0, 0.9, 1.0)):
        weighting.end_epoch(dict(zip(TERMS, means, strict=True)))
        for parameter in weighting.parameters():
            parameter.data += torch.tensor([0.3, 0.0, -0.2])
    torch.save(weighting.state_dict(), tmp_path / "state.pt")
    restored = cls(TERMS)
    assert restored.weights() != weighting.weights()
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    last = dict(zip(TERMS, (0.5, 0.9, 1.0), strict=True))
    for one in (weighting, restored):
        one.end_epoch(last)
    assert restored.weights() == weighting.weights()
    assert not any(parameter.isnan().any() for parameter in restored.parameters())


def test_fixed_weights_are_read_by_the_names_of_tasks_questions_or_terms():
    assert fixed_factors("liver=1, malignancy = 0.5", TERMS) == {TERMS[0]: 1.0, TERMS[2]: 0.5}
    assert fixed_factors("regression/dose=0", TERMS) == {TERMS[1]: 0.0}
    twins = ("segmentation/liver", "classification/liver")
    assert fixed_factors("classification/liver=2", twins) == {twins[1]: 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kidney=1", "'kidney=1' must be NAME=WEIGHT with one of liver, dose, malignancy"),
        ("liver", "must be NAME=WEIGHT"),
        ("", "must be NAME=WEIGHT"),
        ("liver=1,,dose=1", "must be NAME=WEIGHT"),
        ("liver=1,segmentation/liver=2", "is given twice"),
        ("liver=-1", "must be a number of at least 0"),
        ("liver=nan", "must be a number of at least 0"),
        ("liver=inf", "must be a number of at least 0"),
        ("liver=much", "must be a number of at least 0"),
        ("liver=0,dose=0,malignancy=0", "at least one term needs a weight above 0"),
    ],
)
def test_what_is_no_fixed_weight_is_one_line(text, message):
    with pytest.raises(LossWeightingError, match=r"^loss_weights: ") as error:
        fixed_factors(text, TERMS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_of_two_terms_is_to_be_written_whole():
    with pytest.raises(LossWeightingError, match=r"segmentation/liver.*classification/liver"):
        fixed_factors("liver=1", ("segmentation/liver", "classification/liver"))
