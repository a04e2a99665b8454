"""What tells the node status in the gastric phantoms, and above all what does not."""

import dataclasses

import numpy as np
import pytest
import SimpleITK
from lesion_features import lesion_features
from scipy.ndimage import binary_dilation

from nnunet_mtl.lab.phantoms.gastric import GastricOptions, render, write_gastric_dataset
from nnunet_mtl.lab.phantoms.options import PhantomError
from nnunet_mtl.lab.phantoms.patients import plan_visits
from nnunet_mtl.tasks import TaskSet, read_dataset_json

FLAT = GastricOptions(cases=80, test_cases=0, dimension=2)
SMALL = {
    3: GastricOptions(cases=4, test_cases=1, image_size=(16, 24, 24)),
    2: GastricOptions(cases=4, test_cases=2, dimension=2, image_size=(32, 32)),
}


def _auc(values, positive):
    values, positive = np.asarray(values), np.asarray(positive)
    higher = np.sign(values[positive][:, None] - values[~positive]) + 1
    return float(higher.mean() / 2)


def _firsts(options):
    """One image of each patient."""
    return list({visit.patient: visit for visit in plan_visits(options)}.values())


@pytest.fixture(scope="module")
def pairs():
    """The same patients with negative and with positive nodes: three volumes, six slices."""
    volumes = GastricOptions(cases=3, test_cases=0, image_size=(32, 48, 48))
    scans = []
    for options, number in ((volumes, 3), (FLAT, 6)):
        for visit in _firsts(options)[:number]:
            kinds = [dataclasses.replace(options, positive_share=share) for share in (0.0, 1.0)]
            scans.append([render(kind, visit) for kind in kinds])
    return scans


def test_the_same_patient_has_the_same_tumour_and_the_same_image_of_it_whatever_the_status(pairs):
    for negative, positive in pairs:
        assert (negative.positive, positive.positive) == (False, True)
        np.testing.assert_array_equal(negative.tumour, positive.tumour)
        # Nor does the blur carry anything over: nodes keep their distance.
        np.testing.assert_array_equal(negative.image[negative.tumour], positive.image[negative.tumour])


def test_nothing_but_the_nodes_differs(pairs):
    for negative, positive in pairs:
        changed = negative.image != positive.image
        nodes = binary_dilation(negative.nodes | positive.nodes, iterations=4)
        assert changed.any()
        assert not changed[~nodes].any()


def test_nodes_and_tumour_are_apart_and_both_there(pairs):
    for pair in pairs:
        for scan in pair:
            assert scan.tumour.sum() > 20
            assert scan.nodes.any()
            assert not (binary_dilation(scan.tumour) & scan.nodes).any()


@pytest.fixture(scope="module")
def patients():
    """One slice of each of 72 patients of eight seeds, and their status."""
    seeds = [dataclasses.replace(FLAT, cases=12, seed=seed) for seed in range(8)]
    scans = [render(options, visit) for options in seeds for visit in _firsts(options)]
    assert len(scans) == 72
    return scans, [scan.positive for scan in scans]


def test_the_tumour_does_not_tell_the_status_over_many_patients(patients):
    scans, positive = patients
    features = [lesion_features(scan.image, scan.tumour, FLAT.spacing_mm) for scan in scans]
    aucs = {name: _auc([feature[name] for feature in features], positive) for name in features[0]}
    # The deviation of an AUC of 36 against 36 that knows nothing is 0.068.
    assert all(0.25 < auc < 0.75 for auc in aucs.values()), aucs
    assert np.mean(list(aucs.values())) == pytest.approx(0.5, abs=0.12)


def test_the_nodes_tell_it(patients):
    scans, positive = patients
    assert np.mean(positive) == pytest.approx(0.5, abs=0.05)
    assert _auc([scan.nodes.sum() for scan in scans], positive) > 0.99


@pytest.mark.parametrize("cue", ["size", "number"])
def test_one_cue_alone_tells_it_too(cue):
    options = dataclasses.replace(FLAT, cases=16, node_cue=cue)
    scans = [render(options, visit) for visit in _firsts(options)]
    assert _auc([scan.nodes.sum() for scan in scans], [scan.positive for scan in scans]) > 0.9


def test_nodes_are_as_bright_as_tumours_so_that_clipping_to_the_tumours_range_leaves_them_visible(patients):
    for scan in patients[0]:
        assert scan.image[scan.nodes].max() > np.median(scan.image[scan.tumour]) - 40
        fat = np.percentile(scan.image, 20)
        assert np.percentile(scan.image[scan.tumour], 0.5) > fat + 50


def test_intensity_alone_does_not_tell_the_tumour(patients):
    """Liver and spleen, vessels and nodes are as bright: most of what lies in the tumour's range is none."""
    shares = []
    for scan in patients[0]:
        low, high = np.percentile(scan.image[scan.tumour], (10, 90))
        inside = (scan.image >= low) & (scan.image <= high)
        shares.append((inside & scan.tumour).sum() / inside.sum())
    assert np.mean(shares) < 0.6


def test_a_second_scan_shows_the_same_patient_in_another_image():
    visits = plan_visits(FLAT)
    assert visits[2].patient == visits[3].patient != visits[4].patient
    first, second = (render(FLAT, visit) for visit in visits[2:4])
    assert first.positive == second.positive
    assert first.tumour.sum() == pytest.approx(second.tumour.sum(), rel=0.2)
    assert (first.image != second.image).any()


def test_a_case_is_the_same_however_many_others_there_are_and_at_another_seed_another():
    few, many = SMALL[2], dataclasses.replace(SMALL[2], cases=12, test_cases=5)
    by_name = {visit.name: visit for visit in plan_visits(many)}
    for visit in plan_visits(few):
        np.testing.assert_array_equal(render(few, visit).image, render(many, by_name[visit.name]).image)
    other = plan_visits(dataclasses.replace(few, seed=1))[0]
    assert (render(few, other).image != render(few, plan_visits(few)[0]).image).any()


@pytest.mark.parametrize("dimension", [3, 2])
def test_what_is_written_is_what_was_rendered(tmp_path, dimension):
    options = SMALL[dimension]
    write_gastric_dataset(tmp_path / "g", options, lambda _: None)
    tasks, oracle = (
        TaskSet.from_dataset_json(read_dataset_json(tmp_path / "g" / f"{name}.json"))
        for name in ("dataset", "labelsTs")
    )
    assert tasks.regions == ("tumour",)
    (question,) = tasks.classification
    assert (question.name, question.classes, question.evidence) == ("node_status", ("negative", "positive"), None)
    for visit in plan_visits(options):
        scan, part = render(options, visit), "Ts" if visit.is_test else "Tr"
        image, labels = (
            SimpleITK.ReadImage(str(tmp_path / "g" / f"{kind}{part}" / f"{visit.name}{end}.nii.gz"))
            for kind, end in (("images", "_0000"), ("labels", ""))
        )
        assert image.GetSpacing() == pytest.approx(options.spacing_mm[::-1])
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), scan.image)
        # The nodes are in no file.
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(labels), scan.tumour)
        case = (oracle if visit.is_test else tasks).cases[visit.name]
        assert case.classes == {"node_status": ("negative", "positive")[scan.positive]}
        assert case.patient == visit.patient


def test_classes_and_segmentations_can_be_missing_independently(tmp_path):
    options = dataclasses.replace(SMALL[2], cases=24, labelled_share=0.5, segmented_share=0.5)
    write_gastric_dataset(tmp_path / "g", options, lambda _: None)
    tasks = TaskSet.from_dataset_json(read_dataset_json(tmp_path / "g" / "dataset.json"))
    kinds = {(bool(case.annotated), bool(case.classes)) for case in tasks.cases.values()}
    assert kinds == {(a, b) for a in (True, False) for b in (True, False)}
    for name, case in tasks.cases.items():
        labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "g" / "labelsTr" / f"{name}.nii.gz")))
        if not case.annotated:
            assert not labels.any()
    share = np.mean([bool(case.annotated) for case in tasks.cases.values()])
    assert share == pytest.approx(0.5, abs=0.15)
    oracle = TaskSet.from_dataset_json(read_dataset_json(tmp_path / "g" / "labelsTs.json"))
    assert all(case.annotated and case.classes for case in oracle.cases.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension": 1}, "dimension=1 must be 2 or 3"),
        ({"tumour_radius_mm": (1.0, 20.0)}, "tumour_radius_mm=.* must be two lengths"),
        ({"positive_share": 1.5}, "positive_share=1.5 must be between 0 and 1"),
        ({"labelled_share": -1.0}, "labelled_share=-1.0 must be between 0 and 1"),
        ({"segmented_share": float("nan")}, "segmented_share=nan must be between 0 and 1"),
        ({"node_cue": "texture"}, "node_cue='texture' must be one of all, size, number"),
        ({"noise_hu": -1.0}, "noise_hu=-1.0 must be between 0 and 200"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(PhantomError, match=message):
        GastricOptions(**changes)
