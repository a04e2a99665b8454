"""What tells malignant from benign in the phantoms, and of which cases the class is known."""

import dataclasses
import itertools
import json
import zlib

import numpy as np
import pytest
import SimpleITK
from lesion_features import lesion_features

from nnunet_mtl.cli import main
from nnunet_mtl.lab.phantoms.anatomy import Leaf
from nnunet_mtl.lab.phantoms.organs_cases import TASKS, PhantomOptions, class_of, disease_of, plan_cases, render
from nnunet_mtl.lab.phantoms.organs_dataset import write_phantom_dataset
from nnunet_mtl.tasks import TaskSet, read_dataset_json

TEXTURE = PhantomOptions(malignant_cue="texture", tumour_prevalence=1.0, tasks=("liver",), test_cases=30)
IMBALANCED = dataclasses.replace(TEXTURE, cases_per_task=100, test_cases=60, malignant_share=0.2)
SMALL = {"dimension": 2, "image_size": (48, 56), "cases_per_task": 3, "test_cases": 2, "tumour_prevalence": 1.0}


def _training(options):
    return [case for case in plan_cases(options) if not case.is_test]


def _test(options):
    return [case for case in plan_cases(options) if case.is_test]


def _write(folder, **options):
    write_phantom_dataset(folder, PhantomOptions(**SMALL | options), lambda _: None)
    paths = folder / "dataset.json", folder / "labelsTs.json"
    return [TaskSet.from_dataset_json(read_dataset_json(path)) for path in paths]


def _leaves(folder, part, name):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / f"labels{part}" / f"{name}.nii.gz")))


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        (PhantomOptions(), "liver_001", -130340.4),
        (PhantomOptions(tumour_prevalence=1.0), "liver_000", -216440.0),
        (PhantomOptions(dimension=2), "test_005", -33044.8),
    ],
)
def test_without_the_options_for_classes_images_and_labels_are_what_they_were_before_these_existed(
    options, name, expected
):
    scan = render(options, next(case for case in plan_cases(options) if case.name == name))
    values = np.concatenate([scan.image.ravel(), 1000.0 * scan.leaves.ravel()])
    # A sum that a voxel rounded the other way on another processor leaves alone, and any other random number does not.
    assert np.cos(np.arange(values.size)) @ values == pytest.approx(expected, abs=10)


def test_without_the_options_for_classes_the_plan_is_what_it_was_before_these_existed():
    options = PhantomOptions()
    diseases = [(case, disease_of(options, case)) for case in plan_cases(options)]
    plan = [(c.name, c.patient, c.domain, sorted(d.tumours.items()), d.malignant) for c, d in diseases]
    assert zlib.crc32(repr(plan).encode()) == 823269738
    known = {case.name for case in plan_cases(options) if class_of(options, case)}
    assert known == {case.name for case in plan_cases(options) if "liver" in case.annotated}


@pytest.fixture(scope="module")
def pairs():
    """The same patients with benign and with malignant tumours, in one scanner each."""
    cases = [next(case for case in _test(TEXTURE) if case.domain == domain) for domain in range(3)]
    kinds = [dataclasses.replace(TEXTURE, malignant_share=share) for share in (0.0, 1.0)]
    return [[render(options, case) for options in kinds] for case in cases]


def test_where_texture_is_the_cue_shape_place_and_mean_do_not_tell(pairs):
    for benign, malignant in pairs:
        np.testing.assert_array_equal(benign.leaves, malignant.leaves)
        tumour = benign.leaves == Leaf.LIVER_TUMOUR
        assert tumour.mean() < 0.02
        # What is left of the contrast's mean, which is equal, is what the blur carries over the margin.
        assert abs(benign.image[tumour].mean() - malignant.image[tumour].mean()) < 5
        assert (benign.image[tumour] != malignant.image[tumour]).mean() > 0.9


def test_where_texture_is_the_cue_the_rest_of_the_image_does_not_tell(pairs):
    for benign, malignant in pairs:
        tumours = np.isin(benign.leaves, (Leaf.LIVER_TUMOUR, Leaf.PANCREAS_TUMOUR))
        changed = np.argwhere((benign.image != malignant.image) & ~tumours)
        box = np.argwhere(tumours)
        assert (changed >= box.min(axis=0) - 3).all()
        assert (changed <= box.max(axis=0) + 3).all()


def test_without_texture_nothing_tells():
    case = _test(TEXTURE)[0]
    kinds = [dataclasses.replace(TEXTURE, malignant_share=share, texture_contrast=0.0) for share in (0.0, 1.0)]
    benign, malignant = (render(options, case).image for options in kinds)
    np.testing.assert_array_equal(benign, malignant)


@pytest.fixture(scope="module")
def lesions():
    """Features of the liver tumours of the test cases, by class."""
    by_class = {True: [], False: []}
    for case in _test(TEXTURE):
        scan = render(TEXTURE, case)
        features = lesion_features(scan.image, scan.leaves == Leaf.LIVER_TUMOUR, scan.spacing_mm[::-1])
        by_class[disease_of(TEXTURE, case).malignant].append(features)
    return by_class


def _auc(lesions, value):
    """Probability that a malignant lesion has the higher value than a benign one."""
    malignant, benign = ([value(features) for features in lesions[kind]] for kind in (True, False))
    assert min(len(malignant), len(benign)) > 10
    return float(np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(malignant, benign)]))


def test_where_texture_is_the_cue_its_scale_tells_and_its_deviation_does_not(lesions):
    assert _auc(lesions, lambda features: features["band_1"] / features["band_2"]) > 0.97
    assert 0.25 < _auc(lesions, lambda features: features["deviation"]) < 0.75


def test_the_share_of_malignant_is_met_in_training_and_another_one_in_test():
    for seed in range(5):
        options = dataclasses.replace(IMBALANCED, seed=seed, test_malignant_share=0.5)
        patients = {case.patient: disease_of(options, case).malignant for case in _training(options)}
        assert sum(patients.values()) == pytest.approx(0.2 * len(patients), abs=1.5)
        assert sum(disease_of(options, case).malignant for case in _test(options)) == pytest.approx(30, abs=1.5)
        same = dataclasses.replace(IMBALANCED, seed=seed)
        assert sum(disease_of(same, case).malignant for case in _test(same)) == pytest.approx(12, abs=1.5)


def test_the_share_of_labels_is_met_patient_by_patient_and_whatever_the_class():
    for share in (0.0, 0.3, 0.7, 1.0):
        options = dataclasses.replace(IMBALANCED, malignant_share=0.5, labelled_share=share)
        cases = _training(options)
        known = [case for case in cases if class_of(options, case)]
        assert len(known) == pytest.approx(share * len(cases), abs=4)
        malignant = sum(class_of(options, case) == "malignant" for case in known)
        assert malignant == pytest.approx(len(known) / 2, abs=6)
        for case in known:
            assert (class_of(options, case) == "malignant") == disease_of(options, case).malignant
        unknown = {case.patient for case in cases} - {case.patient for case in known}
        assert len(unknown) + len({case.patient for case in known}) == len({case.patient for case in cases})
        assert {case.patient for case in cases if not class_of(options, case)} == unknown
        assert all(class_of(options, case) for case in _test(options))


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_class_may_be_known_where_the_liver_is_not_annotated(everywhere, tmp_path):
    tasks, oracle = _write(tmp_path / "Dataset900_Phantom", label_all_tasks=everywhere)
    for name, case in tasks.cases.items():
        truth = render(PhantomOptions(**SMALL), next(c for c in plan_cases(PhantomOptions(**SMALL)) if c.name == name))
        may_be_known = everywhere or case.annotated == ("liver",)
        assert ("malignancy" in case.classes) == (may_be_known and bool((truth.leaves == Leaf.LIVER_TUMOUR).any()))
        if case.annotated != ("liver",):
            assert not (_leaves(tmp_path / "Dataset900_Phantom", "Tr", name) == Leaf.LIVER_TUMOUR).any()
    assert sum("malignancy" in case.classes for case in oracle.cases.values()) == 2


def test_class_and_scanner_go_together_in_training_only():
    agreements = []
    for coupling in (0.0, 0.5, 1.0):
        options = dataclasses.replace(IMBALANCED, malignant_share=0.5, class_domain_coupling=coupling)
        cases = _training(options)
        first = np.array([case.domain == 0 for case in cases])
        agreements.append(float((first == [disease_of(options, case).malignant for case in cases]).mean()))
        assert {case.domain for case in cases} == {0, 1, 2}
        assert _test(options) == _test(IMBALANCED)
    assert agreements == sorted(agreements)
    assert agreements[0] < 0.65 < agreements[1] < 0.9 < agreements[2] == 1


def test_who_has_no_liver_tumour_has_no_scanner_of_its_class():
    options = [dataclasses.replace(IMBALANCED, tumour_prevalence=0.0, class_domain_coupling=c) for c in (0.0, 1.0)]
    assert _training(options[0]) == _training(options[1])


@pytest.mark.parametrize("chosen", [("liver",), ("pancreas", "kidney"), ("spleen",), ("vessel", "liver")])
def test_some_tasks_are_a_data_set_of_the_same_cases(chosen, tmp_path):
    folder = tmp_path / "Dataset900_Phantom"
    tasks, oracle = _write(folder, tasks=chosen, label_all_tasks=True)
    everything = {case.name: case for case in plan_cases(PhantomOptions(**SMALL))}
    assert [task.name for task in tasks.tasks] == [task for task in TASKS if task in chosen]
    assert {case.annotated for case in tasks.cases.values()} == {(task,) for task in chosen}
    assert all(all(oracle.annotated(name)) for name in oracle.cases)
    masks = {"liver": (1, 2, 3), "vessel": (2,), "liver_tumour": (3,), "kidney_left": (4,), "kidney_right": (5,)}
    masks |= {"spleen": (6,), "pancreas": (7, 8), "pancreas_tumour": (8,)}
    for part, table in (("Tr", tasks), ("Ts", oracle)):
        for name in table.cases:
            truth, written = render(PhantomOptions(**SMALL), everything[name]), _leaves(folder, part, name)
            image = SimpleITK.ReadImage(str(folder / f"images{part}" / f"{name}_0000.nii.gz"))
            np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), truth.image)
            table.check_leaves(name, np.unique(written).tolist())
            for index, region in enumerate(table.regions):
                if table.annotated(name)[index]:
                    expected = np.isin(truth.leaves, masks[region])
                    np.testing.assert_array_equal(np.isin(written, table.region_labels[index]), expected)
    evidence = tasks.classification[0].evidence
    assert evidence == ("liver_tumour" if "liver" in chosen else None)


def test_every_option_can_be_given_on_the_command_line(capsys, tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        main(["phantom", "--help"])
    text = capsys.readouterr().out
    assert [f.name for f in dataclasses.fields(PhantomOptions) if f"--{f.name} " not in text.replace("]", " ")] == []
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    words = ["--dimension", "2", "--image_size", "32", "32", "--cases_per_task", "2", "--test_cases", "1"]
    words += ["--tasks", "spleen", "liver", "--malignant_cue", "texture", "--label_all_tasks"]
    words += ["--tumour_prevalence", "1", "--malignant_share", "0", "--test_malignant_share", "1"]
    assert main(["phantom", "-d", "7", *words]) == 0
    folder = tmp_path / "Dataset007_Phantom"
    for path, known in (("dataset.json", ["benign"] * 4), ("labelsTs.json", ["malignant"])):
        cases = json.loads((folder / path).read_text())["nnunet_mtl"]["cases"]
        assert [case["classes"]["malignancy"] for case in cases.values() if "classes" in case] == known
    assert main(["phantom", "-d", "8", "--malignant_cue", "colour"]) == 2
    assert "malignant_cue='colour' must be one of margin_and_texture, texture" in capsys.readouterr().err
