import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_mtl.datasets.label_maps import LabelMapError, LabelMapReader, combinations, membership, painted, refuse

SETTINGS = settings(max_examples=100, derandomize=True, deadline=None)


@SETTINGS
@given(st.lists(st.lists(st.integers(0, 40), min_size=12, max_size=12), min_size=1, max_size=4))
def test_combinations_hold_every_voxel_and_nothing_else(rows):
    maps = [np.array(row).reshape(2, 2, 3) for row in rows]
    found = combinations(maps)
    for place, labels in enumerate(maps):
        np.testing.assert_array_equal(found.values[:, place][found.of_voxel], labels)
    assert len(np.unique(found.values, axis=0)) == len(found.values)
    assert found.voxels.tolist() == [(found.of_voxel == i).sum() for i in range(len(found.values))]
    assert found.voxels.min() > 0


def test_combinations_of_very_many_values_are_told_apart():
    first = np.random.default_rng(0).permutation(40000).reshape(4, 100, 100)
    # with as many more values there are more keys than 32 bits number
    maps = [first, first[::-1] + 25536, first % 7]
    found = combinations(maps)
    for place, labels in enumerate(maps):
        np.testing.assert_array_equal(found.values[:, place][found.of_voxel], labels)
    assert found.voxels.tolist() == [1] * 40000


def test_membership_of_values_in_regions():
    table = membership([(1, 2), (2,)], 4)
    assert table.tolist() == [[False, False], [True, False], [True, True], [False, False]]


@SETTINGS
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_painting_is_nnunets_own(rows):
    order = [3, 1, 2]
    labels = LabelManager({"background": 0, "a": [1, 2, 3], "b": [1, 2], "c": [2]}, order)
    expected = labels.convert_probabilities_to_segmentation(np.array(rows, float).T[:, :, None, None])
    np.testing.assert_array_equal(painted(np.array(rows), order), expected.ravel())


@pytest.fixture
def reader():
    return LabelMapReader(SimpleITKIO(), [])


def write(path, values, spacing=(1.0, 1.0, 3.0)):
    image = SimpleITK.GetImageFromArray(np.array(values)[None, None])
    image.SetSpacing(spacing)
    SimpleITK.WriteImage(image, str(path))
    return path


def test_a_map_that_is_right_gives_no_problem_and_comes_back_as_written(reader, tmp_path):
    found = reader.read(write(tmp_path / "a.nii.gz", [0.0, 1.0, 2.0]), 3)
    assert found.labels.tolist() == [[[0, 1, 2]]]
    reader.write(tmp_path / "b.nii.gz", np.array([[[300, 1, 0]]]), found)
    again = reader.read(tmp_path / "b.nii.gz", 301, found)
    assert again.labels.tolist() == [[[300, 1, 0]]]
    assert reader.problems == []


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0, 3, 2], "holds 3, its labels are 0 to 2"),
        ([-1, 0, 0], "holds -1,"),
        ([0.5, 1.0, 0.0], "holds 0.5,"),
        ([np.nan, 1.0, 0.0], "holds nan,"),
        (list(range(20, 0, -1)), "holds 3, 4, 5, 6, 7, 8, ...,"),
    ],
)
def test_a_value_outside_the_table_is_a_problem(reader, tmp_path, values, shown):
    assert reader.read(write(tmp_path / "a.nrrd", values), 3) is not None
    (problem,) = reader.problems
    assert shown in problem


def test_every_problem_of_a_map_is_told(reader, tmp_path):
    first = reader.read(write(tmp_path / "a.nii.gz", [0, 1]), 3)
    reader.read(write(tmp_path / "b.nii.gz", [0, 3], (1.0, 1.0, 2.0)), 3, first)
    value, grid = reader.problems
    assert "holds 3" in value
    assert "not on the grid of the case's other maps (spacing (2, 1, 1) against (3, 1, 1))" in grid


def test_a_map_that_cannot_be_read_or_is_not_there_is_a_problem(reader, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no image")
    assert reader.read(tmp_path / "a.nii.gz", 3) is None
    assert reader.read(tmp_path / "b.nii.gz", 3) is None
    damaged, missing = reader.problems
    assert "a.nii.gz: cannot be read" in damaged
    assert "b.nii.gz: is not there" in missing


def test_a_map_that_cannot_be_written_is_an_error_of_one_line(reader, tmp_path):
    found = reader.read(write(tmp_path / "a.nii.gz", [0, 1]), 3)
    with pytest.raises(LabelMapError, match=r"^.*nowhere/b\.nii\.gz: cannot be written .*; check the disk$"):
        reader.write(tmp_path / "nowhere" / "b.nii.gz", found.labels, found)


def test_one_problem_is_one_line_and_none_is_none():
    refuse([])
    with pytest.raises(LabelMapError, match=r"^a; nothing was written$"):
        refuse(["a"])
    with pytest.raises(LabelMapError, match=r"^2 problems, nothing was written:\n  a\n  b$"):
        refuse(["a", "b"])


@pytest.mark.parametrize("reader", [SimpleITKIO(), NibabelIO(), NibabelIOWithReorient()])
@pytest.mark.parametrize("spacing", [(1e-3, 1e-3, 2e-3), (1.0, 1.0, 3.0)])
def test_a_map_a_voxel_beside_the_others_is_a_problem_whatever_the_reader(reader, spacing, tmp_path):
    maps = LabelMapReader(reader, [])
    first = maps.read(write(tmp_path / "a.nii.gz", [0.0, 1.0, 2.0], spacing), 3)
    image = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    image.SetOrigin((0.0, spacing[1], 0.0))
    SimpleITK.WriteImage(image, str(tmp_path / "b.nii.gz"))
    maps.read(tmp_path / "b.nii.gz", 3, first)
    (problem,) = maps.problems
    assert "b.nii.gz: is not on the grid of the case's other maps (origin" in problem
    assert "1 voxels apart" in problem
