"""The writer of all phantoms: nnU-Net's folders, geometry, and a dataset.json that says what was written."""

import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.lab.phantoms.files import Contents, Geometry, WrittenCase, write_cases
from nnunet_mtl.lab.phantoms.options import PhantomError
from nnunet_mtl.tasks import TaskSetError, read_dataset_json

CONTENTS = Contents(("A", "B"), {"blob": (1,)}, {"tasks": {"blob": {"regions": ["blob"]}}})


def _case(name, is_test=False, annotated=("blob",), geometry=None):
    channels = np.stack([np.full((3, 4, 5), value, np.float32) for value in (1.5, -2.5)])
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 2, 3] = 1
    geometry = geometry or Geometry((1.0, 2.0, 3.0))
    return WrittenCase(name, is_test, channels, labels, geometry, {"annotated": list(annotated)}, " (note)")


def _write(folder, cases, contents=CONTENTS, overwrite=False):
    lines = []
    write_cases(folder, contents, iter(cases), len(cases), lines.append, overwrite=overwrite)
    return lines


def test_cases_go_where_nnunet_looks_for_them(tmp_path):
    lines = _write(tmp_path / "d", [_case("a"), _case("b", annotated=()), _case("t", is_test=True)])
    assert lines == ["1/3 a (note)", "2/3 b (note)", "3/3 t (note)"]
    files = {str(path.relative_to(tmp_path / "d")) for path in (tmp_path / "d").rglob("*") if path.is_file()}
    expected = {"dataset.json", "labelsTs.json", "labelsTs/t.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz"}
    expected |= {f"imagesT{end}_000{channel}.nii.gz" for end in ("r/a", "r/b", "s/t") for channel in (0, 1)}
    assert files == expected
    image = SimpleITK.ReadImage(str(tmp_path / "d" / "imagesTr" / "a_0001.nii.gz"))
    assert image.GetSize() == (5, 4, 3)
    assert image.GetSpacing() == (1.0, 2.0, 3.0)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), np.full((3, 4, 5), -2.5))
    tables = [read_dataset_json(tmp_path / "d" / f"{name}.json") for name in ("dataset", "labelsTs")]
    assert tables[0]["nnunet_mtl"]["cases"] == {"a": {"annotated": ["blob"]}, "b": {"annotated": []}}
    assert tables[0]["numTraining"] == 2
    assert tables[0]["channel_names"] == {"0": "A", "1": "B"}
    assert set(tables[1]["nnunet_mtl"]["cases"]) == {"t"}


@pytest.mark.slow
def test_stock_evaluation_reads_the_references(tmp_path):
    """`nnUNetv2_evaluate_simple` takes the first file of a folder for a label map, whatever its name."""
    _write(tmp_path / "d", [_case("a"), _case("t", is_test=True)])
    references, summary = str(tmp_path / "d" / "labelsTs"), tmp_path / "summary.json"
    program = "from nnunetv2.evaluation.evaluate_predictions import evaluate_simple_entry_point as run; run()"
    words = [sys.executable, "-c", program, references, references, "-l", "1", "-np", "1", "-o", str(summary)]
    subprocess.run(words, check=True, capture_output=True)
    assert json.loads(summary.read_text())["foreground_mean"]["Dice"] == 1


def test_origin_and_direction_are_kept(tmp_path):
    geometry = Geometry((1.0, 1.0, 2.0), (4.0, 5.0, 6.0), (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    _write(tmp_path / "d", [_case("a", geometry=geometry)])
    for path in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        image = SimpleITK.ReadImage(str(tmp_path / "d" / path))
        assert image.GetOrigin() == pytest.approx(geometry.origin_mm)
        assert image.GetDirection() == geometry.direction


@pytest.mark.parametrize(
    ("labels", "written", "order"),
    [
        ({"one": (1,), "two": (2,)}, {"one": [1, 1], "two": [2, 2]}, [1, 2]),
        ({"both": (1, 2), "two": (2,)}, {"both": [1, 2], "two": [2]}, [1, 2]),
    ],
)
def test_nnunet_trains_regions_whatever_the_labels(tmp_path, labels, written, order):
    contents = Contents(("A", "B"), labels, None)
    _write(tmp_path / "d", [_case("a")], contents)
    dataset_json = read_dataset_json(tmp_path / "d" / "dataset.json")
    assert dataset_json["labels"] == {"background": 0} | written
    assert dataset_json["regions_class_order"] == order
    assert "nnunet_mtl" not in dataset_json


def test_a_folder_left_half_written_has_no_dataset_json(tmp_path):
    _write(tmp_path / "d", [_case("a")])

    def cases():
        yield _case("b")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cases(tmp_path / "d", CONTENTS, cases(), 2, lambda _: None, overwrite=True)
    assert not (tmp_path / "d" / "dataset.json").exists()
    assert not (tmp_path / "d" / "labelsTr" / "a.nii.gz").exists()


def test_what_the_block_does_not_allow_is_not_written(tmp_path):
    with pytest.raises(TaskSetError, match="no_such"):
        _write(tmp_path / "d", [_case("a", annotated=("no_such",))])
    assert not (tmp_path / "d" / "dataset.json").exists()


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PhantomError, match="exists already"):
        _write(tmp_path, [_case("a")])
    _write(tmp_path, [_case("a")], overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
