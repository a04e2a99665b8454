import dataclasses

import numpy as np
import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.lab.phantoms.anatomy import Leaf
from nnunet_mtl.lab.phantoms.organs_cases import (
    TASKS,
    PhantomError,
    PhantomOptions,
    disease_of,
    plan_cases,
    render,
)

TUMOURS = (Leaf.LIVER_TUMOUR, Leaf.PANCREAS_TUMOUR)


def _domains(coupling):
    options = PhantomOptions(cases_per_task=90, test_cases=90, domain_task_coupling=coupling)
    return np.array([(case.group, case.domain) for case in plan_cases(options)])


def _mutual_information(groups, domains):
    joint = np.zeros((groups.max() + 1, 3))
    np.add.at(joint, (groups, domains), 1 / groups.size)
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    return float((joint * np.log2(joint / expected, out=np.zeros_like(joint), where=joint > 0)).sum())


def test_the_coupling_sets_how_much_a_task_says_about_the_scanner():
    information = []
    for coupling in (0.0, 0.25, 0.5, 0.75, 1.0):
        table = _domains(coupling)
        training = table[table[:, 0] < len(TASKS)]
        information.append(_mutual_information(training[:, 0], training[:, 1]))
        test = table[table[:, 0] == len(TASKS), 1]
        assert (np.bincount(test) == 30).all()
    assert information == sorted(information)
    assert information[0] < 1e-9
    # Of five tasks two scanners have two each and one has one.
    assert information[-1] == pytest.approx(-(2 * 0.4 * np.log2(0.4) + 0.2 * np.log2(0.2)))


def test_a_case_is_the_same_however_many_others_there_are():
    few = PhantomOptions(cases_per_task=2, test_cases=1)
    many = dataclasses.replace(few, cases_per_task=9, test_cases=3)
    all_cases = {case.name: case for case in plan_cases(many)}
    for case in plan_cases(few):
        assert all_cases[case.name] == case
        assert disease_of(few, case) == disease_of(many, case)
    case = all_cases["vessel_001"]
    first, second = render(few, case), render(many, case)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.leaves, second.leaves)


def test_the_same_options_give_the_same_case_and_another_seed_another():
    case = next(plan_cases(PhantomOptions()))
    scans = [render(PhantomOptions(seed=seed), case) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(scans[0].image, scans[1].image)
    assert scans[0].spacing_mm == scans[1].spacing_mm
    assert (scans[0].leaves != scans[2].leaves).any()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_prevalence_and_malignant_share_are_met(share):
    options = PhantomOptions(cases_per_task=80, tumour_prevalence=share, malignant_share=share)
    diseases = [disease_of(options, case) for case in plan_cases(options) if case.group == 0]
    for count in (
        sum("liver" in disease.tumours for disease in diseases),
        sum("pancreas" in disease.tumours for disease in diseases),
        sum(disease.malignant for disease in diseases),
    ):
        assert count / len(diseases) == pytest.approx(share, abs=0.05)


def test_prevalence_decides_what_is_in_the_image():
    case = next(plan_cases(PhantomOptions()))
    for prevalence, expected in ((0.0, False), (1.0, True)):
        leaves = render(PhantomOptions(tumour_prevalence=prevalence), case).leaves
        assert [bool((leaves == tumour).any()) for tumour in TUMOURS] == [expected] * 2


def test_the_radius_sets_the_volume():
    case = next(plan_cases(PhantomOptions()))
    volumes = []
    for radius in (12.0, 24.0):
        options = PhantomOptions(tumour_prevalence=1.0, tumour_radius_mm=(radius, radius), malignant_share=0.0)
        scan = render(options, case)
        volumes.append((scan.leaves == Leaf.LIVER_TUMOUR).sum() * np.prod(scan.spacing_mm))
    assert 3 < volumes[1] / volumes[0] < 12


def test_a_second_scan_shows_the_same_patient_in_another_image():
    options = PhantomOptions(cases_per_task=8)
    cases = {case.name: case for case in plan_cases(options)}
    first, second = cases["spleen_002"], cases["spleen_003"]
    assert first.patient == second.patient != cases["spleen_004"].patient
    assert disease_of(options, first) == disease_of(options, second)
    volumes = []
    for case in (first, second):
        scan = render(options, case)
        volumes.append((scan.leaves == Leaf.SPLEEN).sum() * np.prod(scan.spacing_mm))
    assert volumes[0] == pytest.approx(volumes[1], rel=0.1)
    assert len({case.patient for case in cases.values() if case.is_test}) == options.test_cases


def test_slices_are_drawn_from_the_same_patients_and_show_most_of_the_anatomy():
    options = PhantomOptions(dimension=2, cases_per_task=3, test_cases=3)
    counts = np.array([np.bincount(render(options, case).leaves.ravel(), minlength=9) for case in plan_cases(options)])
    assert ((counts > 0).mean(axis=0)[[Leaf.LIVER, Leaf.KIDNEY_LEFT, Leaf.KIDNEY_RIGHT, Leaf.PANCREAS]] > 0.75).all()
    assert (counts > 0).mean(axis=0)[[Leaf.SPLEEN, Leaf.VESSEL, Leaf.LIVER_TUMOUR]].min() > 0.6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, r"seed=-1 must be at least 0"),
        ({"dimension": 4}, r"dimension=4 must be 2 or 3"),
        ({"image_size": (64, 64)}, r"image_size=\(64, 64\) must be 3 numbers"),
        ({"image_size": (8, 64, 64)}, r"at least 16 along each axis"),
        ({"cases_per_task": 0}, r"cases_per_task=0 must be at least 1"),
        ({"test_cases": -1}, r"test_cases=-1 must be at least 0"),
        ({"domain_task_coupling": 1.5}, r"domain_task_coupling=1.5 must be between 0 and 1"),
        ({"tumour_prevalence": -0.1}, r"tumour_prevalence=-0.1 must be between 0 and 1"),
        ({"malignant_share": float("nan")}, r"malignant_share=nan must be between 0 and 1"),
        ({"tumour_radius_mm": (30.0, 20.0)}, r"tumour_radius_mm=\(30.0, 20.0\) must be two lengths"),
        ({"contrast_to_noise": 0.0}, r"contrast_to_noise=0.0 must be positive"),
        ({"mimics": -1.0}, r"mimics=-1.0 must be between 0 and 20"),
        ({"test_malignant_share": 1.1}, r"test_malignant_share=1.1 must be between 0 and 1"),
        ({"class_domain_coupling": -0.1}, r"class_domain_coupling=-0.1 must be between 0 and 1"),
        ({"labelled_share": 2.0}, r"labelled_share=2.0 must be between 0 and 1"),
        ({"texture_contrast": -0.5}, r"texture_contrast=-0.5 must be between 0 and 1"),
        ({"malignant_cue": "size"}, r"malignant_cue='size' must be one of margin_and_texture, texture"),
        ({"tasks": ()}, r"tasks=\(\) must be different ones of liver, vessel, kidney, spleen, pancreas"),
        ({"tasks": ("liver", "lung")}, r"tasks=\('liver', 'lung'\) must be different ones"),
        ({"tasks": ("liver", "liver")}, r"tasks=\('liver', 'liver'\) must be different ones"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(PhantomError, match=message):
        PhantomOptions(**changes)
    assert issubclass(PhantomError, UserError)
