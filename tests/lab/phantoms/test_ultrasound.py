"""What is in the ultrasound phantoms, and what tells malignant from benign in them."""

import dataclasses

import numpy as np
import pytest
import SimpleITK
from lesion_features import lesion_features
from scipy.ndimage import binary_dilation, gaussian_filter

from nnunet_mtl.lab.phantoms.options import PhantomError
from nnunet_mtl.lab.phantoms.patients import plan_visits
from nnunet_mtl.lab.phantoms.ultrasound import UltrasoundOptions, render, write_ultrasound_dataset
from nnunet_mtl.tasks import TaskSet, read_dataset_json

MANY = UltrasoundOptions(cases=120, test_cases=0, cyst_share=0.0, mimics=0.0)


def _auc(values, positive):
    values, positive = np.asarray(values), np.asarray(positive)
    higher = np.sign(values[positive][:, None] - values[~positive]) + 1
    return float(higher.mean() / 2)


def _scans(options):
    scans = [render(options, visit) for visit in plan_visits(options)[:: 4 if options.cases > 100 else 1]]
    return scans, [scan.malignant for scan in scans]


@pytest.fixture(scope="module")
def scans():
    return _scans(MANY)


def _height_over_width(mask):
    rows, columns = np.nonzero(mask)
    return rows.std() / columns.std()


def _shadow(scan):
    """How much brighter it is beside the lesion's columns than below the lesion."""
    rows, columns = np.nonzero(scan.lesion)
    below = scan.image[rows.max() + 2 : rows.max() + 20].astype(float)
    inside = slice(int(columns.mean()) - 4, int(columns.mean()) + 5)
    outside = np.delete(below, np.arange(columns.min() - 2, columns.max() + 3), axis=1)
    return outside.mean() - below[:, inside].mean()


def test_the_margin_of_the_true_mask_tells(scans):
    scans, malignant = scans
    features = [lesion_features(scan.image, scan.lesion, (0.3125, 0.3125)) for scan in scans]
    assert 1 - _auc([f["compactness"] for f in features], malignant) > 0.95
    assert _auc([_height_over_width(scan.lesion) for scan in scans], malignant) > 0.95


def test_size_and_prevalence_of_the_classes_are_alike(scans):
    scans, malignant = scans
    areas = [scan.lesion.sum() * 0.3125**2 for scan in scans]
    assert 0.3 < _auc(areas, malignant) < 0.7
    assert np.pi * 3**2 * 0.85 < min(areas) < max(areas) < np.pi * 6.5**2 * 1.1
    assert np.mean(malignant) == pytest.approx(0.5, abs=0.1)


def test_the_shadow_tells_only_where_it_is_a_cue(scans):
    assert _auc([_shadow(scan) for scan in scans[0]], scans[1]) > 0.9
    without, malignant = _scans(dataclasses.replace(MANY, malignant_cue="margin"))
    assert malignant == scans[1]
    assert 0.25 < _auc([_shadow(scan) for scan in without], malignant) < 0.75
    for scan, other in zip(scans[0], without, strict=True):
        np.testing.assert_array_equal(scan.lesion, other.lesion)


def test_lesions_are_darker_than_what_surrounds_them(scans):
    for scan in scans[0]:
        ring = binary_dilation(scan.lesion, iterations=12) & ~binary_dilation(scan.lesion, iterations=5)
        assert scan.image[scan.lesion].mean() < scan.image[ring].mean() - 10


def test_cysts_are_benign_black_and_enhance_what_is_behind():
    options = UltrasoundOptions(cases=12, test_cases=0, malignant_share=0.0, mimics=0.0)
    cysts, solid = (_scans(dataclasses.replace(options, cyst_share=share))[0] for share in (1.0, 0.0))
    for cyst, mass in zip(cysts, solid, strict=True):
        np.testing.assert_array_equal(cyst.lesion, mass.lesion)
        assert cyst.image[cyst.lesion].mean() < mass.image[mass.lesion].mean() - 20
    assert np.mean([_shadow(cyst) for cyst in cysts]) < np.mean([_shadow(mass) for mass in solid]) - 8


def test_mimics_are_as_dark_as_lesions_and_annotated_by_nobody():
    options = UltrasoundOptions(cases=1, test_cases=0, mimics=8.0)
    (visit,) = plan_visits(options)
    busy, calm = (render(dataclasses.replace(options, mimics=mimics), visit) for mimics in (8.0, 0.0))
    np.testing.assert_array_equal(busy.lesion, calm.lesion)
    assert (gaussian_filter(calm.image.astype(float) - busy.image, 2) > 30)[~busy.lesion].mean() > 0.05


def test_the_same_patient_is_seen_again_from_another_place():
    visits = plan_visits(UltrasoundOptions(cases=8))
    first, second = visits[2], visits[3]
    assert first.patient == second.patient != visits[4].patient
    scans = [render(UltrasoundOptions(), visit) for visit in (first, second)]
    assert scans[0].malignant == scans[1].malignant
    assert scans[0].lesion.sum() == pytest.approx(scans[1].lesion.sum(), rel=0.1)
    assert (scans[0].lesion != scans[1].lesion).any()


def test_a_case_is_the_same_however_many_others_there_are_and_at_another_seed_another():
    few, many = UltrasoundOptions(cases=2, test_cases=1), UltrasoundOptions(cases=9, test_cases=3)
    by_name = {visit.name: visit for visit in plan_visits(many)}
    for visit in plan_visits(few):
        np.testing.assert_array_equal(render(few, visit).image, render(many, by_name[visit.name]).image)
    other = plan_visits(dataclasses.replace(few, seed=1))[0]
    assert (render(few, other).image != render(few, plan_visits(few)[0]).image).any()


def test_what_is_written_is_what_was_rendered(tmp_path):
    options = UltrasoundOptions(cases=8, test_cases=2, image_size=(48, 48), lesion_prevalence=0.8, labelled_share=0.5)
    lines = []
    write_ultrasound_dataset(tmp_path / "us", options, lines.append)
    assert len(lines) == 10
    dataset_json = read_dataset_json(tmp_path / "us" / "dataset.json")
    assert dataset_json["labels"] == {"background": 0, "lesion": [1, 1]}
    assert dataset_json["channel_names"] == {"0": "ultrasound"}
    tables = [dataset_json, read_dataset_json(tmp_path / "us" / "labelsTs.json")]
    training, oracle = (TaskSet.from_dataset_json(table) for table in tables)
    assert training.classification[0].evidence == "lesion"
    known = 0
    for visit in plan_visits(options):
        scan, part = render(options, visit), "Ts" if visit.is_test else "Tr"
        image, labels = (
            SimpleITK.ReadImage(str(tmp_path / "us" / f"{kind}{part}" / f"{visit.name}{end}.nii.gz"))
            for kind, end in (("images", "_0000"), ("labels", ""))
        )
        assert image.GetDimension() == 2
        assert image.GetSpacing() == pytest.approx((40 / 48, 40 / 48))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), scan.image)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(labels), scan.lesion)
        classes = (oracle if visit.is_test else training).cases[visit.name].classes
        assert scan.malignant is None or scan.lesion.any()
        if visit.is_test and scan.malignant is not None:
            assert classes
        if classes:
            assert classes == {"malignancy": ("benign", "malignant")[scan.malignant]}
            known += not visit.is_test
    assert 0 < known < 7


def test_without_a_lesion_there_is_no_class():
    options = UltrasoundOptions(cases=3, lesion_prevalence=0.0)
    for visit in plan_visits(options):
        scan = render(options, visit)
        assert scan.malignant is None
        assert not scan.lesion.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"cases": 0}, "cases=0 must be at least 1"),
        ({"test_cases": -1}, "test_cases=-1 must be at least 0"),
        ({"image_size": (64, 64, 64)}, r"image_size=\(64, 64, 64\) must be 2 numbers"),
        ({"image_size": (64, 48)}, r"image_size=\(64, 48\) must be square"),
        ({"image_size": (8, 8)}, "at least 16 along each axis"),
        ({"lesion_prevalence": 1.1}, "lesion_prevalence=1.1 must be between 0 and 1"),
        ({"malignant_share": -0.1}, "malignant_share=-0.1 must be between 0 and 1"),
        ({"cyst_share": float("nan")}, "cyst_share=nan must be between 0 and 1"),
        ({"labelled_share": 2.0}, "labelled_share=2.0 must be between 0 and 1"),
        ({"malignant_cue": "size"}, "malignant_cue='size' must be one of margin_and_shadow, margin"),
        ({"lesion_radius_mm": (7.0, 4.0)}, "lesion_radius_mm=.* must be two lengths, the smaller first"),
        ({"contrast_db": (1.0,)}, "contrast_db=.* must be two levels"),
        ({"mimics": 21.0}, "mimics=21.0 must be between 0 and 20"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(PhantomError, match=message):
        UltrasoundOptions(**changes)
