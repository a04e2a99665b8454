import json
import shutil

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.dataset_checks import check_dataset
from nnunet_mtl.findings import report

LABELS = {"background": 0, "liver": [1, 2], "tumour": [2], "spleen": [3]}
CASES = {"liver_0": ["liver"], "spleen_0": ["spleen"], "both_0": ["liver", "spleen"]}
CONTENT = {"liver_0": [0, 1, 2], "spleen_0": [0, 3], "both_0": [0, 1, 2, 3]}


def _write_image(path, values, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.array(values, dtype).reshape(1, 1, -1)), str(path))


class _DataSet:
    """A raw data set of three tiny cases that is planned; `edit` changes its raw dataset.json."""

    def __init__(self, folder):
        self.raw, self.preprocessed, self.results = (
            folder / f"nnUNet_{place}" / "Dataset900_Union" for place in ("raw", "preprocessed", "results")
        )
        for case, values in CONTENT.items():
            _write_image(self.raw / "imagesTr" / f"{case}_0000.nii.gz", values)
            _write_image(self.label(case), values)
        self.preprocessed.mkdir(parents=True)
        tasks = {"liver": {"regions": ["liver", "tumour"]}, "spleen": {"regions": ["spleen"]}}
        cases = {case: {"annotated": done} for case, done in CASES.items()}
        self.write(
            {
                "channel_names": {"0": "CT"},
                "labels": LABELS,
                "regions_class_order": [1, 2, 3],
                "numTraining": 3,
                "file_ending": ".nii.gz",
                "nnunet_mtl": {"version": 1, "tasks": tasks, "cases": cases},
            }
        )
        shutil.copy(self.raw / "dataset.json", self.preprocessed)

    def label(self, case):
        return self.raw / "labelsTr" / f"{case}.nii.gz"

    def read(self):
        return json.loads((self.raw / "dataset.json").read_text())

    def write(self, content):
        (self.raw / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def data(tmp_path, monkeypatch):
    for place in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{place}", str(tmp_path / f"nnUNet_{place}"))
    return _DataSet(tmp_path)


def _check(dataset="900"):
    return list(check_dataset(dataset, lambda line: None))


def _faults():
    return [finding for finding in _check() if finding.level != "ok"]


def _only_fault():
    findings = _check()
    faults = [finding for finding in findings if finding.level != "ok"]
    assert len(faults) == 1, report(findings)
    assert faults[0].remedy
    assert "\n" not in faults[0].text
    return faults[0]


def test_a_data_set_without_a_fault_is_reported_by_id_and_by_name(data):
    lines = []
    findings = list(check_dataset("900", lines.append))
    assert findings == _check("Dataset900_Union")
    assert {finding.level for finding in findings} == {"ok"}
    text = report(findings)
    assert "3 cases in the block, tasks liver, spleen" in text
    assert "3 label files hold only" in text
    assert "has the labels and the block" in text
    assert len(lines) == 3
    assert lines[-1].startswith("label file 3 of 3")


def test_a_data_set_without_a_block_is_one_task(data):
    content = data.read()
    del content["nnunet_mtl"]
    data.write(content)
    shutil.copy(data.raw / "dataset.json", data.preprocessed)
    findings = _check()
    assert {finding.level for finding in findings} == {"ok"}
    assert "no nnunet_mtl block" in findings[0].text


def test_a_data_set_that_is_not_there_is_a_problem(data):
    (finding,) = _check("901")
    assert finding.level == "problem"
    assert "901" in finding.text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("nnunet_mtl", {"version": 1}, "nnunet_mtl"),
        ("file_ending", None, "file_ending"),
        ("dataset", {"liver_0": {}}, "dataset"),
        ("dataset", [], "dataset"),
    ],
)
def test_a_dataset_json_that_cannot_be_understood_is_one_problem(data, key, value, text):
    data.write(data.read() | {key: value})
    (finding,) = _check()
    assert finding.level == "problem"
    assert str(data.raw / "dataset.json") in finding.text
    assert text in finding.text


def test_a_data_set_without_images_is_a_problem(data):
    shutil.rmtree(data.raw / "imagesTr")
    (finding,) = _check()
    assert finding.level == "problem"
    assert "imagesTr" in finding.text


def test_an_empty_folder_of_images_is_a_warning(data):
    shutil.rmtree(data.raw / "imagesTr")
    (data.raw / "imagesTr").mkdir()
    assert "no training case" in " ".join(fault.text for fault in _faults())


def test_a_training_case_that_is_not_in_the_block_is_a_problem(data):
    _write_image(data.raw / "imagesTr" / "new_0_0000.nii.gz", [0, 1])
    _write_image(data.label("new_0"), [0, 1])
    fault = _only_fault()
    assert fault.level == "problem"
    assert "new_0" in fault.text


def test_a_case_of_the_block_without_an_image_is_a_warning(data):
    (data.raw / "imagesTr" / "spleen_0_0000.nii.gz").unlink()
    fault = _only_fault()
    assert (fault.level, "spleen_0" in fault.text) == ("warning", True)


@pytest.mark.parametrize(
    ("values", "dtype", "text"),
    [([0, 1, 3], np.uint8, "holds 3"), ([0, 0.5], np.float32, "holds 0.5")],
)
def test_values_nobody_annotated_are_a_problem(data, values, dtype, text):
    _write_image(data.label("liver_0"), values, dtype)
    fault = _only_fault()
    assert fault.level == "problem"
    assert "liver_0" in fault.text
    assert text in fault.text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_a_problem(data, value):
    # read with nibabel: SimpleITK reads it as 0
    data.write(data.read() | {"overwrite_image_reader_writer": "NibabelIO"})
    _write_image(data.label("liver_0"), [0, value], np.float32)
    assert f"holds {value}" in _only_fault().text


def test_a_label_file_that_is_missing_or_broken_is_a_problem(data):
    data.label("liver_0").unlink()
    assert "there is no such file" in _only_fault().text
    data.label("liver_0").write_text("not an image")
    assert "cannot be read" in _only_fault().text


def test_many_wrong_label_files_are_counted(data):
    content = data.read()
    for number in range(9):
        case = f"wrong_{number}"
        content["nnunet_mtl"]["cases"][case] = {"annotated": ["spleen"]}
        _write_image(data.raw / "imagesTr" / f"{case}_0000.nii.gz", [0, 1])
        _write_image(data.label(case), [0, 1])
    data.write(content)
    shutil.copy(data.raw / "dataset.json", data.preprocessed)
    texts = [fault.text for fault in _faults()]
    assert len(texts) == 6
    assert texts[-1] == "4 more label files are wrong"


def test_files_listed_in_the_dataset_json_are_read_where_they_are(data):
    shutil.move(data.raw / "labelsTr", data.raw / "elsewhere")
    shutil.move(data.raw / "imagesTr", data.raw / "pictures")
    listed = {case: {"images": [f"pictures/{case}_0000.nii.gz"], "label": f"elsewhere/{case}.nii.gz"} for case in CASES}
    data.write(data.read() | {"dataset": listed})
    assert _faults() == []
    _write_image(data.raw / "elsewhere" / "liver_0.nii.gz", [0, 3])
    assert "liver_0" in _only_fault().text


def test_a_block_edited_after_planning_is_a_problem_that_sync_mends(data):
    content = data.read()
    content["nnunet_mtl"]["cases"]["both_0"]["annotated"] = ["spleen"]
    data.write(content)
    _write_image(data.label("both_0"), [0, 3])
    fault = _only_fault()
    assert fault.level == "problem"
    assert fault.remedy == "nnunet_mtl sync -d Dataset900_Union"


def test_labels_edited_after_planning_need_planning_again(data):
    content = data.read()
    content["labels"] = {"background": 0, "spleen": [3], "liver": [1, 2], "tumour": [2]}  # the same, in another order
    content["regions_class_order"] = [3, 1, 2]
    data.write(content)
    fault = _only_fault()
    assert fault.level == "problem"
    assert fault.remedy.startswith("nnUNetv2_plan_and_preprocess -d Dataset900_Union")


def test_a_copy_that_cannot_be_read_is_a_problem_and_none_is_fine(data, monkeypatch):
    (data.preprocessed / "dataset.json").write_text("{")
    assert _only_fault().remedy == "nnunet_mtl sync -d Dataset900_Union"
    monkeypatch.chdir(data.preprocessed.parent)  # without the variable nothing is looked for, not even here
    with monkeypatch.context() as context:
        context.delenv("nnUNet_preprocessed")
        assert _faults() == []
    (data.preprocessed / "dataset.json").unlink()
    assert _faults() == []


@pytest.mark.parametrize("place", ["nnUNetTrainer__p__3d/crossval_results_folds_0_1", "t__p__3d/fold_0/validation"])
def test_postprocessing_fitted_on_partial_maps_is_a_warning(data, place):
    fitted = data.results / place / "postprocessing.pkl"
    fitted.parent.mkdir(parents=True)
    fitted.touch()
    fault = _only_fault()
    assert (fault.level, str(fitted) in fault.text) == ("warning", True)
    content = data.read()
    for case in content["nnunet_mtl"]["cases"].values():
        case["annotated"] = ["liver", "spleen"]
    data.write(content)
    shutil.copy(data.raw / "dataset.json", data.preprocessed)
    assert _faults() == []
