import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_mtl.evaluation.runs.ranking import RankingError, rank_runs, rank_stability

RUNS = ("a", "b")
NAN = math.nan
FEW = settings(deadline=None, max_examples=20, derandomize=True)
# rows are runs, columns are cases; a is better in two of three cases, and much worse in the third
DISPUTED = [[0.9, 0.9, 0.1], [0.8, 0.8, 0.8]]

# ---- ranks


def test_the_two_orders_of_working_can_disagree() -> None:
    by_means = rank_runs(RUNS, {"dice": DISPUTED})
    assert by_means.ranks == {"a": 2, "b": 1}
    assert by_means.n_cases == {"dice": 3}
    by_cases = rank_runs(RUNS, {"dice": DISPUTED}, method="rank")
    assert by_cases.ranks == {"a": 1, "b": 2}
    assert by_cases.mean_ranks == pytest.approx({"a": 4 / 3, "b": 5 / 3})
    assert by_cases.of_metric["dice"] == by_cases.mean_ranks


@pytest.mark.parametrize("method", ["aggregate", "rank"])
def test_less_is_better_where_that_is_said(method: Any) -> None:
    more = rank_runs(RUNS, {"x": DISPUTED}, method=method)
    less = rank_runs(RUNS, {"x": DISPUTED}, ["x"], method=method)
    assert less.ranks == {run: 3 - rank for run, rank in more.ranks.items()}


def test_metrics_weigh_the_same() -> None:
    metrics = {"dice": [[0.9], [0.8], [0.7]], "hd": [[3.0], [2.0], [1.0]], "nsd": [[0.5], [0.9], [0.1]]}
    found = rank_runs(("a", "b", "c"), metrics, {"hd"})
    assert found.of_metric["hd"] == {"a": 3, "b": 2, "c": 1}
    assert found.mean_ranks == pytest.approx({"a": (1 + 3 + 2) / 3, "b": (2 + 2 + 1) / 3, "c": (3 + 1 + 3) / 3})
    assert found.ranks == {"a": 2, "b": 1, "c": 3}


@pytest.mark.parametrize("method", ["aggregate", "rank"])
def test_equal_runs_share_their_ranks(method: Any) -> None:
    values = np.random.default_rng(0).random((3, 17))
    values[2] = values[0]
    values[1] = 2.0
    ranks = rank_runs(("a", "b", "c"), {"dice": values}, method=method).ranks
    assert ranks == {"a": 2.5, "b": 1, "c": 2.5}
    assert rank_runs(RUNS, {"dice": np.zeros((2, 3))}, method=method).ranks == {"a": 1.5, "b": 1.5}


def test_means_that_differ_in_their_last_bit_are_equal() -> None:
    rng = np.random.default_rng(0)
    values = 1e5 * rng.random(41)
    shuffled = np.stack([rng.permutation(values) for _ in range(8)])
    assert len(set(shuffled @ np.ones(41))) > 1
    assert set(rank_runs("abcdefgh", {"volume": shuffled}).ranks.values()) == {4.5}


def test_a_missing_value_is_the_worst() -> None:
    table = [[0.9, NAN, 0.9], [0.5, 0.4, 0.6]]
    by_means = rank_runs(RUNS, {"dice": table})  # a counts 0.4 in the second case: the mean is still higher
    assert by_means.ranks == {"a": 1, "b": 2}
    assert rank_runs(RUNS, {"dice": [[0.6, NAN, 0.5], [0.5, 0.4, 0.6]]}).ranks == {"a": 1.5, "b": 1.5}
    by_cases = rank_runs(RUNS, {"dice": table}, method="rank")
    assert by_cases.mean_ranks == pytest.approx({"a": 4 / 3, "b": 5 / 3})
    distances = rank_runs(RUNS, {"hd": [[1.0, NAN], [1.0, 90.0]]}, ["hd"], method="rank")
    assert distances.mean_ranks == {"a": 1.75, "b": 1.25}  # behind the worst that is there
    assert rank_runs(RUNS, {"dice": [[NAN, NAN], [0.1, 0.2]]}).ranks == {"a": 2, "b": 1}


@pytest.mark.parametrize("method", ["aggregate", "rank"])
def test_a_missing_value_can_be_left_out(method: Any) -> None:
    table = [[0.9, NAN, 0.3], [0.5, 0.4, 0.6]]
    found = rank_runs(RUNS, {"dice": table}, method=method, missing="drop")
    assert found.n_cases == {"dice": 2}
    assert found.of_metric == rank_runs(RUNS, {"dice": np.array(table)[:, [0, 2]]}, method=method).of_metric


@pytest.mark.parametrize("method", ["aggregate", "rank"])
@pytest.mark.parametrize("missing", ["worst", "drop"])
def test_cases_that_nobody_has_do_not_count(method: Any, missing: Any) -> None:
    padded = np.insert(DISPUTED, [0, 2], NAN, axis=1)
    found = rank_runs(RUNS, {"dice": padded}, method=method, missing=missing)
    assert found == rank_runs(RUNS, {"dice": DISPUTED}, method=method, missing=missing)


@FEW
@given(st.integers(0, 10**6), st.sampled_from(["aggregate", "rank"]))
def test_neither_the_order_of_cases_nor_of_runs_matters(seed: int, method: Any) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice([0.1, 0.2, 0.5, NAN], (3, 6))
    values[0, 0] = 0.3
    found = rank_runs(("a", "b", "c"), {"x": values}, method=method)
    other = rank_runs(("c", "a", "b"), {"x": values[[2, 0, 1]][:, rng.permutation(6)]}, method=method)
    assert other.ranks == found.ranks
    assert sum(found.ranks.values()) == 6
    if method == "rank":  # and neither does the scale
        assert rank_runs(("a", "b", "c"), {"x": np.exp(9 * values)}, method=method).mean_ranks == found.mean_ranks


def test_a_ranking_can_be_stored() -> None:
    content = json.loads(json.dumps(rank_runs(RUNS, {"dice": DISPUTED}).to_mapping(), allow_nan=False))
    assert content["ranks"] == {"a": 2, "b": 1}
    assert (content["method"], content["missing"]) == ("aggregate", "worst")


# ---- stability


def test_two_cases_by_hand() -> None:
    # a wins unless only the second case is drawn, which happens to a quarter of the resamples
    found = rank_stability(RUNS, {"dice": [[0.8, 0.4], [0.5, 0.5]]}, n_resamples=4000)
    assert found is not None
    assert found.distribution["a"] == pytest.approx({1: 0.75, 2: 0.25}, abs=0.03)
    assert found.distribution["b"] == {3 - rank: share for rank, share in found.distribution["a"].items()}
    assert found.kendall_tau == pytest.approx(0.75 - 0.25, abs=0.06)
    assert (found.tau_low, found.tau_high) == (-1, 1)
    assert (found.n_resamples, found.n_tau) == (4000, 4000)


@pytest.mark.parametrize("method", ["aggregate", "rank"])
def test_a_run_that_is_better_everywhere_stays_first(method: Any) -> None:
    values = np.random.default_rng(0).random((3, 10)) + np.array([[4], [2], [0]])
    found = rank_stability(("a", "b", "c"), {"x": values}, method=method, n_resamples=100)
    assert found is not None
    assert found.distribution == {"a": {1: 1}, "b": {2: 1}, "c": {3: 1}}
    assert (found.kendall_tau, found.tau_low, found.tau_high) == (1, 1, 1)


def test_more_cases_make_a_ranking_stabler() -> None:
    values = np.random.default_rng(1).normal([[0.5], [0.25], [0.0]], 1, (3, 400))
    taus = []
    for n in (10, 400):
        found = rank_stability(("a", "b", "c"), {"x": values[:, :n]}, n_resamples=200)
        assert found is not None
        taus.append(found.kendall_tau)
    assert taus[0] < taus[1]  # type: ignore[operator]


def test_equal_runs_have_no_order_to_keep() -> None:
    found = rank_stability(RUNS, {"dice": [[0.5, 0.6], [0.5, 0.6]]}, n_resamples=50)
    assert found is not None
    assert found.distribution == {"a": {1.5: 1}, "b": {1.5: 1}}
    assert (found.kendall_tau, found.tau_low, found.tau_high, found.n_tau) == (None, None, None, 0)
    assert json.loads(json.dumps(found.to_mapping(), allow_nan=False))["distribution"]["a"] == {"1.5": 1.0}


def test_resamples_without_a_metric_rest_on_the_others() -> None:
    dice, hd = [[0.9, 0.9], [0.1, 0.1]], [[NAN, 5.0], [NAN, 1.0]]
    found = rank_stability(RUNS, {"dice": dice, "hd": hd}, ["hd"], n_resamples=2000)
    assert found is not None
    # a tie of both metrics, unless only the first case is drawn, in which there is only one
    assert found.distribution["a"] == pytest.approx({1: 0.25, 1.5: 0.75}, abs=0.03)
    alone = rank_stability(RUNS, {"hd": hd}, ["hd"], n_resamples=2000)
    assert alone is not None
    assert alone.n_resamples == pytest.approx(1500, abs=60)
    assert alone.distribution == {"a": {2: 1}, "b": {1: 1}}


def test_a_single_case_cannot_be_drawn_again() -> None:
    assert rank_stability(RUNS, {"dice": [[0.5], [0.6]]}) is None


def test_a_seed_gives_one_answer() -> None:
    one, same, other = (rank_stability(RUNS, {"x": DISPUTED}, n_resamples=99, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


# ---- refusals


@pytest.mark.parametrize(
    ("runs", "metrics", "pattern"),
    [
        (("a",), {"dice": [[1.0]]}, "at least two runs of different names, not a"),
        ((), {"dice": np.zeros((0, 1))}, "not none"),
        (("a", "a"), {"dice": [[1.0], [2.0]]}, "different names"),
        (RUNS, {}, "no metric"),
        (RUNS, {"dice": [[1.0], [2.0]], "hd": [[NAN], [NAN]]}, "no case has a value of hd in any run"),
    ],
)
def test_what_cannot_be_ranked_is_refused(runs: Any, metrics: Any, pattern: str) -> None:
    with pytest.raises(RankingError, match=pattern):
        rank_runs(runs, metrics)
    with pytest.raises(RankingError, match=pattern):
        rank_stability(runs, metrics)


def test_nothing_left_after_dropping_is_refused() -> None:
    with pytest.raises(RankingError, match="value of dice in every run"):
        rank_runs(RUNS, {"dice": [[NAN, 1.0], [1.0, NAN]]}, missing="drop")


@pytest.mark.parametrize("table", [[[1.0]], [1.0, 2.0], [[1.0, np.inf], [1.0, 2.0]]])
def test_tables_that_do_not_fit_are_refused(table: Any) -> None:
    with pytest.raises(ValueError, match="dice: must be"):
        rank_runs(RUNS, {"dice": table})


def test_unknown_options_are_refused() -> None:
    for options in ({"method": "median"}, {"missing": "zero"}):
        with pytest.raises(ValueError, match="method and missing"):
            rank_runs(RUNS, {"dice": DISPUTED}, **options)  # type: ignore[arg-type]
