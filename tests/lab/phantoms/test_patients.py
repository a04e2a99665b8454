"""Which cases and patients there are, and that what a patient has is spread evenly and independently."""

import numpy as np
import pytest

from nnunet_mtl.lab.phantoms.nested import NestedOptions
from nnunet_mtl.lab.phantoms.patients import Visit, plan_visits


def _patients(n, is_test=False, seed=0):
    return [Visit(seed, is_test, index, index) for index in range(n)]


def test_every_fourth_training_case_is_a_second_image_and_test_cases_have_patients_of_their_own():
    visits = plan_visits(NestedOptions(cases=9, test_cases=3))
    assert [visit.patient_index for visit in visits] == [0, 1, 2, 2, 3, 4, 5, 5, 6, 0, 1, 2]
    assert [visit.is_test for visit in visits] == [False] * 9 + [True] * 3
    assert len({visit.name for visit in visits}) == 12
    training, test = ({visit.patient for visit in visits if visit.is_test == is_test} for is_test in (False, True))
    assert not training & test


@pytest.mark.parametrize("sequence", range(5))
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_a_share_is_met_by_any_few_patients_in_a_row(sequence, share):
    chosen = [visit.is_among(share, sequence) for visit in _patients(60)]
    for start in (0, 17, 40):
        assert np.mean(chosen[start : start + 20]) == pytest.approx(share, abs=0.11)


def test_shares_of_one_sequence_are_nested_and_those_of_two_independent():
    patients = _patients(400)
    few, many = ([visit.is_among(share, 1) for visit in patients] for share in (0.3, 0.6))
    assert all(m for f, m in zip(few, many, strict=True) if f)
    for one in range(5):
        for other in range(one):
            both = np.mean([visit.is_among(0.5, one) and visit.is_among(0.5, other) for visit in patients])
            assert both == pytest.approx(0.25, abs=0.06), (one, other)


def test_random_numbers_are_the_patients_or_the_images_and_differ_between_all_others():
    first, second = Visit(0, False, 2, 2), Visit(0, False, 3, 2)
    assert first.patient_rng().random() == second.patient_rng().random()
    assert first.image_rng().random() != second.image_rng().random()
    others = [first, Visit(1, False, 2, 2), Visit(0, True, 2, 2), Visit(0, False, 4, 3)]
    assert len({visit.patient_rng().random() for visit in others}) == 4
    assert len({visit.image_rng().random() for visit in others} | {first.patient_rng().random()}) == 5


def test_another_seed_chooses_other_patients():
    chosen = {tuple(visit.is_among(0.5, 0) for visit in _patients(12, seed=seed)) for seed in range(6)}
    assert len(chosen) > 1
    assert [v.level(0) for v in _patients(3)] != [v.level(0) for v in _patients(3, is_test=True)]
