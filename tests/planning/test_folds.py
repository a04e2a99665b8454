import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.planning.folds import assign_folds

REGIONS = ("liver", "kidney", "spleen")
ROWS = st.tuples(st.booleans(), st.booleans(), st.booleans())
CASES = st.lists(st.tuples(ROWS, st.integers(0, 6)), min_size=2, max_size=20)


def covers(annotated, folds, n_folds):
    return all(annotated[folds == fold].any(0).all() for fold in range(n_folds))


def attempt(annotated, patients, n_folds):
    try:
        return assign_folds(annotated, patients, REGIONS, n_folds, 0), ""
    except UserError as error:
        return None, str(error)


def exists(annotated, groups, n_folds):
    """By trying every assignment of patients to folds."""
    names = sorted(set(groups))
    return any(
        covers(annotated, np.array([folds[names.index(group)] for group in groups]), n_folds)
        for folds in itertools.product(range(n_folds), repeat=len(names))
    )


@settings(deadline=None, max_examples=40)
@given(CASES, st.integers(2, 3))
def test_folds_cover_and_group_wherever_that_is_possible(cases, n_folds):
    annotated = np.array([row for row, _ in cases])
    patients = [f"P{patient}" for _, patient in cases]
    folds, refusal = attempt(annotated, patients, n_folds)
    if folds is None:
        assert "\n" not in refusal
        assert not exists(annotated, patients, n_folds)
        return
    assert covers(annotated, folds, n_folds)
    assert set(folds) == set(range(n_folds))
    for patient in set(patients):
        assert len({fold for fold, name in zip(folds, patients, strict=True) if name == patient}) == 1


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 2), min_size=30, max_size=60), st.integers(0, 5))
def test_single_task_cases_are_spread_evenly(tasks, seed):
    annotated = np.eye(3, dtype=bool)[tasks]
    totals = annotated.sum(0)
    if totals.min() < 5:
        return
    folds = assign_folds(annotated, [f"P{i}" for i in range(len(tasks))], REGIONS, 5, seed)
    for fold in range(5):
        assert (np.abs(annotated[folds == fold].sum(0) - totals / 5) <= 1).all()


def test_same_seed_same_folds_and_another_seed_others():
    annotated = np.eye(3, dtype=bool)[np.arange(45) % 3]
    patients = [f"P{i}" for i in range(45)]
    first = assign_folds(annotated, patients, REGIONS, 5, 1)
    assert np.array_equal(first, assign_folds(annotated, patients, REGIONS, 5, 1))
    assert not np.array_equal(first, assign_folds(annotated, patients, REGIONS, 5, 100))


def test_an_assignment_that_draws_miss_is_found():
    # Two folds, and forty regions of two patients each, one on either side: hardly any other division has them all.
    rng = np.random.default_rng(2)
    side = np.array([0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0])
    annotated = np.zeros((12, 40), dtype=bool)
    for region in range(40):
        annotated[rng.choice(np.flatnonzero(side == 0)), region] = True
        annotated[rng.choice(np.flatnonzero(side == 1)), region] = True
    regions = [f"r{i}" for i in range(40)]
    folds = assign_folds(annotated, [f"P{i:02}" for i in range(12)], regions, 2, 0)
    assert covers(annotated, folds, 2)


def test_region_in_too_few_patients_is_named_with_the_remedy():
    annotated = np.eye(3, dtype=bool)[[0] * 6 + [1] * 6 + [2] * 9]
    patients = [f"P{i}" for i in range(12)] + [f"Q{i // 3}" for i in range(9)]
    with pytest.raises(UserError, match=r"5 folds need 5 patients .*, there are 3 for 'spleen'; use at most 3 folds"):
        assign_folds(annotated, patients, REGIONS, 5, 0)
    assert covers(annotated, assign_folds(annotated, patients, REGIONS, 3, 0), 3)


def test_region_in_one_patient_cannot_be_helped_by_fewer_folds():
    annotated = np.eye(3, dtype=bool)[[0] * 6 + [1] * 6 + [2]]
    with pytest.raises(UserError, match=r"there are 1 for 'spleen'; annotate more$"):
        assign_folds(annotated, [f"P{i}" for i in range(13)], REGIONS, 2, 0)


def test_enough_patients_and_still_no_assignment_is_said():
    # Every two of three patients share a region, so any two folds leave one out.
    annotated = [[True, True, False], [False, True, True], [True, False, True]]
    with pytest.raises(UserError, match=r"found no assignment of 3 patients .* leaves out '(liver|kidney|spleen)'"):
        assign_folds(annotated, ["a", "b", "c"], REGIONS, 2, 0)


@pytest.mark.parametrize("n_folds", [-1, 0, 1, 4])
def test_number_of_folds_is_bounded_by_patients(n_folds):
    with pytest.raises(UserError, match=f"{n_folds} folds: there must be at least 2, and no more than the 3 patients"):
        assign_folds(np.ones((6, 3), dtype=bool), ["a", "a", "b", "b", "c", "c"], REGIONS, n_folds, 0)
