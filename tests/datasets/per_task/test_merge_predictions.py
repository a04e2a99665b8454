import json

import numpy as np
import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.per_task.extract import extract
from nnunet_mtl.datasets.per_task.merge_predictions import merge_predictions
from nnunet_mtl.tasks import TaskSet

LIVER = {"liver": [1, 2, 3], "liver_tumour": [3]}
ORACLE = np.arange(16).reshape(2, 2, 4) % 5


@pytest.fixture
def folders(union):
    """What three networks predict of two cases: a vessel through liver and tumour, and nothing at all."""
    empty = np.zeros(ORACLE.shape)
    return [
        union.predictions("of_liver", LIVER, [1, 3], a=np.where(ORACLE == 4, 0, ORACLE), b=empty),
        union.predictions("of_vessel", {"vessel": 1}, None, a=ORACLE >= 2, b=empty),
        union.predictions("of_kidney", {"kidney": [1, 1]}, [1], a=ORACLE == 4, b=empty),
    ]


def read(union, *parts):
    from SimpleITK import GetArrayFromImage, ReadImage

    return GetArrayFromImage(ReadImage(str(union.root.joinpath("out", *parts))))


def test_the_extracts_of_an_oracle_merge_to_the_oracle(union):
    for number, task in enumerate(("liver", "vessel", "kidney"), start=901):
        extract(union.folder, [task], number)
    made = []
    for number in (901, 902, 903):
        found = json.loads((union.made(number) / "dataset.json").read_text())
        labels = {name: value for name, value in found["labels"].items() if name not in ("background", "ignore")}
        made.append(
            union.predictions(
                str(number), labels, found.get("regions_class_order"), whole_0=union.label(number, "whole_0")
            )
        )
    merge_predictions(union.folder, made, union.root / "out")
    np.testing.assert_array_equal(read(union, "whole_0.nii.gz"), ORACLE)


def test_the_union_is_painted_in_nnunets_order_and_the_maps_of_tasks_lose_nothing(union, folders):
    text = merge_predictions(union.folder, folders, union.root / "out")
    # the vessel is painted over the liver, the tumour over the vessel, the kidney over everything
    np.testing.assert_array_equal(read(union, "a.nii.gz"), ORACLE)
    np.testing.assert_array_equal(read(union, "liver", "a.nii.gz"), np.array([0, 1, 1, 2, 0])[ORACLE])
    np.testing.assert_array_equal(read(union, "vessel", "a.nii.gz"), ORACLE >= 2)
    np.testing.assert_array_equal(read(union, "kidney", "a.nii.gz"), ORACLE == 4)
    assert not read(union, "b.nii.gz").any()
    assert text.startswith("merged 2 cases of 3 folders: ")
    assert text.endswith("next: nnunet_mtl evaluate -pred " + str(union.root / "out -ref FOLDER -d Dataset900_Union"))


def test_the_folder_looks_as_predict_leaves_it(union, folders):
    merge_predictions(union.folder, folders, union.root / "out")
    described = json.loads((union.root / "out" / "dataset.json").read_text())
    assert described["labels"] == union.description["labels"]
    assert "cases" not in described["nnunet_mtl"]
    own = TaskSet.from_dataset_json(json.loads((union.root / "out" / "liver" / "dataset.json").read_text()))
    assert (own.regions, own.region_labels) == (("liver", "liver_tumour"), ((1, 2), (2,)))
    from SimpleITK import ReadImage

    for part in ("", "liver/"):
        made, given = (ReadImage(str(place)) for place in (union.root / f"out/{part}a.nii.gz", folders[0] / "a.nii.gz"))
        assert made.GetSpacing() == given.GetSpacing()
        assert made.GetOrigin() == given.GetOrigin()


def test_regions_that_nobody_predicts_are_said(union, folders):
    text = merge_predictions(union.folder, folders[1:], union.root / "out")
    assert text.splitlines()[0].startswith("no folder predicts liver, liver_tumour: background in every map")
    assert sorted(path.name for path in (union.root / "out").iterdir()) == [
        "a.nii.gz",
        "b.nii.gz",
        "dataset.json",
        "kidney",
        "vessel",
    ]


def problems(union, folders):
    with pytest.raises(UserError) as error:
        merge_predictions(union.folder, folders, union.root / "out")
    assert sorted(path.name for path in union.root.iterdir() if "out" in path.name) == []
    return str(error.value).splitlines()


def test_every_problem_of_the_folders_is_named_at_once(union, folders):
    (folders[0] / "b.nii.gz").unlink()
    lung = union.predictions("of_lung", {"lung": 1}, None, a=ORACLE, b=ORACLE)
    again = union.predictions("kidney_again", {"kidney": 1}, None, a=ORACLE, b=ORACLE, c=ORACLE)
    other = union.predictions("other", {"vessel": 1}, None)
    (other / "dataset.json").write_text('{"labels": {"background": 0, "vessel": 1}, "file_ending": ".mha"}')
    bare = union.predictions("bare", {}, None)
    (bare / "dataset.json").unlink()
    first, *lines = problems(union, [*folders, lung, again, other, bare, union.root / "nowhere"])
    assert first == "8 problems, nothing was written:"
    expected = (
        "of_lung/dataset.json: predicts lung, which the data set does not have; it has liver, vessel,",
        "other/dataset.json: file_ending .mha, the data set's is .nii.gz",
        "bare/dataset.json: cannot be read",
        "nowhere: no such folder; check -i",
        "region kidney: predicted by ",
        "of_liver: 2 case(s) missing: b, c; predict them",
        "of_vessel: 1 case(s) missing: c; predict them",
        "of_kidney: 1 case(s) missing: c; predict them",
    )
    for line, part in zip(lines, expected, strict=True):
        assert part in line


def test_every_problem_of_the_maps_is_named_at_once(union, folders):
    union.predictions("of_vessel", {"vessel": 1}, None, b=np.full(ORACLE.shape, 2))
    (folders[0] / "a.nii.gz").write_bytes(b"no image")
    from SimpleITK import ReadImage, WriteImage

    moved = ReadImage(str(folders[2] / "b.nii.gz"))
    moved.SetOrigin((0.0, 0.0, 0.0))
    WriteImage(moved, str(folders[2] / "b.nii.gz"))
    first, unreadable, value, grid = problems(union, folders)
    assert first == "3 problems, nothing was written:"
    assert "of_liver/a.nii.gz: cannot be read" in unreadable
    assert "of_vessel/b.nii.gz: holds 2, its labels are 0 to 1" in value
    assert "of_kidney/b.nii.gz: is not on the grid of the case's other maps (origin" in grid


def test_one_folder_given_twice_predicts_its_regions_twice(union, folders):
    (line,) = problems(union, [folders[2], folders[2]])
    assert "region kidney: predicted by " in line


def test_folders_without_a_prediction_are_refused(union):
    empty = union.predictions("of_liver", LIVER, [1, 3])
    (line,) = problems(union, [empty])
    assert "no prediction named *.nii.gz in " in line


def test_what_is_there_already_is_never_replaced(union, folders):
    out = union.root / "out"
    out.mkdir()
    merge_predictions(union.folder, folders, out)  # an empty folder is none
    before = sorted(out.rglob("*"))
    with pytest.raises(UserError, match="out: is there already; give another -o"):
        merge_predictions(union.folder, folders, out)
    assert sorted(out.rglob("*")) == before
    (union.root / "file").touch()
    with pytest.raises(UserError, match="file: is there already"):
        merge_predictions(union.folder, folders, union.root / "file")


def test_a_file_that_is_no_label_map_is_named_in_one_line(union, folders, spoil):
    change, said = spoil
    change(folders[1] / "a.nii.gz")
    (line,) = problems(union, folders)
    assert f"of_vessel/a.nii.gz: {said}" in line


def test_a_name_that_means_something_else_is_refused(union, folders):
    """A stock network with plain labels calls liver what is liver and no tumour."""
    plain = union.predictions("plain", {"liver": 1, "liver_tumour": 2}, None, a=ORACLE.clip(0, 2), b=ORACLE.clip(0, 2))
    (line,) = problems(union, [plain, *folders[1:]])
    assert "plain/dataset.json: liver_tumour is not part of liver there and is part of it in the data set" in line
