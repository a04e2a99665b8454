import csv
import json

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.per_task.complete_labels import complete_labels
from nnunet_mtl.tasks import TaskSet

LIVER = {"liver": [1, 2, 3], "liver_tumour": [3]}
ORACLE = np.arange(16).reshape(2, 2, 4) % 5
REGIONS = {"liver": (1, 2, 3), "vessel": (2,), "liver_tumour": (3,), "kidney": (4,)}


def write_teachers(union, maps):
    """Write three networks' predictions, given for each case the regions they see as masks by name."""
    values = {"of_liver": {}, "of_vessel": {}, "of_kidney": {}}
    for case, seen in maps.items():
        liver = seen["liver"] | seen["liver_tumour"]
        values["of_liver"][case] = np.where(seen["liver_tumour"], 3, liver)
        values["of_vessel"][case] = seen["vessel"]
        values["of_kidney"][case] = seen["kidney"]
    return [
        union.predictions("of_liver", LIVER, [1, 3], **values["of_liver"]),
        union.predictions("of_vessel", {"vessel": 1}, None, **values["of_vessel"]),
        union.predictions("of_kidney", {"kidney": [1, 1]}, [1], **values["of_kidney"]),
    ]


def seen_in(values):
    return {region: np.isin(values, leaves) for region, leaves in REGIONS.items()}


CASES = ("liver_0", "liver_1", "organ_0", "vessel_0", "kidney_0")


@pytest.fixture
def teachers(union):
    """Predictions of everything in every case that lacks something: the oracle's."""
    return write_teachers(union, {case: seen_in(ORACLE) for case in CASES})


def provenance(union):
    return json.loads((union.made(910) / "completed_labels.json").read_text())["cases"]


def description(union):
    return json.loads((union.made(910) / "dataset.json").read_text())


def test_right_predictions_make_the_oracle_of_every_case(union, teachers):
    text = complete_labels(union.folder, teachers, 910)
    assert union.made(910).name == "Dataset910_Union_completed"
    for case in ("liver_0", "organ_0", "vessel_0", "whole_0"):
        np.testing.assert_array_equal(union.label(910, case), ORACLE)
    # the annotator's ignore label stays
    np.testing.assert_array_equal(union.label(910, "kidney_0"), np.where(ORACLE == 0, 5, ORACLE))
    first, last = text.splitlines()
    assert first == (
        "predicted: liver in 2 of 6 cases, vessel in 4 of 6 cases, liver_tumour in 3 of 6 cases, kidney in 4 of 6 cases"
    )
    assert last.endswith("next: nnUNetv2_plan_and_preprocess -d 910 --verify_dataset_integrity")


def test_the_data_set_is_stock_and_its_labels_are_the_sources(union, teachers):
    complete_labels(union.folder, teachers, 910, "Student")
    found = description(union)
    assert union.made(910).name == found["name"] == "Dataset910_Student"
    assert "nnunet_mtl" not in found
    assert found["numTraining"] == 6
    for key in ("labels", "regions_class_order", "channel_names", "file_ending", "overwrite_image_reader_writer"):
        assert found[key] == union.description[key]
    assert TaskSet.from_dataset_json(found).has_regions
    labels = LabelManager(found["labels"], found["regions_class_order"])
    assert labels.foreground_regions == [(1, 2, 3), (2,), (3,), (4,)]


def test_images_and_wholly_annotated_cases_are_linked(union, teachers):
    complete_labels(union.folder, teachers, 910)
    made = union.made(910)
    assert (made / "labelsTr" / "whole_0.nii.gz").samefile(union.folder / "labelsTr" / "whole_0.nii.gz")
    assert not (made / "labelsTr" / "liver_0.nii.gz").samefile(union.folder / "labelsTr" / "liver_0.nii.gz")
    images = sorted(path.name for path in (union.folder / "imagesTr").iterdir())
    assert sorted(path.name for path in (made / "imagesTr").iterdir()) == images
    assert all((made / "imagesTr" / name).samefile(union.folder / "imagesTr" / name) for name in images)


def test_a_wholly_annotated_case_needs_no_prediction_and_nothing_of_it_changes(union, teachers):
    assert not (teachers[0] / "whole_0.nii.gz").exists()
    complete_labels(union.folder, teachers, 910)
    entries = provenance(union)["whole_0"]
    voxels = {region: int(np.isin(ORACLE, leaves).sum()) for region, leaves in REGIONS.items()}
    assert {region: entry["voxels"] for region, entry in entries.items()} == voxels
    assert {entry["origin"] for entry in entries.values()} == {"annotated"}


@pytest.mark.parametrize("seed", range(6))
def test_no_annotated_voxel_is_ever_changed(union, seed):
    rng = np.random.default_rng(seed)
    maps = {}
    for case in CASES:
        values = rng.integers(0, 6, ORACLE.shape)
        table = union.description["nnunet_mtl"]["cases"][case]["annotated"]
        union.add(case, table, values)
        maps[case] = {region: rng.random(ORACLE.shape) < 0.4 for region in REGIONS}
    union.add("nothing_0", [], rng.integers(0, 6, ORACLE.shape))
    maps["nothing_0"] = {region: rng.random(ORACLE.shape) < 0.4 for region in REGIONS}
    complete_labels(union.folder, write_teachers(union, maps), 910)
    taskset = TaskSet.from_dataset_json(union.description)
    for case in (*CASES, "nothing_0"):
        before, after = union.label(900, case), union.label(910, case)
        np.testing.assert_array_equal(after == 5, before == 5)
        for region, annotated in zip(taskset.regions, taskset.annotated(case), strict=True):
            if annotated:
                inside = np.isin(before, REGIONS[region])
                np.testing.assert_array_equal(np.isin(after, REGIONS[region]), inside)


def test_where_every_voxel_comes_from_is_counted(union):
    """One liver case, in which the vessel also runs out of the liver and into the tumour, and meets a kidney there."""
    maps = {case: seen_in(ORACLE * 0) for case in CASES}
    vessel = np.isin(ORACLE, [0, 2, 3]) & (np.arange(16).reshape(ORACLE.shape) < 10)
    maps["liver_0"] = seen_in(ORACLE) | {"vessel": vessel, "kidney": ORACLE == 1}
    maps["kidney_0"] = seen_in(ORACLE * 0) | {"vessel": ORACLE == 1, "liver_tumour": ORACLE == 1, "liver": ORACLE == 1}
    maps["vessel_0"] = seen_in(ORACLE * 0) | {"kidney": ORACLE == 2}
    folders = write_teachers(union, maps)
    complete_labels(union.folder, folders, 910)
    found = provenance(union)
    annotated = {"origin": "annotated", "teacher": None, "mean_probability": None, "ignored": False}
    none = dict.fromkeys(("voxels", "implied_voxels", "dropped_voxels", "overruled_voxels"), 0)
    # ORACLE is 0 0 0 0 1 1 1 2 2 2 3 3 3 4 4 4 in some order: 4 voxels of 0, 3 of each other value
    assert found["liver_0"]["liver"] == none | annotated | {"voxels": 9}
    # of six voxels of the vessel two lie in the liver's own leaf, two in its tumour, two outside of it
    predicted = {
        "origin": "predicted",
        "teacher": str(folders[1].resolve()),
        "mean_probability": None,
        "ignored": False,
    }
    assert found["liver_0"]["vessel"] == none | predicted | {"voxels": 2, "dropped_voxels": 4}
    assert found["liver_0"]["kidney"]["dropped_voxels"] == 3
    # vessel and tumour exclude each other: nnU-Net paints the tumour later
    assert found["kidney_0"]["liver_tumour"]["voxels"] == 3
    assert found["kidney_0"]["vessel"]["overruled_voxels"] == 3
    # the annotated vessel brings the liver it lies in, and no kidney
    assert found["vessel_0"]["liver"]["implied_voxels"] == 3
    assert found["vessel_0"]["liver"]["voxels"] == 0
    assert found["vessel_0"]["kidney"]["dropped_voxels"] == 3
    assert list(found["liver_0"]) == ["liver", "vessel", "liver_tumour", "kidney"]


def test_the_table_is_a_csv_too_and_names_folders_wherever_they_are_read_from(union, teachers, monkeypatch):
    monkeypatch.chdir(union.root)
    complete_labels(union.folder, [folder.relative_to(union.root) for folder in teachers], 910)
    with (union.made(910) / "completed_labels.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6 * 4
    one = next(line for line in lines if (line["case"], line["region"]) == ("liver_0", "vessel"))
    expected = {"case": "liver_0", "region": "vessel"} | provenance(union)["liver_0"]["vessel"]
    assert expected["teacher"] == str(teachers[1].resolve())
    assert one == {name: "" if value is None else str(value) for name, value in expected.items()}
    about = json.loads((union.made(910) / "completed_labels.json").read_text())
    assert about["source"] == "Dataset900_Union"
    assert about["teachers"] == [str(folder.resolve()) for folder in teachers]


def save_probabilities(folder, n_channels, level, cases=CASES):
    """As nnU-Net saves them: a channel per region, or per class with background first."""
    for case in cases:
        values = np.zeros((n_channels, *ORACLE.shape), np.float32)
        for channel in range(n_channels):
            values[channel] = level(case, channel)
        np.savez_compressed(folder / f"{case}.npz", probabilities=values)


@pytest.fixture
def sure(teachers):
    """Probabilities of every teacher: sure of everything but of the vessel and, in one case, of the tumour."""
    ramp = np.linspace(0.6, 0.9, 16).reshape(ORACLE.shape)
    save_probabilities(teachers[0], 2, lambda case, channel: 0.6 if (case, channel) == ("organ_0", 1) else 0.9)
    # background, vessel: the second channel counts
    save_probabilities(teachers[1], 2, lambda _, channel: ramp if channel else 0.99)
    save_probabilities(teachers[2], 1, lambda *_: 0.95)
    return teachers


def test_the_mean_probability_is_over_what_was_filled(union, sure):
    complete_labels(union.folder, sure, 910)
    found = provenance(union)
    ramp = np.linspace(0.6, 0.9, 16).reshape(ORACLE.shape)
    assert found["liver_0"]["vessel"]["mean_probability"] == pytest.approx(ramp[ORACLE == 2].mean())
    assert found["kidney_0"]["liver"]["mean_probability"] == pytest.approx(0.9)
    assert found["liver_0"]["liver"]["mean_probability"] is None
    # no predicted vessel lies in the annotated liver of this case
    assert found["liver_1"]["vessel"] == found["liver_0"]["vessel"] | {
        "voxels": 0,
        "dropped_voxels": 3,
        "mean_probability": None,
    }


def test_what_is_too_unsure_becomes_the_ignore_label_and_the_annotation_stays(union, sure):
    text = complete_labels(union.folder, sure, 910, least_confidence=0.8)
    found = provenance(union)
    assert description(union)["labels"]["ignore"] == 5
    vessels = {case: found[case]["vessel"] for case in ("liver_0", "organ_0", "kidney_0")}
    assert all(entry["ignored"] and entry["mean_probability"] < 0.8 for entry in vessels.values())
    np.testing.assert_array_equal(union.label(910, "liver_0"), np.where(ORACLE == 2, 5, ORACLE))
    np.testing.assert_array_equal(union.label(910, "organ_0"), np.where(np.isin(ORACLE, [2, 3]), 5, ORACLE))
    np.testing.assert_array_equal(union.label(910, "vessel_0"), ORACLE)
    assert "liver_tumour in 3 of 6 cases (1 ignored)" in text


def test_a_region_that_follows_from_the_annotation_is_kept_however_unsure(union, sure):
    save_probabilities(sure[0], 2, lambda *_: 0.6)
    complete_labels(union.folder, sure, 910, least_confidence=0.8)
    # liver and tumour are ignored, but not where an annotated vessel proves the liver
    np.testing.assert_array_equal(union.label(910, "vessel_0"), np.where(np.isin(ORACLE, [1, 3]), 5, ORACLE))
    entry = provenance(union)["vessel_0"]["liver"]
    assert (entry["ignored"], entry["voxels"], entry["implied_voxels"]) == (True, 6, 3)


def without_ignore(union):
    del union.description["labels"]["ignore"]
    union.add("kidney_0", ["kidney"], np.where(ORACLE == 4, 4, 0))


def test_an_ignore_label_is_added_only_where_it_is_used(union, sure):
    without_ignore(union)
    complete_labels(union.folder, sure, 910, least_confidence=0.5)
    assert "ignore" not in description(union)["labels"]
    complete_labels(union.folder, sure, 911, least_confidence=0.8)
    labels = json.loads((union.made(911) / "dataset.json").read_text())["labels"]
    assert LabelManager(labels, [1, 2, 3, 4]).ignore_label == 5
    np.testing.assert_array_equal(union.label(911, "liver_0"), np.where(ORACLE == 2, 5, ORACLE))


def problems(union, folders, **options):
    with pytest.raises(UserError) as error:
        complete_labels(union.folder, folders, 910, **options)
    assert union.raw_names() == ["Dataset900_Union"]
    return str(error.value).splitlines()


def test_without_probabilities_a_least_confidence_is_refused(union, teachers):
    for folder, channels in ((teachers[1], 2), (teachers[2], 1)):
        save_probabilities(folder, channels, lambda *_: 1)
    first, *lines = problems(union, teachers, least_confidence=0.5)
    assert first == "3 problems, nothing was written:"
    # where the liver and its tumour were annotated nobody asks
    for line, case in zip(lines, ("kidney_0", "organ_0", "vessel_0"), strict=True):
        assert f"{case}.npz: is not there, and --least_confidence needs it; predict with --save_probabilities" in line


@pytest.mark.parametrize("least_confidence", [-0.1, 1.1, float("nan")])
def test_a_least_confidence_is_a_probability(union, teachers, least_confidence):
    (line,) = problems(union, teachers, least_confidence=least_confidence)
    assert "is a probability, 0 to 1" in line


def test_probabilities_that_are_damaged_or_of_something_else_are_refused(union, sure):
    (sure[0] / "organ_0.npz").write_bytes(b"no archive")
    np.savez(sure[0] / "vessel_0.npz", softmax=np.zeros(3))
    np.savez(sure[2] / "vessel_0.npz", probabilities=np.zeros((2, *ORACLE.shape)))
    first, *lines = problems(union, sure)
    assert first == "3 problems, nothing was written:"
    assert "organ_0.npz: cannot be read" in lines[0]
    assert "vessel_0.npz: cannot be read" in lines[1]
    assert "vessel_0.npz: holds (2, 2, 2, 4), not (1, 2, 2, 4): channels and voxels" in lines[2]


def test_every_problem_of_the_maps_is_named_at_once(union, teachers):
    union.predictions("of_vessel", {"vessel": 1}, None, liver_0=np.full(ORACLE.shape, 2))
    (teachers[0] / "kidney_0.nii.gz").unlink()
    (union.folder / "labelsTr" / "vessel_0.nii.gz").write_bytes(b"no image")
    first, *lines = problems(union, teachers)
    assert first == "3 problems, nothing was written:"
    assert "of_liver/kidney_0.nii.gz: is not there; write or predict it" in lines[0]
    assert "of_vessel/liver_0.nii.gz: holds 2" in lines[1]
    assert "labelsTr/vessel_0.nii.gz: cannot be read" in lines[2]


def test_a_prediction_on_another_grid_is_refused(union, teachers):
    from SimpleITK import ReadImage, WriteImage

    other = ReadImage(str(teachers[2] / "liver_1.nii.gz"))
    other.SetSpacing((1.0, 1.0, 2.0))
    WriteImage(other, str(teachers[2] / "liver_1.nii.gz"))
    (line,) = problems(union, teachers)
    assert "of_kidney/liver_1.nii.gz: is not on the grid of the case's other maps (spacing" in line


def test_a_region_that_nobody_knows_in_a_case_is_refused(union, teachers):
    (line,) = problems(union, teachers[:2])
    assert line.startswith("region kidney: not annotated in 4 case(s) (liver_0, liver_1, organ_0, vessel_0), and no")


def test_folders_and_ids_that_are_wrong_are_refused(union, teachers):
    first, *lines = problems(union, [*teachers, teachers[0], union.root / "nowhere"])
    assert first == "3 problems, nothing was written:"
    assert "nowhere: no such folder" in lines[0]
    assert [line.split()[1] for line in lines[1:]] == ["liver:", "liver_tumour:"]
    with pytest.raises(UserError, match="-o 900: the id is taken"):
        complete_labels(union.folder, teachers, 900)


def test_the_folds_are_copied(union, teachers):
    folds = [{"train": ["liver_0", "kidney_0"], "val": ["organ_0", "whole_0"]}]
    (union.root / "pre" / "Dataset900_Union").mkdir()
    (union.root / "pre" / "Dataset900_Union" / "splits_final.json").write_text(json.dumps(folds))
    complete_labels(union.folder, teachers, 910)
    assert json.loads((union.made(910) / "splits_final.json").read_text()) == folds


@pytest.mark.parametrize("place", ["of_vessel/liver_0.nii.gz", "labelsTr/vessel_0.nii.gz"])
def test_a_file_that_is_no_label_map_is_named_in_one_line(union, teachers, spoil, place):
    change, said = spoil
    change((teachers[0].parent if place.startswith("of_") else union.folder) / place)
    (line,) = problems(union, teachers)
    assert f"{place}: {said}" in line
