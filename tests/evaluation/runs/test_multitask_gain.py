import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_mtl.evaluation.runs.multitask_gain import GainError, multitask_gain

POSITIVE = st.floats(0.01, 100)


def test_dice_and_an_error_by_hand() -> None:
    # Dice rises by 0.04 / 0.80, the error falls by 0.1 / 2.0: both are 5 %
    found = multitask_gain({"dice": 0.84, "mae": 1.9}, {"dice": 0.80, "mae": 2.0}, lower_is_better={"mae"})
    assert found.of_metric == pytest.approx({"dice": 0.05, "mae": 0.05})
    assert found.delta == pytest.approx(0.05)
    assert json.loads(json.dumps(found.to_mapping()))["delta"] == found.delta


def test_a_loss_in_one_task_counts_against_a_gain_in_another() -> None:
    found = multitask_gain({"dice": 0.6, "auc": 0.9, "hd95": 12.0}, {"dice": 0.5, "auc": 1.0, "hd95": 10.0}, ["hd95"])
    assert found.delta == pytest.approx((0.2 - 0.1 - 0.2) / 3)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.lists(st.tuples(POSITIVE, POSITIVE, st.booleans()), min_size=1, max_size=4), POSITIVE)
def test_units_and_equal_runs_make_no_gain(pairs: list[tuple[float, float, bool]], unit: float) -> None:
    multi = {str(i): pair[0] for i, pair in enumerate(pairs)}
    single = {str(i): pair[1] for i, pair in enumerate(pairs)}
    lower = {str(i) for i, pair in enumerate(pairs) if pair[2]}
    found = multitask_gain(multi, single, lower)
    multi_rescaled, single_rescaled = ({name: unit * value for name, value in run.items()} for run in (multi, single))
    assert multitask_gain(multi_rescaled, single_rescaled, lower).delta == pytest.approx(found.delta, abs=1e-9)
    assert multitask_gain(single, single, lower).delta == 0
    flipped = multitask_gain(multi, single, set(multi) - lower)
    assert flipped.delta == pytest.approx(-found.delta)


def test_everything_that_is_wrong_is_named_at_once() -> None:
    multi = {"a": 1.0, "b": 1.0, "c": None, "d": 1.0, "e": float("inf"), "f": 1.0}
    single = {"a": 0.0, "b": None, "c": 1.0, "e": 1.0, "f": -0.5}
    with pytest.raises(GainError) as caught:
        multitask_gain(multi, single)
    message = str(caught.value)
    for part in (
        "a is 0 in the single-task run",
        "b is not available in the single-task run",
        "c is not available in the multi-task run",
        "d is not available in the single-task run",
        "e is not available in the multi-task run",
        "f is -0.5 in the single-task run",
    ):
        assert part in message
    assert message.count(";") == 6
    assert "\n" not in message


def test_no_metric_has_no_gain() -> None:
    with pytest.raises(GainError, match="no metric"):
        multitask_gain({}, {})
