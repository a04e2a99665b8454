"""What is in the nested phantoms, and what of it is annotated."""

import dataclasses

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.lab.phantoms.brain import BrainTissue
from nnunet_mtl.lab.phantoms.mr import SEQUENCES
from nnunet_mtl.lab.phantoms.nested import NestedOptions, render, write_nested_dataset
from nnunet_mtl.lab.phantoms.options import PhantomError
from nnunet_mtl.lab.phantoms.patients import plan_visits
from nnunet_mtl.tasks import TaskSet, read_dataset_json

QUIET = NestedOptions(cases=4, test_cases=2, noise=0.0, bias=0.0, enhancing_prevalence=1.0)
SMALL = {
    3: NestedOptions(cases=4, test_cases=2, image_size=(20, 24, 24)),
    2: NestedOptions(cases=4, test_cases=2, dimension=2, image_size=(48, 48)),
}


@pytest.fixture(scope="module")
def quiet():
    return [render(QUIET, visit) for visit in plan_visits(QUIET)]


def test_every_case_has_every_region_one_inside_the_other(quiet):
    for scan in quiet:
        whole, core, enhancing = (np.isin(scan.labels, values).sum() for values in ((1, 2, 3), (2, 3), (3,)))
        assert whole > core > enhancing > 0


def test_the_core_lies_inside_the_whole_tumour_and_not_at_its_edge(quiet):
    """Few neighbours of the core are neither tumour nor fluid: swelling is all around it but at the brain's surface."""
    for scan in quiet:
        core = scan.labels > 1
        healthy = np.isin(scan.tissue, (BrainTissue.WHITE, BrainTissue.OLD_LESION))
        touching = sum((core & np.roll(healthy, step, axis)).sum() for axis in range(3) for step in (-1, 1))
        assert touching / core.sum() < 0.2


def test_labels_are_the_tumours_tissues_and_fluid_stays_fluid(quiet):
    for scan in quiet:
        for kind, value in ((BrainTissue.OEDEMA, 1), (BrainTissue.NECROSIS, 2), (BrainTissue.ENHANCING, 3)):
            np.testing.assert_array_equal(scan.labels == value, scan.tissue == kind)
        assert (scan.tissue == BrainTissue.FLUID).any()


def _mean(scan, channel, tissue):
    return scan.image[SEQUENCES.index(channel)][scan.tissue == tissue].mean()


def test_each_sequence_shows_its_own_contrast(quiet):
    for scan in quiet:
        rim, core, swelling, white, fluid = (
            {channel: _mean(scan, channel, kind) for channel in SEQUENCES}
            for kind in (
                BrainTissue.ENHANCING,
                BrainTissue.NECROSIS,
                BrainTissue.OEDEMA,
                BrainTissue.WHITE,
                BrainTissue.FLUID,
            )
        )
        assert rim["T1ce"] > 1.1 * max(core["T1ce"], swelling["T1ce"], white["T1ce"])
        # Without contrast agent the rim is nothing special.
        assert rim["T1"] < white["T1"]
        assert swelling["T2"] > 1.3 * white["T2"]
        assert fluid["T2"] > white["T2"]
        assert swelling["Flair"] > 1.3 * white["Flair"] > fluid["Flair"]


def test_outside_the_brain_there_is_nothing_and_inside_there_is_something():
    options = NestedOptions(cases=1, test_cases=0, noise=0.3)
    scan = render(options, plan_visits(options)[0])
    outside = scan.tissue == BrainTissue.OUTSIDE
    assert not scan.image[:, outside].any()
    assert (scan.image[:, ~outside] > 0).all()
    assert 0.2 < 1 - outside.mean() < 0.8


def test_noise_and_bias_do_what_they_say():
    visit = plan_visits(QUIET)[0]
    quiet, noisy, biased = (
        render(dataclasses.replace(QUIET, mimics=0.0, **changes), visit)
        for changes in ({}, {"noise": 0.2}, {"bias": 0.4})
    )
    white = quiet.tissue == BrainTissue.WHITE
    # In each channel the gain is what it was: every case draws the same numbers in the same order.
    plain, disturbed = quiet.image[0][white].astype(float), noisy.image[0][white].astype(float)
    assert np.std(disturbed - plain) / plain.mean() == pytest.approx(0.2, abs=0.04)
    # The field is wider than the brain, which sees only a part of its spread.
    field = np.log(biased.image[:, white] / quiet.image[:, white])
    assert (field.std(axis=1) > 0.12).all()
    assert np.abs(field).max() < 2
    # Each channel has a field of its own.
    assert np.abs(np.corrcoef(field)[np.triu_indices(4, 1)]).min() < 0.9
    np.testing.assert_array_equal(quiet.labels, biased.labels)


def test_mimics_look_like_parts_of_a_tumour_and_are_none():
    options = dataclasses.replace(QUIET, mimics=8.0)
    scan = render(options, plan_visits(options)[0])
    old, vessel = (scan.tissue == kind for kind in (BrainTissue.OLD_LESION, BrainTissue.VESSEL))
    assert old.sum() > 20
    assert vessel.sum() > 20
    assert not scan.labels[old | vessel].any()
    assert _mean(scan, "Flair", BrainTissue.OLD_LESION) > 1.2 * _mean(scan, "Flair", BrainTissue.WHITE)
    assert _mean(scan, "T1ce", BrainTissue.VESSEL) > 1.1 * _mean(scan, "T1ce", BrainTissue.WHITE)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_prevalence_decides_how_many_enhance_and_nothing_else(share):
    options = dataclasses.replace(QUIET, cases=12, test_cases=0, enhancing_prevalence=share, image_size=(16, 20, 20))
    scans = [render(options, visit) for visit in plan_visits(options)]
    patients = {
        visit.patient: (scan.labels == 3).any() for visit, scan in zip(plan_visits(options), scans, strict=True)
    }
    assert len(patients) == 9
    assert np.mean(list(patients.values())) == pytest.approx(share, abs=0.12)
    others = [render(dataclasses.replace(options, enhancing_prevalence=1.0), visit) for visit in plan_visits(options)]
    for scan, other in zip(scans, others, strict=True):
        np.testing.assert_array_equal(scan.labels > 1, other.labels > 1)


def test_the_radius_sets_the_volume():
    visit = plan_visits(QUIET)[0]
    volumes = []
    for radius in (15.0, 30.0):
        scan = render(dataclasses.replace(QUIET, tumour_radius_mm=(radius, radius)), visit)
        volumes.append((scan.labels > 0).sum())
    assert 4 < volumes[1] / volumes[0] < 12


def test_a_slice_is_one_through_the_tumour_of_the_same_patient():
    flat = NestedOptions(cases=12, test_cases=0, dimension=2, enhancing_prevalence=1.0)
    scans = [render(flat, visit) for visit in plan_visits(flat)]
    assert all(scan.image.shape == (4, 64, 64) for scan in scans)
    assert all((scan.labels > 1).sum() > 15 for scan in scans)
    assert np.mean([(scan.labels == 3).any() for scan in scans]) > 0.9


def test_a_second_scan_shows_the_same_patient_in_another_image():
    visits = plan_visits(NestedOptions(cases=8))
    assert visits[2].patient == visits[3].patient != visits[4].patient
    first, second = (render(QUIET, visit) for visit in visits[2:4])
    assert (first.labels > 0).sum() == pytest.approx((second.labels > 0).sum(), rel=0.1)
    assert (first.labels != second.labels).any()


def test_a_case_is_the_same_however_many_others_there_are_and_at_another_seed_another():
    few, many = SMALL[3], dataclasses.replace(SMALL[3], cases=9, test_cases=5)
    by_name = {visit.name: visit for visit in plan_visits(many)}
    for visit in plan_visits(few):
        np.testing.assert_array_equal(render(few, visit).image, render(many, by_name[visit.name]).image)
    other = plan_visits(dataclasses.replace(few, seed=1))[0]
    assert (render(few, other).labels != render(few, plan_visits(few)[0]).labels).any()


def _read(folder, name):
    return SimpleITK.ReadImage(str(folder / f"{name}.nii.gz"))


@pytest.mark.parametrize("dimension", [3, 2])
def test_what_is_written_is_what_was_rendered(tmp_path, dimension):
    options = SMALL[dimension]
    write_nested_dataset(tmp_path / "n", options, lambda _: None)
    for visit in plan_visits(options):
        scan, part = render(options, visit), "Ts" if visit.is_test else "Tr"
        labels = _read(tmp_path / "n" / f"labels{part}", visit.name)
        assert labels.GetSpacing() == pytest.approx(options.spacing_mm[::-1])
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(labels), scan.labels)
        for channel in range(4):
            image = _read(tmp_path / "n" / f"images{part}", f"{visit.name}_{channel:04d}")
            np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), scan.image[channel])
    dataset_json = read_dataset_json(tmp_path / "n" / "dataset.json")
    assert dataset_json["channel_names"] == {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}
    labels = {"background": 0, "whole_tumour": [1, 2, 3], "tumour_core": [2, 3], "enhancing_tumour": [3]}
    assert dataset_json["labels"] == labels
    assert dataset_json["regions_class_order"] == [1, 2, 3]
    tasks = TaskSet.from_dataset_json(dataset_json)
    assert [(task.name, task.parent) for task in tasks.tasks] == [
        ("whole", None),
        ("core", "whole"),
        ("enhancing", "core"),
    ]
    assert all(all(tasks.annotated(case)) for case in tasks.cases)
    assert not tasks.classification


def test_where_only_the_whole_tumour_is_annotated_the_file_holds_no_more(tmp_path):
    options = dataclasses.replace(SMALL[3], cases=8, whole_only_share=0.5)
    write_nested_dataset(tmp_path / "n", options, lambda _: None)
    tasks = TaskSet.from_dataset_json(read_dataset_json(tmp_path / "n" / "dataset.json"))
    partial = [case for case in tasks.cases if not all(tasks.annotated(case))]
    assert 2 <= len(partial) <= 6
    for visit in plan_visits(options):
        if visit.is_test:
            continue
        values = SimpleITK.GetArrayFromImage(_read(tmp_path / "n" / "labelsTr", visit.name))
        truth = render(options, visit).labels
        if visit.name in partial:
            assert tasks.annotated(visit.name) == (True, False, False)
            truth = truth > 0
        np.testing.assert_array_equal(values, truth)
    oracle = TaskSet.from_dataset_json(read_dataset_json(tmp_path / "n" / "labelsTs.json"))
    assert all(all(oracle.annotated(case)) for case in oracle.cases)


def test_without_the_block_the_rest_is_the_same(tmp_path):
    for name, without in (("with", False), ("without", True)):
        options = dataclasses.replace(SMALL[2], without_block=without)
        write_nested_dataset(tmp_path / name, options, lambda _: None)
    both = [read_dataset_json(tmp_path / name / "dataset.json") for name in ("with", "without")]
    assert both[0].pop("nnunet_mtl")
    assert both[0] | {"name": "without"} == both[1]
    files = sorted(path.relative_to(tmp_path / "with") for path in (tmp_path / "with").rglob("*.nii.gz"))
    assert len(files) == 6 * 5
    for file in files:
        assert (tmp_path / "with" / file).read_bytes() == (tmp_path / "without" / file).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension": 4}, "dimension=4 must be 2 or 3"),
        ({"image_size": (64, 64)}, r"image_size=\(64, 64\) must be 3 numbers"),
        ({"tumour_radius_mm": (30.0, 60.0)}, "tumour_radius_mm=.* must be two lengths"),
        ({"enhancing_prevalence": 1.5}, "enhancing_prevalence=1.5 must be between 0 and 1"),
        ({"whole_only_share": -0.5}, "whole_only_share=-0.5 must be between 0 and 1"),
        ({"mimics": -1.0}, "mimics=-1.0 must be between 0 and 20"),
        ({"noise": 1.5}, "noise=1.5 must be between 0 and 1"),
        ({"bias": float("nan")}, "bias=nan must be between 0 and 1"),
        ({"without_block": True, "whole_only_share": 0.5}, "whole_only_share=0.5 must be 0 with without_block"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(PhantomError, match=message):
        NestedOptions(**changes)
