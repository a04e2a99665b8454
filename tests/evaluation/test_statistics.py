import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from nnunet_mtl.evaluation.statistics import (
    LEAST_PAIRS,
    Comparison,
    Estimate,
    aligned,
    bootstrap_interval,
    compare,
    corrected,
    estimate,
    holm,
)

SKEWED = np.random.default_rng(0).exponential(1.0, 40)
SLOW = settings(deadline=None, max_examples=10, derandomize=True)


# ---- intervals


def test_the_interval_of_a_mean_is_scipys_and_not_the_percentiles() -> None:
    found = estimate(SKEWED, n_resamples=500, seed=7)
    options: dict[str, Any] = {"n_resamples": 500, "vectorized": True}
    expected = [
        bootstrap((SKEWED,), np.mean, method=method, rng=np.random.default_rng(7), **options).confidence_interval
        for method in ("BCa", "percentile")
    ]
    assert (found.low, found.high) == pytest.approx(tuple(expected[0]))
    assert found.high != pytest.approx(expected[1].high)
    assert found.value == pytest.approx(SKEWED.mean())
    assert (found.n_cases, found.n_missing) == (40, 0)


@SLOW
@given(st.floats(-100, 100), st.sampled_from([0.5, 2.0]))
def test_an_interval_moves_and_stretches_with_the_values(shift: float, factor: float) -> None:
    plain, moved = (estimate(values, n_resamples=200) for values in (SKEWED, factor * SKEWED + shift))
    for one, other in zip((plain.value, plain.low, plain.high), (moved.value, moved.low, moved.high), strict=True):
        assert one is not None
        assert other == pytest.approx(factor * one + shift, abs=1e-9)


def test_missing_cases_are_counted_and_change_nothing() -> None:
    holes = np.insert(SKEWED, [0, 3, 40], np.nan)
    assert estimate(holes) == replace(estimate(SKEWED), n_missing=3)


def test_a_higher_confidence_is_a_wider_interval_and_any_statistic_will_do() -> None:
    wide, narrow = (estimate(SKEWED, np.median, confidence=level) for level in (0.99, 0.5))
    assert wide.value == narrow.value == np.median(SKEWED)
    assert wide.low < narrow.low < narrow.high < wide.high  # type: ignore[operator]


def test_without_spread_an_interval_has_no_width() -> None:
    assert estimate([0.5, 0.5, 0.5]) == Estimate(0.5, 0.5, 0.5, 3, 0)


def test_one_case_has_no_interval_and_none_has_no_value() -> None:
    assert estimate([0.5, np.nan]) == Estimate(0.5, None, None, 1, 1)
    assert estimate([np.nan]) == Estimate(None, None, None, 0, 1)
    assert estimate([]) == Estimate(None, None, None, 0, 0)


def test_infinities_and_tables_are_refused() -> None:
    for values in ([1.0, np.inf], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="values"):
            estimate(values)


def test_groups_are_drawn_among_themselves() -> None:
    sizes = set()

    def statistic(first: Any, second: Any) -> Any:
        sizes.add((first.shape[-1], second.shape[-1]))
        assert (first < 10).all()
        assert (second >= 10).all()
        return first.mean(-1) + second.mean(-1)

    assert bootstrap_interval([np.arange(5), np.arange(10, 13)], statistic, n_resamples=50) is not None
    assert sizes == {(5, 3), (4, 3), (5, 2)}  # and those of the jackknife, one case less
    assert bootstrap_interval([np.arange(5), np.arange(1)], statistic) is None


def test_several_statistics_have_the_intervals_that_each_has_alone() -> None:
    def both(sample: Any) -> Any:
        return np.stack([sample.mean(-1), np.full(sample.shape[:-1], 3.0)])

    together = bootstrap_interval([SKEWED], both, n_resamples=300)
    alone = estimate(SKEWED, n_resamples=300)
    assert together is not None
    assert [limit.tolist() for limit in together] == [[alone.low, 3.0], [alone.high, 3.0]]


def test_memory_is_bounded_without_changing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimate(SKEWED, n_resamples=100)
    monkeypatch.setattr("nnunet_mtl.evaluation.statistics._MOST_NUMBERS", 320)
    rows = set()

    def mean(sample: Any, axis: int) -> Any:
        rows.add(sample.size // 40 if sample.shape[-1] == 40 else 0)
        return sample.mean(axis)

    assert estimate(SKEWED, mean, n_resamples=100) == whole
    assert max(rows) == 8


# ---- comparisons


def test_six_pairs_by_hand() -> None:
    # all six in one direction: one of 2^6 signs, and its mirror image
    found = compare([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.0] * 6)
    assert found.p_value == pytest.approx(2 / 64)
    assert found.difference.value == pytest.approx(0.35)
    assert found.n_nonzero == 6
    assert found.p_holm is None
    json.dumps(found.to_mapping(), allow_nan=False)


def test_pairs_without_a_difference_say_nothing() -> None:
    first, second = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), np.zeros(6)
    padded = compare([*first, 0.7, 0.8], [*second, 0.7, 0.8])
    assert padded.n_nonzero == 6
    assert padded.p_value == compare(first, second).p_value
    assert padded.difference.n_cases == 8
    assert padded.difference.value == pytest.approx(2.1 / 8)


def test_equal_differences_are_equal_in_spite_of_rounding() -> None:
    ones, others = np.array([0.3, 0.44, 0.84, 1.1, 0.5, 0.8]), np.array([0.2, 0.34, 0.74, 1.0, 0.4, 0.9])
    assert len(set(np.abs(ones - others))) > 1
    # six equal ranks, five of them positive: so many or more are 7 of 2^6 signs
    assert compare(ones, others).p_value == pytest.approx(2 * 7 / 64)
    assert compare([0.1 + 0.2] * 6, [0.3] * 6).n_nonzero == 0


def test_too_few_pairs_have_a_difference_but_no_test() -> None:
    found = compare(np.arange(1.0, LEAST_PAIRS), np.zeros(LEAST_PAIRS - 1))
    assert found.p_value is None
    assert found.difference.value == 3.0
    assert compare([], []).difference == Estimate(None, None, None, 0, 0)


def test_only_cases_of_both_runs_count() -> None:
    first = [1.0, np.nan, 2.0, 3.0, np.nan]
    second = [0.0, 1.0, np.nan, 1.0, np.nan]
    assert compare(first, second).difference.value == 1.5
    assert (compare(first, second).difference.n_cases, compare(first, second).difference.n_missing) == (2, 3)


@SLOW
@given(st.integers(0, 10**6))
def test_swapping_the_runs_turns_the_difference_round(seed: int) -> None:
    first, second = np.random.default_rng(seed).normal([[0.3], [0.0]], 1, (2, 12))
    one, other = (compare(*pair, n_resamples=200) for pair in ((first, second), (second, first)))
    assert one.p_value == pytest.approx(other.p_value)
    assert one.difference.value == pytest.approx(-(other.difference.value or 0))
    assert one.difference.low == pytest.approx(-(other.difference.high or 0), abs=0.2)


def test_a_difference_is_surer_than_the_two_values() -> None:
    first = SKEWED + 0.1 + np.random.default_rng(1).normal(0, 0.05, 40)
    found = compare(first, SKEWED)
    assert found.difference.low > 0  # type: ignore[operator]
    assert found.p_value < 1e-6  # type: ignore[operator]
    assert estimate(first).low < estimate(SKEWED).high  # type: ignore[operator]


def test_other_cases_are_refused() -> None:
    for first, second in (([1.0], [1.0, 2.0]), ([np.inf], [0.0]), ([0.0], [-np.inf])):
        with pytest.raises(ValueError, match="same cases"):
            compare(first, second)


# ---- correction


def test_holm_by_hand() -> None:
    # in order: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 0.04, which may not fall below the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_test_that_was_not_made_does_not_count() -> None:
    assert holm([None, 0.02, None, 0.01]) == pytest.approx([None, 0.02, None, 0.02])
    assert holm([None]) == [None]


@SLOW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.randoms())
def test_a_correction_keeps_the_order_and_lies_between_none_and_bonferroni(values: list[float], rng: Any) -> None:
    adjusted = [value for value in holm(values) if value is not None]
    for value, corrected_value in zip(values, adjusted, strict=True):
        assert value <= corrected_value <= min(1.0, len(values) * value)
    assert [value for _, value in sorted(zip(values, adjusted, strict=True))] == sorted(adjusted)
    order = list(range(len(values)))
    rng.shuffle(order)
    assert holm([values[i] for i in order]) == [adjusted[i] for i in order]


def test_comparisons_are_corrected_together() -> None:
    nothing = Estimate(None, None, None, 0, 0)
    found = corrected({"dice": Comparison(nothing, 9, 0.02), "hd": Comparison(nothing, 3, None)})
    assert found["dice"].p_holm == 0.02
    assert found["hd"] == Comparison(nothing, 3, None)
    both = corrected({"dice": Comparison(nothing, 9, 0.02), "hd": Comparison(nothing, 9, 0.03)})
    assert [one.p_holm for one in both.values()] == [0.04, 0.04]


def test_runs_are_brought_to_the_same_cases() -> None:
    cases, values = aligned({"a": {"x": 1.0, "y": None}, "b": {"z": 2.0, "x": 3.0}})
    assert cases == ("x", "y", "z")
    np.testing.assert_array_equal(values, [[1.0, np.nan, np.nan], [3.0, np.nan, 2.0]])
    assert aligned({"a": {}, "b": {}})[1].shape == (2, 0)
