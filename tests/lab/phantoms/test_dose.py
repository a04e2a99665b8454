import dataclasses

import numpy as np
import pytest

from nnunet_mtl.lab.phantoms.dose import (
    FALLOFF_MM,
    GUARD_MM,
    SPARING,
    DoseLeaf,
    DoseOptions,
    dose_of,
    plan_dose_cases,
    render_dose_case,
)
from nnunet_mtl.lab.phantoms.organs_cases import PhantomError

SMALL = {2: (32, 32), 3: (16, 24, 24)}


def options(dimension=2, **changes):
    return DoseOptions(dimension=dimension, image_size=SMALL[dimension], **changes)


def test_that_the_dose_is_the_formula_of_the_distances():
    leaves = np.full((1, 7), DoseLeaf.BODY, dtype=np.uint8)
    leaves[0, 0], leaves[0, 1], leaves[0, 6] = DoseLeaf.OUTSIDE, DoseLeaf.TARGET, DoseLeaf.KIDNEYS
    dose = dose_of(leaves, (10.0, 1.0), 60.0)
    assert dose.dtype == np.float32
    assert dose[0, 0] == 0
    assert dose[0, 1] == 60
    # three voxels of 10 mm from the target, two from the kidney
    falling = 1 / (1 + (30 / FALLOFF_MM) ** 2)
    assert falling == 0.5
    near = np.exp(-((20 / GUARD_MM) ** 2))
    assert dose[0, 4] == pytest.approx(60 * falling * (1 - SPARING * (1 - falling) * near))


def test_that_without_organs_nothing_is_spared_and_without_target_there_is_no_dose():
    leaves = np.full((1, 5), DoseLeaf.BODY, dtype=np.uint8)
    assert not dose_of(leaves, (1.0, 1.0), 60.0).any()
    leaves[0, 0] = DoseLeaf.TARGET
    assert dose_of(leaves, (15.0, 1.0), 60.0)[0, 2] == pytest.approx(30)


def test_that_distances_are_in_mm_along_every_axis():
    leaves = np.full((3, 3), DoseLeaf.BODY, dtype=np.uint8)
    leaves[0, 0] = DoseLeaf.TARGET
    dose = dose_of(leaves, (30.0, 15.0), 60.0)  # x first: columns are 30 mm apart, rows 15
    assert dose[0, 1] == pytest.approx(30)
    assert dose[2, 0] == pytest.approx(30)
    assert dose[1, 0] == pytest.approx(60 / 1.25)


@pytest.mark.parametrize("dimension", [2, 3])
def test_that_a_case_has_every_structure_and_a_dose_inside_the_body_only(dimension):
    case = plan_dose_cases(options(dimension))[0]
    scan, dose = render_dose_case(options(dimension), case)
    assert scan.image.shape == scan.leaves.shape == dose.shape
    assert set(np.unique(scan.leaves)) == set(DoseLeaf)
    assert (dose[scan.leaves == DoseLeaf.OUTSIDE] == 0).all()
    assert (dose[scan.leaves == DoseLeaf.TARGET] == 60).all()
    assert (dose[scan.leaves == DoseLeaf.BODY] > 0).all()


def test_that_the_same_options_give_the_same_case_and_another_seed_another_one():
    case = plan_dose_cases(options())[1]
    (scan, dose), (again, dose_again) = (render_dose_case(options(), case) for _ in range(2))
    assert np.array_equal(scan.image, again.image)
    assert np.array_equal(dose, dose_again)
    assert not np.array_equal(dose, render_dose_case(options(seed=1), case)[1])
    test_case = dataclasses.replace(case, is_test=True)
    assert not np.array_equal(dose, render_dose_case(options(), test_case)[1])


def test_that_what_is_missing_is_spread_over_the_training_cases():
    cases = plan_dose_cases(options(cases=8, test_cases=2, without_dose=0.25, without_organs=0.25))
    training, tests = cases[:8], cases[8:]
    assert [case.has_dose for case in training].count(False) == 2
    assert [case.has_organs for case in training].count(False) == 2
    assert all(case.has_dose or case.has_organs for case in training)
    assert all(case.has_dose and case.has_organs and case.is_test for case in tests)
    assert all(case.has_dose and case.has_organs for case in plan_dose_cases(options(without_dose=0, without_organs=0)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"dimension": 4}, "dimension=4"),
        ({"image_size": (32, 32, 32)}, "image_size"),
        ({"image_size": (32, 8)}, "image_size"),
        ({"cases": 0}, "cases=0"),
        ({"test_cases": -1}, "test_cases=-1"),
        ({"prescription_gy": 0}, "prescription_gy=0"),
        ({"without_dose": 1}, "without_dose=1"),
        ({"without_organs": -0.1}, "without_organs"),
        ({"target_radius_mm": (30, 20)}, "target_radius_mm"),
        ({"contrast_to_noise": 0}, "contrast_to_noise=0"),
    ],
)
def test_that_an_option_out_of_range_is_refused(changes, text):
    with pytest.raises(PhantomError, match=text):
        DoseOptions(**{"dimension": 2, **changes})
