import json
from pathlib import Path

import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.planning.folders import PlanningError
from nnunet_mtl.planning.splits import make_splits, read_splits


def read(dataset):
    return dataset.read("splits_final.json")


def test_folds_are_nnunets_format_stratified_and_grouped(dataset, dataset_json):
    make_splits(900)
    cases = dataset_json["nnunet_mtl"]["cases"]
    splits = read(dataset)
    assert len(splits) == 5
    assert sorted(case for split in splits for case in split["val"]) == sorted(cases)
    for split in splits:
        assert set(split) == {"train", "val"}
        assert sorted(split["train"] + split["val"]) == sorted(cases)
        assert {cases[case]["patient"] for case in split["train"]}.isdisjoint(
            cases[case]["patient"] for case in split["val"]
        )
        # Ten cases per organ in five patients: exactly one patient of each.
        assert sorted(case.split("_")[0] for case in split["val"]) == sorted(["liver", "kidney", "spleen"] * 2)


def test_table_counts_annotated_validation_cases(dataset, dataset_json):
    del dataset_json["nnunet_mtl"]["cases"]["spleen_00"]["patient"]
    dataset_json["nnunet_mtl"]["cases"]["liver_00"]["annotated"] = ["liver", "kidney"]
    dataset.write_raw(dataset_json)
    path, header, *rows = make_splits(900, n_folds=2).split("\n")
    assert path == str(dataset.preprocessed / "splits_final.json")
    assert header.split() == ["fold", "train", "val", "liver", "liver_tumour", "kidney", "spleen"]
    cells = [[int(cell) for cell in row.split()] for row in rows]
    assert [row[0] for row in cells] == [0, 1]
    assert all(row[1] + row[2] == 30 for row in cells)
    assert [sum(column) for column in zip(*cells, strict=True)][2:] == [30, 10, 10, 11, 10]
    for row, split in zip(cells, read(dataset), strict=True):
        organs = [case.split("_")[0] for case in split["val"]]
        kidneys = organs.count("kidney") + ("liver_00" in split["val"])
        assert row[2:] == [len(organs), organs.count("liver"), organs.count("liver"), kidneys, organs.count("spleen")]


def test_same_call_same_folds_and_other_folds_need_leave(dataset):
    make_splits(900)
    first = (dataset.preprocessed / "splits_final.json").read_bytes()
    make_splits("900")
    assert (dataset.preprocessed / "splits_final.json").read_bytes() == first
    with pytest.raises(UserError, match=r"preprocessed.*splits_final\.json: other folds are there; .*--overwrite"):
        make_splits(900, n_folds=3)
    assert (dataset.preprocessed / "splits_final.json").read_bytes() == first
    make_splits(900, n_folds=3, overwrite=True)
    assert len(read(dataset)) == 3


def test_hidden_files_are_no_cases(dataset):
    make_splits(900)
    folds = read(dataset)
    for path in list((dataset.raw / "imagesTr").iterdir()):
        path.with_name(f"._{path.name}").touch()
    make_splits(900)
    assert read(dataset) == folds


def test_training_images_that_cannot_be_listed_are_one_line(dataset, dataset_json):
    for path in (dataset.raw / "imagesTr").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"imagesTr: holds no image named CASE_0000\.nii\.gz; check the folder"):
        make_splits(900)
    (dataset.raw / "imagesTr").rmdir()
    with pytest.raises(UserError, match=r"imagesTr: there is no such folder; nnU-Net expects the training images"):
        make_splits(900)
    dataset.write_raw(dataset_json | {"dataset": 7})
    with pytest.raises(UserError, match=r'dataset\.json: dataset: must be \{case: \{"images"'):
        make_splits(900)
    del dataset_json["file_ending"]
    dataset.write_raw(dataset_json)
    with pytest.raises(UserError, match=r"dataset\.json: file_ending: must be given"):
        make_splits(900)


def test_folds_in_the_raw_folder_are_not_contradicted(dataset):
    (dataset.raw / "splits_final.json").write_text(json.dumps([{"train": ["liver_00"], "val": ["liver_01"]}]))
    with pytest.raises(UserError, match=r"raw.*splits_final\.json: other folds are there; nnU-Net compares it"):
        make_splits(900, overwrite=True)
    assert not (dataset.preprocessed / "splits_final.json").exists()


def test_case_without_patient_is_a_patient_of_its_own(dataset, dataset_json):
    for organ in ("liver", "kidney", "spleen"):
        for i in range(10):
            case = dataset_json["nnunet_mtl"]["cases"][f"{organ}_{i:02}"]
            del case["patient"]
            # Named like other cases: these are patients, and must not be taken for those cases.
            if i < 3:
                case["patient"] = f"{organ}_09"
    dataset.write_raw(dataset_json)
    make_splits(900, n_folds=8)
    assert len(read(dataset)) == 8
    assert [[c for c in split["val"] if c in ("liver_00", "liver_01", "liver_02")] for split in read(dataset)].count(
        []
    ) == 7


def test_region_in_too_few_patients_is_refused(dataset, dataset_json):
    for i in range(4, 10):
        dataset_json["nnunet_mtl"]["cases"][f"spleen_{i:02}"]["annotated"] = ["kidney"]
    dataset.write_raw(dataset_json)
    with pytest.raises(UserError, match=r"5 folds need 5 patients .*, there are 2 for 'spleen'"):
        make_splits(900)
    assert not (dataset.preprocessed / "splits_final.json").exists()


def test_training_case_that_is_not_in_the_block_is_refused(dataset):
    for case in ("lung_00", "lung_01"):
        (dataset.raw / "imagesTr" / f"{case}_0000.nii.gz").touch()
    with pytest.raises(UserError, match=r"lung_00.*lung_01"):
        make_splits(900)


def test_cases_of_the_block_that_are_not_there_are_left_out(dataset):
    (dataset.raw / "imagesTr" / "liver_00_0000.nii.gz").unlink()
    make_splits(900)
    assert not any("liver_00" in split["train"] + split["val"] for split in read(dataset))


def test_files_listed_in_dataset_json_are_the_cases(dataset, dataset_json):
    listed = [case for case in dataset_json["nnunet_mtl"]["cases"] if not case.endswith("9")]
    dataset_json["dataset"] = {case: {"images": [f"{case}.nii.gz"], "label": f"{case}.nii.gz"} for case in listed}
    dataset.write_raw(dataset_json)
    make_splits(900)
    assert sorted(case for split in read(dataset) for case in split["val"]) == sorted(listed)


def test_data_set_without_block_has_every_case_annotated(dataset, dataset_json):
    del dataset_json["nnunet_mtl"]
    dataset.write_raw(dataset_json)
    make_splits(900)
    assert sorted(len(split["val"]) for split in read(dataset)) == [6] * 5


def test_failure_while_writing_leaves_the_old_folds(dataset, failing_disk):
    make_splits(900)
    before = (dataset.preprocessed / "splits_final.json").read_bytes()
    failing_disk()
    with pytest.raises(OSError, match="No space left"):
        make_splits(900, n_folds=3, overwrite=True)
    assert (dataset.preprocessed / "splits_final.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_folds_that_are_no_folds_are_named_in_one_line(dataset, content):
    (dataset.preprocessed / "splits_final.json").write_bytes(content)
    with pytest.raises(
        UserError, match=r"preprocessed.*splits_final\.json: is no list of folds .*--overwrite"
    ) as error:
        make_splits(900)
    assert "\n" not in str(error.value)
    make_splits(900, overwrite=True)
    assert len(read(dataset)) == 5
    (dataset.raw / "splits_final.json").write_bytes(content)
    with pytest.raises(UserError, match=r"raw.*splits_final\.json: is no list of folds .*delete it first"):
        make_splits(900, overwrite=True)


def test_the_classes_of_a_question_are_in_every_fold_where_there_are_enough(dataset, dataset_json):
    block = dataset_json["nnunet_mtl"]
    block["classification"] = {"malignancy": {"kind": "nominal", "classes": ["benign", "malignant"]}}
    # five malignant patients that the stratification by organ alone does not know, all of them of the same organ
    for i in range(10):
        block["cases"][f"liver_{i:02}"] |= {
            "patient": f"P{i}",
            "classes": {"malignancy": ("benign", "malignant")[i > 4]},
        }
    dataset.write_raw(dataset_json)
    for seed in (1, 2, 3):
        _, header, *rows = make_splits(900, seed=seed, overwrite=True).split("\n")
        assert header.split()[-2:] == ["malignancy=benign", "malignancy=malignant"]
        assert [row.split()[-2:] for row in rows] == [["1", "1"]] * 5


def test_a_rare_class_is_no_reason_to_refuse(dataset, dataset_json):
    block = dataset_json["nnunet_mtl"]
    block["classification"] = {"malignancy": {"kind": "nominal", "classes": ["benign", "malignant"]}}
    for case in ("liver_00", "kidney_00"):
        block["cases"][case]["classes"] = {"malignancy": "malignant"}
    dataset.write_raw(dataset_json)
    _, _, *rows = make_splits(900).split("\n")
    assert sorted(row.split()[-1] for row in rows) == ["0", "0", "0", "1", "1"]


SPLITS = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "b"]}]


def test_splits_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(SPLITS))
    assert read_splits(path) == SPLITS


@pytest.mark.parametrize("content", [None, "{", "{}", "[1]", '[{"train": []}]', '[{"train": [], "val": 1}]'])
def test_splits_that_are_none_are_refused_in_one_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "splits_final.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PlanningError, match=r"splits_final\.json: ") as raised:
        read_splits(path)
    assert "\n" not in str(raised.value)
