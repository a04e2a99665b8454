import pytest

from nnunet_mtl.training.omnet.curriculum import AllAtOnce, Curriculum


def test_tasks_begin_from_coarse_to_fine_and_rise_to_one() -> None:
    curriculum = Curriculum((0, 1, 2), 30, start=1 / 3, end=2 / 3, ramp=5)
    assert curriculum.begins == (0, 10, 20)
    assert curriculum.weights(0) == curriculum.weights(9) == (1, 0, 0)
    assert [curriculum.weights(epoch)[1] for epoch in range(10, 16)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert curriculum.weights(19) == (1, 1, 0)
    assert curriculum.weights(20) == pytest.approx((1, 1, 0.2))
    assert curriculum.weights(24) == curriculum.weights(29) == (1, 1, 1)


def test_levels_between_begin_at_equal_distances_and_siblings_together() -> None:
    curriculum = Curriculum((1, 3, 0, 2, 1), 100, start=0.2, end=0.6, ramp=1)
    assert curriculum.begins == (20, 60, 0, 40, 20)
    assert curriculum.weights(20) == (1, 0, 1, 0, 1)


def test_one_level_begins_at_the_start() -> None:
    assert Curriculum((0, 1), 10, start=0.5, end=0.9, ramp=0).begins == (0, 5)


@pytest.mark.parametrize("ramp", [0, 1])
def test_without_a_ramp_a_task_begins_with_its_full_weight(ramp: int) -> None:
    curriculum = Curriculum((0, 1), 10, start=0.5, end=0.5, ramp=ramp)
    assert [curriculum.weights(epoch)[1] for epoch in (4, 5)] == [0, 1]


def test_tasks_that_are_all_outermost_have_nothing_to_wait_for() -> None:
    assert Curriculum((0, 0), 10, start=0.5, end=0.9, ramp=5).weights(0) == (1, 1)


def test_a_short_run_ends_with_every_task_at_its_full_weight() -> None:
    curriculum = Curriculum((0, 1, 2), 4, start=0.33, end=0.67, ramp=5)
    assert curriculum.begins == (0, 1, 3)
    assert [curriculum.weights(epoch)[1] for epoch in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert [curriculum.weights(epoch)[2] for epoch in range(4)] == [0, 0, 0, 1]
    assert Curriculum((0, 1), 4, start=1.0, end=1.0, ramp=5).weights(3) == (1, 0)  # as asked: never


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_shortest_runs_teach_every_task(epochs: int) -> None:
    assert Curriculum((0, 1, 2), epochs, start=0.33, end=0.67, ramp=5).weights(epochs - 1) == (1, 1, 1)


def test_what_begins_with_the_run_has_no_ramp() -> None:
    assert Curriculum((0, 1), 10, start=0.0, end=0.5, ramp=5).weights(0) == (1, 1)


def test_off_is_every_task_from_the_first_epoch() -> None:
    assert AllAtOnce(3).weights(0) == (1, 1, 1)
