from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_mtl.lab.probe.folds import Folds

CASES = [f"case_{index}" for index in range(10)]


def five_folds() -> list[dict[str, list[str]]]:
    parts = [CASES[index::5] for index in range(5)]
    return [{"train": [case for case in CASES if case not in part], "val": part} for part in parts]


def folds(splits: Any = None, patients: Any = None) -> Folds:
    return Folds(five_folds() if splits is None else splits, {case: (patients or {}).get(case, case) for case in CASES})


def test_with_every_fold_each_case_is_described_by_the_network_that_did_not_see_it() -> None:
    of_all = folds()
    parts = of_all.parts(CASES, range(5))
    assert sorted(case for part in parts for case in part.predict) == CASES
    for part in parts:
        assert isinstance(part.network, int)
        assert list(part.predict) == five_folds()[part.network]["val"]
        assert sorted((*part.fit, *part.predict)) == CASES
        assert not any(of_all.seen(part.network, case) for case in part.predict)
        assert all(of_all.seen(part.network, case) for case in part.fit)


def test_with_one_fold_its_network_describes_all_and_the_rest_counts_as_seen() -> None:
    of_one = folds()
    parts = of_one.parts(CASES, [3])
    assert [part.network for part in parts] == [3] * 5
    assert sorted(case for part in parts for case in part.predict) == CASES
    unseen = [case for part in parts for case in part.predict if not of_one.seen(part.network, case)]
    assert unseen == five_folds()[3]["val"]
    assert all(set(part.fit).isdisjoint(part.predict) for part in parts)


@pytest.mark.parametrize("network", ["all", 5])
def test_what_such_a_network_was_trained_on_is_not_known_to_leave_anything_out(network: int | str) -> None:
    assert all(folds().seen(network, case) for case in CASES)
    assert len(folds().parts(CASES, [network])) == 5


def test_a_case_outside_both_parts_of_a_fold_is_unseen() -> None:
    splits = five_folds()
    splits[1]["train"].remove("case_0")
    assert not folds(splits).seen(1, "case_0")


def test_cases_of_a_patient_stay_on_one_side_whatever_the_folds_say() -> None:
    of_two = folds(patients={"case_0": "p", "case_1": "p"})  # in the validation parts of folds 0 and 1
    for part in of_two.parts(CASES, range(5)):
        both = {"case_0", "case_1"}
        assert not (both & set(part.fit) and both & set(part.predict))
    assert of_two.seen(0, "case_0")  # its network was trained on the patient's other image


def test_a_case_that_is_never_validated_is_only_fitted_on() -> None:
    splits = five_folds()
    splits[2]["val"].remove("case_7")
    parts = folds(splits).parts(CASES, range(5))
    assert "case_7" not in [case for part in parts for case in part.predict]
    assert all("case_7" in part.fit for part in parts)


def test_a_case_that_is_validated_twice_counts_once() -> None:
    splits = [*five_folds(), {"train": CASES[5:], "val": CASES[:5]}]
    predicted = [case for part in folds(splits).parts(CASES, range(6)) for case in part.predict]
    assert sorted(predicted) == CASES


def test_unlabelled_cases_are_neither_fitted_nor_predicted() -> None:
    parts = folds().parts(CASES[:6], range(5))
    assert {case for part in parts for case in (*part.fit, *part.predict)} == set(CASES[:6])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=10, max_size=10), st.lists(st.integers(0, 5), min_size=10, max_size=10))
def test_no_patient_is_ever_on_both_sides(fold_of: list[int], patient_of: list[int]) -> None:
    splits = [
        {
            "train": [case for case, home in zip(CASES, fold_of, strict=True) if home != fold],
            "val": [case for case, home in zip(CASES, fold_of, strict=True) if home == fold],
        }
        for fold in range(5)
    ]
    patients = dict(zip(CASES, patient_of, strict=True))
    parts = Folds(splits, patients).parts(CASES, range(5))
    for part in parts:
        assert part.fit
        assert {patients[case] for case in part.fit}.isdisjoint(patients[case] for case in part.predict)
    predicted = [case for part in parts for case in part.predict]
    assert len(predicted) == len(set(predicted))
