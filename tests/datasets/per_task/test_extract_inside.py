"""`nnunet_mtl extract --inside_parent`: crops that lie where they were."""

import json

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.cli import main
from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.per_task.extract_inside import extract_inside
from nnunet_mtl.datasets.per_task.parent_box import parent_box
from nnunet_mtl.tasks import TaskSet

SPACING = (0.8, 1.1, 3.0)  # x, y, z
DIRECTION = (0, 1, 0, -1, 0, 0, 0, 0, 1)
SHAPE = (6, 20, 30)
# whole 1-3, core 2-3, enhancing 3, painted one over the other; 4 is nnU-Net's ignore label
WHOLE, CORE = (slice(2, 4), slice(5, 12), slice(9, 20)), (slice(2, 3), slice(6, 10), slice(12, 16))
NAMES = ("flair", "t1")


def nested():
    labels = np.zeros(SHAPE, np.uint8)
    labels[WHOLE], labels[CORE], labels[2, 7, 13:15] = 1, 2, 3
    return labels


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin((-30.5, 12.25, 7.0))
    image.SetDirection(DIRECTION)
    SimpleITK.WriteImage(image, str(path))


class Nested:
    def __init__(self, root):
        self.root, self.folder, self.number = root, root / "raw" / "Dataset900_Brain", 0
        self.json = {
            "channel_names": {str(number): name for number, name in enumerate(NAMES)},
            "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3], "ignore": 4},
            "regions_class_order": [1, 2, 3],
            "numTraining": 0,
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
            "nnunet_mtl": {
                "version": 1,
                "tasks": {
                    "whole": {"regions": ["whole"]},
                    "core": {"regions": ["core"], "parent": "whole"},
                    "enhancing": {"regions": ["enhancing"], "parent": "core"},
                },
                "cases": {},
            },
        }

    def add(self, case, labels, annotated=("whole", "core", "enhancing")):
        self.json["nnunet_mtl"]["cases"][case] = {"annotated": list(annotated)}
        for channel in range(len(NAMES)):
            image = np.random.default_rng(self.number).normal(100 * channel, 9, SHAPE).astype(np.float32)
            write(self.folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", image)
            self.number += 1
        write(self.folder / "labelsTr" / f"{case}.nii.gz", labels)
        self.save()

    def save(self):
        self.json["numTraining"] = len(list((self.folder / "labelsTr").iterdir()))
        (self.folder / "dataset.json").write_text(json.dumps(self.json))

    def made(self, number):
        (folder,) = (self.root / "raw").glob(f"Dataset{number}_*")
        return folder

    def image(self, folder, name):
        return SimpleITK.ReadImage(str(folder / f"{name}.nii.gz"))


@pytest.fixture
def brain(tmp_path, monkeypatch):
    for variable, folder in (("raw", "raw"), ("preprocessed", "pre"), ("results", "results")):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / folder))
        (tmp_path / folder).mkdir()
    found = Nested(tmp_path)
    found.add("full", nested())
    found.add("healthy", np.zeros(SHAPE, np.uint8))
    found.add("whole_only", np.minimum(nested(), 1), ("whole",))
    found.add("no_core", np.minimum(nested(), 1))
    return found


def test_a_crops_voxels_lie_where_they_were(brain):
    extract_inside(brain.folder, ["core"], 902, margin_mm=3.0)
    for part, names in (("imagesTr", ("full_0000", "full_0001")), ("labelsTr", ("full",))):
        for name in names:
            whole, crop = (brain.image(folder / part, name) for folder in (brain.folder, brain.made(902)))
            # 3 mm are 1 slice, 3 rows of 1.1 mm and 4 columns of 0.8 mm
            assert crop.GetSize()[::-1] == (4, 13, 19)
            assert (crop.GetSpacing(), crop.GetDirection()) == (whole.GetSpacing(), whole.GetDirection())
            assert crop.GetPixelID() == whole.GetPixelID()
            for index in ((0, 0, 0), (18, 12, 3), (7, 2, 1)):
                place = whole.TransformPhysicalPointToIndex(crop.TransformIndexToPhysicalPoint(index))
                assert place == tuple(np.add(index, (5, 2, 1)))
                if part == "imagesTr":
                    assert crop[index] == whole[place]


def test_labels_are_the_tasks_and_inside_the_parent_alone(brain):
    labels = nested()
    labels[5, 18, 28] = 4  # ignored, outside the box
    labels[1, 4, 8] = 4  # ignored, in the margin
    brain.add("odd", labels)
    text = extract_inside(brain.folder, ["enhancing"], 903, margin_mm=3.0)
    crop = SimpleITK.GetArrayFromImage(brain.image(brain.made(903) / "labelsTr", "odd"))
    # around the core: slices 1-4, rows 3-13, columns 8-20
    expected = np.zeros(SHAPE, np.uint8)
    expected[2, 7, 13:15], expected[1, 4, 8] = 1, 2
    np.testing.assert_array_equal(crop, expected[1:4, 3:13, 8:20])
    assert json.loads((brain.made(903) / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "enhancing": 1,
        "ignore": 2,
    }
    share = 3 * 10 * 12 / np.prod(SHAPE)
    assert f"crops of {share:.0%} of the images" in text


def test_a_task_that_its_parents_values_do_not_hold_is_refused(brain):
    # cut to the box of such a parent, a part of it would be gone without a word
    brain.json["labels"] |= {"enhancing": [3, 4], "ignore": 5}
    brain.save()
    with pytest.raises(UserError, match=r"its label values \[4\] are not among those of its parent core"):
        extract_inside(brain.folder, ["enhancing"], 903)


def test_cases_without_the_parent_are_left_out_with_a_count(brain):
    text = extract_inside(brain.folder, ["core"], 902)
    names = sorted(path.name for path in (brain.made(902) / "labelsTr").iterdir())
    assert names == ["full.nii.gz", "no_core.nii.gz"]
    assert text.splitlines()[0] == (
        "core inside whole: 2 of 4 training cases; left out: 1 parent empty, 1 task not wholly annotated"
    )
    text = extract_inside(brain.folder, ["enhancing"], 903)
    assert "left out: 2 parent empty, 1 parent not wholly annotated" in text
    found = json.loads((brain.made(903) / "dataset.json").read_text())
    assert found["numTraining"] == 1
    assert found["nnunet_mtl_cascade"] == {"task": "enhancing", "parent": "core", "margin_mm": 10.0}
    assert "nnunet_mtl" not in found
    assert brain.made(903).name == "Dataset903_Brain_enhancing_inside_core"
    assert not (brain.made(903) / "imagesTs").exists()


def test_with_the_block_our_trainers_learn_it(brain):
    extract_inside(brain.folder, ["core"], 902, with_block=True)
    found = json.loads((brain.made(902) / "dataset.json").read_text())
    tasks = TaskSet.from_dataset_json(found)
    assert [(task.name, task.parent) for task in tasks.tasks] == [("core", None)]
    assert sorted(tasks.cases) == ["full", "no_core"]
    assert found["labels"] == {"background": 0, "core": [1, 2], "ignore": 3}


def test_regions_of_a_data_set_without_a_block_are_nested_tasks(brain):
    with_block = extract_inside(brain.folder, ["enhancing"], 903)
    crop = SimpleITK.GetArrayFromImage(brain.image(brain.made(903) / "labelsTr", "full"))
    del brain.json["nnunet_mtl"]
    brain.save()
    text = extract_inside(brain.folder, ["enhancing"], 904)
    assert "left out: 3 parent empty" in text  # nothing says that something was not annotated
    assert with_block.splitlines()[1].split("labels")[1].split(";")[0] in text
    other = SimpleITK.GetArrayFromImage(brain.image(brain.made(904) / "labelsTr", "full"))
    np.testing.assert_array_equal(crop, other)
    with pytest.raises(UserError, match="'whole': has no parent in Dataset900_Brain, those"):
        extract_inside(brain.folder, ["whole"], 905)


def test_the_folds_are_the_same_restricted_to_what_is_there(brain):
    folds = [{"train": ["full", "healthy"], "val": ["no_core", "whole_only"]}]
    (brain.folder / "splits_final.json").write_text(json.dumps(folds))
    extract_inside(brain.folder, ["core"], 902)
    assert json.loads((brain.made(902) / "splits_final.json").read_text()) == [{"train": ["full"], "val": ["no_core"]}]


def test_two_dimensional_images_are_cut_too(brain):
    for path in brain.folder.glob("*Tr/*.nii.gz"):
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(path))[:, :, 2], str(path))
    extract_inside(brain.folder, ["core"], 902, margin_mm=2.2)
    crop = brain.image(brain.made(902) / "labelsTr", "full")
    assert crop.GetSize() == (17, 11)
    whole = brain.image(brain.folder / "labelsTr", "full")
    np.testing.assert_array_equal(whole.TransformPhysicalPointToIndex(crop.GetOrigin()), (6, 3))


def test_targets_of_regressions_are_no_images(brain):
    brain.json["channel_names"] = {"0": "CT", "1": "noNorm"}
    brain.json["nnunet_mtl"]["tasks"]["dose"] = {"type": "regression", "channel": 1}
    brain.save()
    extract_inside(brain.folder, ["core"], 902)
    assert json.loads((brain.made(902) / "dataset.json").read_text())["channel_names"] == {"0": "CT"}
    names = sorted(path.name for path in (brain.made(902) / "imagesTr").iterdir())
    assert names == ["full_0000.nii.gz", "no_core_0000.nii.gz"]
    with pytest.raises(UserError, match="-t dose: --inside_parent makes crops for one segmentation task"):
        extract_inside(brain.folder, ["dose"], 903)


def complaint(words, capsys):
    assert main(["extract", "-d", "900", "-o", "905", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return line


def test_what_is_wrong_is_one_line_and_nothing_is_left(brain, capsys):
    assert "has no parent" in complaint(["-t", "whole", "--inside_parent"], capsys)
    assert "makes crops for one segmentation task" in complaint(["-t", "whole", "core", "--inside_parent"], capsys)
    assert "-q: a question is about the whole image" in complaint(["-q", "x", "--inside_parent"], capsys)
    assert "--margin -1: must be" in complaint(["-t", "core", "--inside_parent", "-1"], capsys)
    write(brain.folder / "imagesTr" / "full_0001.nii.gz", np.zeros((6, 20, 29), np.float32))
    assert "(6, 20, 29) voxels, its label map has (6, 20, 30)" in complaint(["-t", "core", "--inside_parent"], capsys)
    (brain.folder / "imagesTr" / "full_0001.nii.gz").write_bytes(b"no image")
    assert "full_0001.nii.gz: cannot be read" in complaint(["-t", "core", "--inside_parent"], capsys)
    brain.json["overwrite_image_reader_writer"] = "SimpleITKIOWithReorient"
    brain.save()
    assert "turns the images it reads" in complaint(["-t", "core", "--inside_parent"], capsys)
    brain.json["overwrite_image_reader_writer"] = "SimpleITKIO"
    brain.save()
    (brain.folder / "labelsTr" / "full.nii.gz").write_bytes(b"no image")
    (brain.folder / "labelsTr" / "no_core.nii.gz").unlink()
    assert main(["extract", "-d", "900", "-o", "905", "-t", "core", "--inside_parent"]) == 2
    assert "2 problems, nothing was written" in capsys.readouterr().err
    assert sorted(path.name for path in (brain.root / "raw").iterdir()) == ["Dataset900_Brain"]


def test_no_case_left_is_refused_with_the_reason(brain, capsys):
    for case in ("full", "no_core"):
        brain.json["nnunet_mtl"]["cases"][case]["annotated"] = ["core"]
    brain.save()
    line = complaint(["-t", "core", "--inside_parent"], capsys)
    assert "no training case of 'core' is left (1 parent empty, 2 parent not wholly annotated" in line


def test_a_crop_that_cannot_be_written_leaves_nothing(brain, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("no space")

    monkeypatch.setattr("nnunet_mtl.datasets.per_task.extract_inside.SimpleITK.WriteImage", full)
    with pytest.raises(UserError, match="the crop cannot be written; check the disk"):
        extract_inside(brain.folder, ["core"], 902)
    assert sorted(path.name for path in (brain.root / "raw").iterdir()) == ["Dataset900_Brain"]


@pytest.mark.parametrize(
    ("spacing", "margin", "expected"),
    [
        ((3.0, 1.0, 1.0), 0.0, ((2, 4), (3, 5), (4, 8))),
        ((3.0, 1.0, 1.0), 2.5, ((1, 5), (0, 8), (1, 10))),
        ((0.699999988, 0.7, 0.7), 1.4, ((0, 6), (1, 7), (2, 10))),  # as NIfTI stores 0.7: two voxels, not three
        ((999.0, 1.0, 1.0), 1.0, ((1, 5), (2, 6), (3, 9))),
        ((0.699999988, 9.0, 9.0), 0.7, ((1, 5), (2, 6), (3, 9))),
    ],
)
def test_the_box_by_hand(spacing, margin, expected):
    mask = np.zeros((6, 9, 10), bool)
    mask[2, 3, 4], mask[3, 4, 7] = True, True
    box = parent_box(mask, spacing, margin)
    assert tuple((one.start, one.stop) for one in box) == expected
    assert parent_box(mask & False, spacing, margin) is None


@pytest.mark.parametrize("place", ["imagesTr/full_0001.nii.gz", "labelsTr/full.nii.gz"])
def test_a_truncated_file_is_named_in_one_line(brain, capsys, place):
    path = brain.folder / place
    path.write_bytes(path.read_bytes()[:-12])
    line = complaint(["-t", "core", "--inside_parent"], capsys)
    assert f"{place}: cannot be read (the compressed file is damaged" in line
    assert sorted(path.name for path in (brain.root / "raw").iterdir()) == ["Dataset900_Brain"]
