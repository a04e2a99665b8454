import json
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from skimage import io

from nnunet_mtl.checks.dataset_checks import check_dataset
from nnunet_mtl.checks.findings import report
from nnunet_mtl.cli import main

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
    assert faults[0].remedy or "delete them" in faults[0].text
    assert "\n" not in faults[0].text
    return faults[0]


def _only_detail():
    fault = _only_fault()
    assert fault.level == "problem"
    assert fault.text.startswith("1 ")
    (detail,) = fault.details
    return detail


def test_a_data_set_without_a_fault_is_reported_by_id_and_by_name(data):
    lines = []
    findings = list(check_dataset("900", lines.append))
    assert findings == _check("Dataset900_Union")
    assert {finding.level for finding in findings} == {"ok"}
    text = report(findings)
    assert "3 cases in the block, tasks liver, spleen" in text
    assert "3 label files hold only" in text
    assert "has the labels and the block" in text
    assert "the files of 3 cases are whole" in text
    assert lines == ["case 1 of 3: both_0", "case 2 of 3: liver_0", "case 3 of 3: spleen_0"]


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
    data.write(data.read() | {"numTraining": 4})
    fault = _only_fault()
    assert fault.level == "problem"
    assert "new_0" in fault.text


def test_a_case_of_the_block_without_an_image_is_a_warning(data):
    (data.raw / "imagesTr" / "spleen_0_0000.nii.gz").unlink()
    data.write(data.read() | {"numTraining": 2})
    fault = _only_fault()
    assert (fault.level, "spleen_0" in fault.text) == ("warning", True)


@pytest.mark.parametrize(
    ("values", "dtype", "text"),
    [([0, 1, 3], np.uint8, "holds 3"), ([0, 0.5], np.float32, "holds 0.5")],
)
def test_values_nobody_annotated_are_a_problem(data, values, dtype, text):
    _write_image(data.label("liver_0"), [*values, 0, 0][:3], dtype)
    detail = _only_detail()
    assert "liver_0" in detail
    assert text in detail


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_a_problem(data, value):
    # read with nibabel: SimpleITK reads it as 0
    data.write(data.read() | {"overwrite_image_reader_writer": "NibabelIO"})
    _write_image(data.label("liver_0"), [0, value, 0], np.float32)
    assert f"holds {value}" in _only_detail()


def test_a_label_file_that_is_missing_or_broken_is_a_problem(data):
    data.label("liver_0").unlink()
    assert "liver_0.nii.gz: there is no such file" in _only_detail()
    data.label("liver_0").write_text("not an image, but as long as the header of one would be" * 10)
    assert "liver_0.nii.gz: " in _only_detail()
    assert "cannot be read" in _only_fault().text


def _add_cases(data, number):
    content = data.read()
    for name in (f"more_{i}" for i in range(number)):
        content["nnunet_mtl"]["cases"][name] = {"annotated": ["spleen"]}
        _write_image(data.raw / "imagesTr" / f"{name}_0000.nii.gz", [0, 3])
        _write_image(data.label(name), [0, 3])
    content["numTraining"] += number
    data.write(content)
    shutil.copy(data.raw / "dataset.json", data.preprocessed)


def test_faults_are_counted_by_kind_and_all_are_listed_if_asked(data):
    _add_cases(data, 9)
    for number in range(9):
        _write_image(data.label(f"more_{number}"), [0, 1])
    data.label("both_0").unlink()
    missing, values = _faults()
    assert missing.text == "1 file(s) not there"
    assert values.text == "9 label file(s) with values that must not be there"
    assert len(values.details) == 9
    assert "and 6 more, which --all lists" in report([values])
    for number in range(9):
        assert f"more_{number}" in report([values], every_detail=True)


def _rewritten(path, **changed):
    image = SimpleITK.ReadImage(str(path))
    for what, value in changed.items():
        getattr(image, f"Set{what}")(value)
    SimpleITK.WriteImage(image, str(path))


READERS = ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("spacing", {"Spacing": (1.0001, 1, 1)}),  # ten times nnU-Net's tolerance
        ("origin", {"Origin": (0, 0, 0.5)}),
        ("direction", {"Direction": (np.cos(0.17), -np.sin(0.17), 0, np.sin(0.17), np.cos(0.17), 0, 0, 0, 1)}),
    ],
)
def test_a_label_at_another_place_than_its_image_is_a_problem(data, reader, kind, changed):
    data.write(data.read() | {"overwrite_image_reader_writer": reader})
    _rewritten(data.label("liver_0"), **changed)
    if kind == "direction" and "Reorient" in reader:
        kind = "origin"  # the first voxel is another one after the axes are turned
    detail = _only_detail()
    assert f"labelsTr/liver_0.nii.gz: {kind} (" in detail
    assert _only_fault().text == f"1 label file(s) that differ from their images in {kind}"


@pytest.mark.parametrize("reader", READERS)
def test_what_a_header_rounds_is_no_fault(data, reader):
    data.write(data.read() | {"overwrite_image_reader_writer": reader})
    _rewritten(data.label("liver_0"), Spacing=(1 + 1e-6, 1, 1), Origin=(0, 0, 1e-5))
    assert _faults() == []


def test_a_label_of_another_shape_or_another_number_of_dimensions_is_a_problem(data):
    _write_image(data.label("liver_0"), [0, 1, 2, 0])
    assert "liver_0.nii.gz: (1, 1, 4) voxels against (1, 1, 3)" in _only_detail()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.array([[0, 1, 2]], np.uint8)), str(data.label("liver_0")))
    assert "2 dimensions against 3" in _only_detail()


@pytest.mark.parametrize("reader", READERS)
def test_a_label_file_with_a_time_axis_is_a_problem(data, reader):
    data.write(data.read() | {"overwrite_image_reader_writer": reader})
    label = SimpleITK.ReadImage(str(data.label("liver_0")))
    SimpleITK.WriteImage(SimpleITK.JoinSeries([label] * 4), str(data.label("liver_0")))
    assert "liver_0.nii.gz: " in _only_detail()
    assert "more than one volume (a time axis" in _only_fault().text


@pytest.mark.parametrize("place", ["labelsTr/liver_0.nii.gz", "imagesTr/liver_0_0000.nii.gz"])
def test_a_truncated_file_is_a_problem(data, place):
    path = data.raw / place
    path.write_bytes(path.read_bytes()[:-12])
    assert f"{place}: the compressed file is damaged" in _only_detail()


def test_channels_of_a_case_are_compared_with_each_other(data):
    data.write(data.read() | {"channel_names": {"0": "T1", "1": "T2"}})
    for case, values in CONTENT.items():
        _write_image(data.raw / "imagesTr" / f"{case}_0001.nii.gz", values)
    assert _faults() == []
    _rewritten(data.raw / "imagesTr" / "both_0_0001.nii.gz", Origin=(0, 3, 0))
    assert "both_0_0001.nii.gz: origin (0, 3, 0) against (0, 0, 0), 3 voxels apart" in _only_detail()
    (data.raw / "imagesTr" / "both_0_0001.nii.gz").unlink()
    assert _only_detail() == "both_0: 1, not 2, in 1 image file(s)"


@pytest.mark.parametrize("place", ["labelsTr/liver_0.nii.gz", "imagesTr/liver_0_0000.nii.gz"])
def test_directions_that_are_not_orthonormal_have_a_remedy_of_their_own(data, place):
    affine = np.eye(4)
    affine[0, 2] = 0.3
    nibabel.save(nibabel.Nifti1Image(np.array([0, 1, 2], np.uint8).reshape(3, 1, 1), affine), data.raw / place)
    assert place in _only_detail()
    assert "orthonormal" in _only_fault().text
    assert "NibabelIO" in _only_fault().remedy


def test_test_cases_are_looked_at_too(data):
    image = data.raw / "imagesTs" / "new_0_0000.nii.gz"
    _write_image(image, [0, 1])
    assert _faults() == []
    _write_image(data.raw / "labelsTs" / "new_0.nii.gz", [0, 1, 2])
    assert "labelsTs/new_0.nii.gz: (1, 1, 3) voxels against (1, 1, 2)" in _only_detail()
    (data.raw / "labelsTs" / "new_0.nii.gz").unlink()
    image.write_bytes(image.read_bytes()[:40])
    assert "imagesTs/new_0_0000.nii.gz: the compressed file is damaged" in _only_detail()


def test_regression_targets_of_test_cases_may_be_missing(data):
    content = data.read()
    content["channel_names"] = {"0": "CT", "1": "noNorm"}
    content["nnunet_mtl"]["tasks"]["dose"] = {"type": "regression", "channel": 1}
    for case in content["nnunet_mtl"]["cases"].values():
        case["annotated"].append("dose")
    data.write(content)
    shutil.copy(data.raw / "dataset.json", data.preprocessed)
    for case, values in CONTENT.items():
        _write_image(data.raw / "imagesTr" / f"{case}_0001.nii.gz", values)
    _write_image(data.raw / "imagesTs" / "new_0_0000.nii.gz", [0, 1])
    assert _faults() == []


def test_the_number_of_training_cases_is_that_of_the_files(data):
    data.write(data.read() | {"numTraining": 4})
    fault = _only_fault()
    assert (fault.level, fault.remedy) == ("problem", 'write "numTraining": 3, or add the missing images')
    assert "numTraining is 4, but there are 3 training cases" in fault.text


def test_hidden_files_are_one_line_and_hide_no_other_fault(data):
    (data.raw / "imagesTr" / ".DS_Store").touch()
    (data.raw / "Thumbs.db").touch()
    fault = _only_fault()
    assert fault.level == "warning"
    for case in CONTENT:
        (data.raw / "imagesTr" / f"._{case}_0000.nii.gz").write_bytes(b"Mac OS X")
        (data.raw / "labelsTr" / f"._{case}.nii.gz").write_bytes(b"Mac OS X")
    fault = _only_fault()
    assert fault.level == "problem"  # nnU-Net takes them for cases
    expected = f"8 hidden file(s) of an operating system in {data.raw}, such as Thumbs.db: delete them"
    assert fault.text == expected
    assert report([fault]).splitlines()[:-1] == [f"problem  {expected}"]
    assert "imagesTr/._liver_0_0000.nii.gz" in report([fault], every_detail=True)
    data.label("liver_0").unlink()
    hidden, missing = _faults()
    assert "hidden" in hidden.text
    assert "liver_0.nii.gz: there is no such file" in missing.details[0]


def test_image_files_without_the_number_of_a_channel_are_a_problem(data):
    _write_image(data.raw / "imagesTr" / "liver_1.nii.gz", [0, 1])
    fault = _only_fault()
    assert fault.text.endswith("are not named CASE_0000.nii.gz")
    assert fault.details == ("liver_1.nii.gz",)


def test_channel_names_that_are_missing_are_a_problem(data):
    content = data.read()
    del content["channel_names"]
    data.write(content)
    assert '"channel_names" is missing' in _only_fault().text


def test_pictures_in_colour_are_as_many_channels_in_one_file(data):
    for part in ("imagesTr", "labelsTr"):
        shutil.rmtree(data.raw / part)
        (data.raw / part).mkdir()
    for case, values in CONTENT.items():
        colours = np.zeros((2, len(values), 3), np.uint8)
        io.imsave(data.raw / "imagesTr" / f"{case}_0000.png", colours, check_contrast=False)
        label = np.array([values] * 2, np.uint8)
        io.imsave(data.raw / "labelsTr" / f"{case}.png", label, check_contrast=False)
    data.write(data.read() | {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"})
    shutil.copy(data.raw / "dataset.json", data.preprocessed)
    assert _faults() == []
    io.imsave(data.raw / "labelsTr" / "liver_0.png", np.zeros((2, 3, 3), np.uint8), check_contrast=False)
    assert "liver_0.png: 3 volumes" in _only_detail()


def test_volumes_in_tiff_files_are_read_as_such(data):
    for part in ("imagesTr", "labelsTr"):
        shutil.rmtree(data.raw / part)
        (data.raw / part).mkdir()
    for case, values in CONTENT.items():
        for place in (f"imagesTr/{case}_0000.tif", f"labelsTr/{case}.tif"):
            array = np.array([[[*values, 0, 0]] * 5] * 5, np.uint8)
            tifffile.imwrite(data.raw / place, array, photometric="minisblack")
        (data.raw / "imagesTr" / f"{case}.json").write_text(json.dumps({"spacing": [1, 1, 1]}))
    data.write(data.read() | {"file_ending": ".tif"})
    assert _faults() == []
    (data.raw / "labelsTr" / "liver_0.json").write_text(json.dumps({"spacing": [2, 1, 1]}))
    assert "liver_0.tif: spacing (2, 1, 1) against (1, 1, 1)" in _only_detail()


def test_a_file_ending_that_nobody_reads_is_a_problem(data):
    data.write(data.read() | {"file_ending": ".xyz"})
    texts = [fault.text for fault in _faults()]
    assert any("none of nnU-Net's readers reads '.xyz'" in text for text in texts)


def test_the_command_lists_the_first_few_or_all(data, capsys):
    _add_cases(data, 5)
    for number in range(5):
        data.label(f"more_{number}").unlink()
    assert main(["doctor", "-d", "900"]) == 1
    printed = capsys.readouterr().out
    assert ("more_2.nii.gz: there is no" in printed, "more_3.nii.gz: there is no" in printed) == (True, False)
    assert main(["doctor", "-d", "900", "--all"]) == 1
    assert "more_4.nii.gz: there is no such file" in capsys.readouterr().out


@pytest.mark.slow
def test_many_cases_are_looked_at_by_several_processes(data):
    _add_cases(data, 30)
    data.label("more_7").write_bytes(data.label("more_7").read_bytes()[:-12])
    assert "more_7.nii.gz: the compressed file is damaged" in _only_detail()


def test_files_listed_in_the_dataset_json_are_read_where_they_are(data):
    shutil.move(data.raw / "labelsTr", data.raw / "elsewhere")
    shutil.move(data.raw / "imagesTr", data.raw / "pictures")
    listed = {case: {"images": [f"pictures/{case}_0000.nii.gz"], "label": f"elsewhere/{case}.nii.gz"} for case in CASES}
    data.write(data.read() | {"dataset": listed})
    assert _faults() == []
    _write_image(data.raw / "elsewhere" / "liver_0.nii.gz", [0, 3, 0])
    assert "liver_0" in _only_detail()


def test_a_block_edited_after_planning_is_a_problem_that_sync_mends(data):
    content = data.read()
    content["nnunet_mtl"]["cases"]["both_0"]["annotated"] = ["spleen"]
    data.write(content)
    _write_image(data.label("both_0"), [0, 3, 0, 0])
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


def test_label_files_without_any_foreground_are_a_problem_unless_one_cannot_be_read(data):
    for case in CASES:
        _write_image(data.label(case), [0] * len(CONTENT[case]))
    (fault,) = [finding for finding in _faults() if "foreground" in finding.text]
    assert "`nnunet_mtl extract --with_block`" in fault.remedy
    data.label("both_0").write_bytes(b"")
    assert [finding for finding in _faults() if "foreground" in finding.text] == []
