import json
import os
import re

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.per_task.extract import extract
from nnunet_mtl.datasets.raw_dataset import RawDataset
from nnunet_mtl.tasks import TaskSet

ORACLE = np.arange(16).reshape(2, 2, 4) % 5


def description(union, number):
    return json.loads((union.made(number) / "dataset.json").read_text())


def label_manager(union, number):
    """As nnU-Net itself reads the labels."""
    found = description(union, number)
    return LabelManager(found["labels"], found.get("regions_class_order"))


def cases_in(folder):
    return sorted({re.sub(r"(_\d{4})?\.nii\.gz", "", path.name) for path in folder.iterdir()})


def test_nested_regions_stay_regions_with_consecutive_values(union):
    text = extract(union.folder, ["liver"], 901)
    labels = label_manager(union, 901)
    assert labels.has_regions
    assert labels.foreground_regions == [(1, 2, 3), (3,)]
    assert (labels.regions_class_order, labels.ignore_label, labels.all_labels) == ([1, 3], 4, [0, 1, 2, 3])
    assert union.made(901).name == "Dataset901_Union_liver"
    assert cases_in(union.made(901) / "imagesTr") == cases_in(union.made(901) / "labelsTr")
    assert cases_in(union.made(901) / "labelsTr") == ["liver_0", "liver_1", "whole_0"]
    np.testing.assert_array_equal(union.label(901, "whole_0"), np.where(ORACLE == 4, 0, ORACLE))
    first, last = text.splitlines()
    assert first == "liver: 3 of 6 training cases are annotated for it; left out: 1 annotated in part, 2 not at all"
    assert last.endswith("next: nnUNetv2_plan_and_preprocess -d 901 --verify_dataset_integrity")


def test_one_leaf_is_a_plain_label_renumbered_and_the_ignore_label_stays_the_highest(union):
    extract(union.folder, ["kidney"], 902, "Kidneys")
    labels = label_manager(union, 902)
    assert not labels.has_regions
    assert description(union, 902)["labels"] == {"background": 0, "kidney": 1, "ignore": 2}
    assert "regions_class_order" not in description(union, 902)
    assert union.made(902).name == "Dataset902_Kidneys"
    expected = np.where(ORACLE == 4, 1, np.where(ORACLE == 0, 2, 0))
    np.testing.assert_array_equal(union.label(902, "kidney_0"), expected)


def test_the_painting_order_has_the_new_values(union):
    union.description["labels"] |= {"kidney": [4, 5], "cyst": [5], "ignore": 6}
    union.description["regions_class_order"].append(5)
    union.description["nnunet_mtl"]["tasks"]["kidney"] = {"regions": ["cyst", "kidney"]}
    union.write_description()
    extract(union.folder, ["kidney"], 902)
    labels = label_manager(union, 902)
    assert labels.label_dict == {"background": 0, "kidney": [1, 2], "cyst": [2], "ignore": 3}
    assert labels.regions_class_order == [1, 2]


def test_a_leaf_of_two_tasks_is_in_the_extract_of_each(union):
    extract(union.folder, ["vessel"], 903)
    assert label_manager(union, 903).foreground_labels == [1]
    np.testing.assert_array_equal(union.label(903, "whole_0"), np.where(ORACLE == 2, 1, 0))
    extract(union.folder, ["liver"], 901)
    assert (union.label(901, "whole_0")[ORACLE == 2] == 2).all()


def test_a_region_of_several_leaves_that_nests_with_none_is_a_region(union):
    del union.description["labels"]["liver_tumour"], union.description["labels"]["ignore"]
    union.description |= {"regions_class_order": [1, 2, 4]}
    union.description["labels"] |= {"liver": [1, 2, 3]}
    union.description["nnunet_mtl"]["tasks"]["liver"] = {"regions": ["liver"]}
    union.write_description()
    extract(union.folder, ["liver"], 901)
    assert label_manager(union, 901).foreground_regions == [(1, 2, 3)]
    assert "ignore" not in description(union, 901)["labels"]


def test_the_description_is_stock_and_keeps_what_is_not_about_labels(union):
    extract(union.folder, ["liver"], 901)
    found = description(union, 901)
    assert "nnunet_mtl" not in found
    assert (found["name"], found["numTraining"]) == ("Dataset901_Union_liver", 3)
    for key in ("channel_names", "file_ending", "overwrite_image_reader_writer", "licence"):
        assert found[key] == union.description[key]
    # of a data set without a block our trainers know that everything is annotated
    assert TaskSet.from_dataset_json(found).annotated("liver_0") == (True, True)


def same_file(union, part, name):
    return (union.folder / part / name).samefile(union.made(901) / part / name)


def test_images_and_unchanged_label_maps_are_hard_links(union):
    before = {path: path.read_bytes() for path in union.folder.rglob("*.nii.gz")}
    extract(union.folder, ["liver"], 901)
    assert same_file(union, "imagesTr", "liver_0_0000.nii.gz")
    assert same_file(union, "imagesTr", "liver_0_0001.nii.gz")
    assert same_file(union, "labelsTr", "liver_0.nii.gz")
    assert not same_file(union, "labelsTr", "whole_0.nii.gz")
    assert not (union.made(901) / "imagesTr" / "liver_0_0000.nii.gz").is_symlink()
    assert {path: path.read_bytes() for path in union.folder.rglob("*.nii.gz")} == before


def test_where_there_are_no_hard_links_files_are_copied(union, monkeypatch):
    union.fail_on(monkeypatch, "os.link")
    extract(union.folder, ["liver"], 901)
    assert not same_file(union, "imagesTr", "liver_0_0000.nii.gz")
    name = "imagesTr/liver_0_0000.nii.gz"
    assert (union.made(901) / name).read_bytes() == (union.folder / name).read_bytes()


def test_a_symbolic_link_is_linked_to_what_it_points_at(union):
    image = union.folder / "imagesTr" / "liver_0_0000.nii.gz"
    elsewhere = image.rename(union.root / "elsewhere.nii.gz")
    image.symlink_to(os.path.relpath(elsewhere, image.parent))
    extract(union.folder, ["liver"], 901)
    made = union.made(901) / "imagesTr" / image.name
    assert not made.is_symlink()
    assert made.samefile(elsewhere)


def add_tests(union, table):
    for case in ("new_0", "new_1", "new_2"):
        union.add(case, [], ORACLE)
        del union.description["nnunet_mtl"]["cases"][case]
        for part in ("images", "labels"):
            (union.folder / f"{part}Ts").mkdir(exist_ok=True)
            for path in (union.folder / f"{part}Tr").glob(f"{case}*"):
                path.rename(union.folder / f"{part}Ts" / path.name)
    union.write_description()
    if table:
        block = union.description["nnunet_mtl"] | {"cases": {case: {"annotated": table[case]} for case in table}}
        beside = union.folder / "labelsTs.json"
        beside.write_text(json.dumps(union.description | {"nnunet_mtl": block}))


def test_every_test_image_is_there_and_the_references_that_are_annotated(union):
    add_tests(union, {"new_0": ["liver", "kidney"], "new_1": ["kidney"]})
    text = extract(union.folder, ["liver"], 901)
    assert cases_in(union.made(901) / "imagesTs") == ["new_0", "new_1", "new_2"]
    assert same_file(union, "imagesTs", "new_2_0001.nii.gz")
    assert [path.name for path in (union.made(901) / "labelsTs").iterdir()] == ["new_0.nii.gz"]
    np.testing.assert_array_equal(union.label(901, "new_0", "labelsTs"), np.where(ORACLE == 4, 0, ORACLE))
    assert "3 training cases and 1 annotated test cases" in text


def test_references_of_which_nothing_is_known_are_left_out(union):
    add_tests(union, {})
    extract(union.folder, ["liver"], 901)
    assert (union.made(901) / "imagesTs").is_dir()
    assert not (union.made(901) / "labelsTs").exists()


def write_splits(union, splits, folder=None):
    target = folder or union.root / "pre" / union.folder.name
    target.mkdir(exist_ok=True)
    (target / "splits_final.json").write_text(json.dumps(splits))


SPLITS = [
    {"train": ["liver_0", "liver_1", "vessel_0"], "val": ["whole_0", "kidney_0", "organ_0"]},
    {"train": ["kidney_0", "whole_0"], "val": ["vessel_0", "liver_1", "liver_0"]},
]


def test_the_folds_are_the_same_restricted_to_what_is_there(union):
    write_splits(union, SPLITS)
    text = extract(union.folder, ["liver"], 901)
    assert json.loads((union.made(901) / "splits_final.json").read_text()) == [
        {"train": ["liver_0", "liver_1"], "val": ["whole_0"]},
        {"train": ["whole_0"], "val": ["liver_1", "liver_0"]},
    ]
    assert "the same folds" in text


def test_nnunets_planning_copies_the_folds_to_where_training_reads_them(union):
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    write_splits(union, SPLITS)
    extract(union.folder, ["liver"], 901)
    planned = union.root / "pre" / "Dataset901_Union_liver"
    planned.mkdir()
    (planned / "dataset_fingerprint.json").write_text("{}")
    ExperimentPlanner(901)
    made = (union.made(901) / "splits_final.json").read_text()
    assert (planned / "splits_final.json").read_text() == made


def test_folds_that_training_reads_count_before_those_of_the_raw_folder(union):
    write_splits(union, SPLITS)
    write_splits(union, SPLITS[:1], union.folder)
    extract(union.folder, ["liver"], 901)
    assert len(json.loads((union.made(901) / "splits_final.json").read_text())) == 2


def test_folds_of_the_raw_folder_count_where_nothing_was_planned(union, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    write_splits(union, SPLITS, union.folder)
    extract(union.folder, ["liver"], 901)
    assert (union.made(901) / "splits_final.json").is_file()


def test_without_folds_there_are_none(union):
    text = extract(union.folder, ["liver"], 901)
    assert not (union.made(901) / "splits_final.json").exists()
    assert "the same folds" not in text


def test_a_fold_that_would_be_empty_is_an_error_that_says_what_to_do(union):
    write_splits(union, [SPLITS[0], {"train": ["kidney_0"], "val": ["liver_0", "liver_1"]}])
    with pytest.raises(UserError, match=r"nothing is left of fold 1 \(train\); .*make-splits -d Dataset900_Union"):
        extract(union.folder, ["liver"], 901)
    assert union.raw_names() == ["Dataset900_Union"]


@pytest.mark.parametrize("content", ["{", "[1]", '[{"train": []}]', "3", '{"train": ["a"]}'])
def test_folds_that_are_none_are_refused(union, content):
    write_splits(union, [])
    (union.root / "pre" / union.folder.name / "splits_final.json").write_text(content)
    with pytest.raises(UserError, match=r"splits_final\.json: is no list of folds .*make-splits"):
        extract(union.folder, ["liver"], 901)


def refused(union, match, task, *arguments, **options):
    before = union.raw_names()
    with pytest.raises(UserError, match=match) as error:
        extract(union.folder, [task], *arguments, **options)
    assert len(str(error.value).splitlines()) == 1
    assert union.raw_names() == before


def test_what_is_asked_wrongly_is_refused_in_one_line(union):
    refused(union, "-t 'lung': no such task in Dataset900_Union; it has liver, vessel, kidney", "lung", 901)
    refused(union, "-o 900: the id is taken by Dataset900_Union; give another", "liver", 900)
    refused(union, "-o 1000: a data set id lies between 1 and 999", "liver", 1000)
    refused(union, "--name '../x': use letters", "liver", 901, "../x")
    refused(union, "--name 'aaa.*must not be longer than 120 characters", "liver", 901, "a" * 121)


@pytest.mark.parametrize("place", ["raw", "pre", "results"])
def test_an_id_that_is_taken_anywhere_is_refused(union, place):
    (union.root / place / "Dataset901_Other").mkdir()
    refused(union, "-o 901: the id is taken by Dataset901_Other", "liver", 901)


def test_no_case_left_is_refused_with_the_reason(union):
    for case in ("liver_0", "liver_1", "whole_0"):
        union.description["nnunet_mtl"]["cases"][case]["annotated"] = []
    union.write_description()
    refused(union, "no training case for task 'liver' is left .left out: 1 annotated in part, 5 not at all", "liver", 9)


def test_a_data_set_without_a_block_is_refused(union):
    del union.description["nnunet_mtl"]
    (union.folder / "dataset.json").write_text(json.dumps(union.description))
    refused(union, "has no nnunet_mtl block.*without --with_block", "liver", 901, with_block=True)
    plain = {
        name: value[0] if isinstance(value, list) else value for name, value in union.description["labels"].items()
    }
    union.description["labels"] = plain | {"liver": 1, "liver_tumour": 3}
    (union.folder / "dataset.json").write_text(json.dumps(union.description))
    refused(union, "has no nnunet_mtl block", "all", 901)


def test_without_a_block_every_region_is_a_task(union):
    del union.description["nnunet_mtl"]
    (union.folder / "dataset.json").write_text(json.dumps(union.description))
    text = extract(union.folder, ["liver_tumour"], 901)
    assert text.startswith("liver_tumour: 6 of 6 training cases")
    np.testing.assert_array_equal(union.label(901, "whole_0"), np.where(ORACLE == 3, 1, 0))


@pytest.mark.parametrize(
    ("name", "message"),
    [("../tumour", "must not contain a slash"), ("Liver", "'liver' and 'Liver' must differ in more")],
)
def test_regions_that_become_tasks_have_names_of_folders(union, name, message):
    del union.description["nnunet_mtl"]
    labels = union.description["labels"]
    union.description["labels"] = {name if old == "liver_tumour" else old: value for old, value in labels.items()}
    (union.folder / "dataset.json").write_text(json.dumps(union.description))
    refused(union, f"labels: as .*{message}.*; rename", "liver", 901)


def test_a_data_set_without_a_file_ending_is_refused(union):
    del union.description["file_ending"]
    union.write_description()
    refused(union, "file_ending: must be given", "liver", 901)


def test_a_case_that_the_block_does_not_know_is_refused(union):
    del union.description["nnunet_mtl"]["cases"]["vessel_0"], union.description["nnunet_mtl"]["cases"]["kidney_0"]
    union.write_description()
    refused(union, r"2 case\(s\) missing: kidney_0, vessel_0", "liver", 901)


def test_a_data_set_without_images_is_refused(union):
    for path in (union.folder / "imagesTr").iterdir():
        path.unlink()
    refused(union, r"imagesTr: holds no image named CASE_0000\.nii\.gz", "liver", 901)


def test_every_label_map_that_is_wrong_is_named_and_nothing_is_left(union):
    union.add("strange_0", ["liver"], np.where(ORACLE == 1, 9, 0))
    union.add("strange_1", ["liver"], 0 * ORACLE)
    union.add("other_0", ["kidney"], np.where(ORACLE == 1, 9, 0))
    (union.folder / "labelsTr" / "liver_0.nii.gz").unlink()
    (union.folder / "labelsTr" / "liver_1.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError) as error:
        extract(union.folder, ["liver"], 901)
    first, *lines = str(error.value).splitlines()
    assert first == "3 problems, nothing was written:"
    for line, expected in zip(
        lines, ("liver_0.nii.gz: is not there", "liver_1.nii.gz: cannot be", "holds 9"), strict=True
    ):
        assert expected in line
    assert union.raw_names() == ["Dataset900_Union"]


def test_an_image_that_is_gone_leaves_nothing_half_written(union):
    gone = union.folder / "imagesTr" / "whole_0_0001.nii.gz"
    gone.unlink()
    gone.symlink_to(union.root / "nowhere.nii.gz")
    refused(union, "nowhere.nii.gz: cannot be read or written .No such file", "liver", 901)


def test_a_disk_that_is_full_leaves_nothing_half_written(union, monkeypatch):
    union.fail_on(monkeypatch, "nnunetv2.imageio.simpleitk_reader_writer.SimpleITKIO.write_seg")
    refused(union, r"whole_0\.nii\.gz: cannot be written .*No space left", "liver", 901)


def test_what_a_killed_run_left_does_not_matter(union):
    (union.root / "raw" / ".Dataset901_Union_liver.writing" / "imagesTr").mkdir(parents=True)
    extract(union.folder, ["liver"], 901)
    assert union.raw_names() == ["Dataset900_Union", "Dataset901_Union_liver"]


def test_files_that_are_listed_in_the_description_get_nnunets_names(union):
    listed = {
        case: {
            "images": [f"imagesTr/{case}_0000.nii.gz", str(union.folder / "imagesTr" / f"{case}_0001.nii.gz")],
            "label": f"labelsTr/{case}.nii.gz",
        }
        for case in ("liver_0", "kidney_0")
    }
    union.description["dataset"] = listed
    union.write_description()
    raw = RawDataset.read(union.folder)
    assert sorted(raw.training) == ["kidney_0", "liver_0"]
    assert raw.dataset_json["dataset"] == listed  # nnU-Net's function would have written into it
    extract(union.folder, ["liver"], 901)
    assert "dataset" not in description(union, 901)
    assert cases_in(union.made(901) / "labelsTr") == ["liver_0"]
    assert same_file(union, "imagesTr", "liver_0_0001.nii.gz")
    union.description["dataset"] = {"../liver_0": {"images": ["a.nii.gz"], "label": "b.nii.gz"}}
    union.write_description()
    refused(union, "dataset: the name of a case must not contain a slash", "liver", 902)
    union.description["dataset"] = {"liver_0": "imagesTr"}
    union.write_description()
    refused(union, "dataset: must be .case:", "liver", 902)


def test_spacing_files_beside_tiff_images_come_along(union):
    from tifffile import imwrite

    union.description |= {"file_ending": ".tif", "channel_names": {"0": "CT"}}
    union.description["overwrite_image_reader_writer"] = "Tiff3DIO"
    union.write_description()
    for case in union.description["nnunet_mtl"]["cases"]:
        for place in (f"imagesTr/{case}_0000", f"labelsTr/{case}"):
            imwrite(union.folder / f"{place}.tif", ORACLE.astype(np.uint8))
            (union.folder / f"{place.removesuffix('_0000')}.json").write_text('{"spacing": [3, 1, 2]}')
    imwrite(union.folder / "labelsTr" / "liver_0.tif", ORACLE.clip(max=3).astype(np.uint8))
    extract(union.folder, ["liver"], 901)
    assert same_file(union, "labelsTr", "liver_0.tif")
    for place in ("imagesTr/liver_0.json", "labelsTr/liver_0.json", "labelsTr/whole_0.json"):
        assert json.loads((union.made(901) / place).read_text()) == {"spacing": [3, 1, 2]}


def test_two_dimensional_images_stay_so(union):
    import SimpleITK

    for case in union.description["nnunet_mtl"]["cases"]:
        for place in (f"imagesTr/{case}_0000", f"imagesTr/{case}_0001", f"labelsTr/{case}"):
            slice_ = SimpleITK.GetImageFromArray(ORACLE[0].astype(np.uint8))
            SimpleITK.WriteImage(slice_, str(union.folder / f"{place}.nii.gz"))
    extract(union.folder, ["kidney"], 901)
    np.testing.assert_array_equal(union.label(901, "whole_0"), np.where(ORACLE[0] == 4, 1, 0))


def test_images_that_no_reader_of_nnunet_reads_are_refused(union):
    del union.description["overwrite_image_reader_writer"]
    union.description["file_ending"] = ".dcm"
    for path in union.folder.glob("*Tr/*"):
        path.rename(str(path).replace(".nii.gz", ".dcm"))
    union.write_description()
    refused(union, r"liver_0_0000\.dcm: none of nnU-Net's readers|kidney_0_0000\.dcm: none of", "liver", 901)


def test_a_file_that_is_no_label_map_is_named_in_one_line(union, spoil):
    change, said = spoil
    change(union.folder / "labelsTr" / "liver_0.nii.gz")
    with pytest.raises(UserError) as error:
        extract(union.folder, ["liver"], 901)
    assert f"labelsTr/liver_0.nii.gz: {said}" in str(error.value)
    assert "\n" not in str(error.value)
    assert union.raw_names() == ["Dataset900_Union"]
