import json

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from skimage import io

from nnunet_mtl.datasets.grid import grid_difference, grid_of, grid_of_image

SHAPE = (4, 20, 30)  # Z, Y, X
AFFINE = np.array([[0.5, 0, 0, -777.5], [0, 0.5, 0, 40], [0, 0, 3, 100], [0, 0, 0, 1]], float)
READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]


def turned(radians, affine=AFFINE):
    cosine, sine = np.cos(radians), np.sin(radians)
    return np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine


def changed(row, column, value, affine=AFFINE):
    new = affine.copy()
    new[row, column] = value
    return new


@pytest.fixture
def difference(tmp_path):
    """What `reader` finds between a file with an affine and one with the affine above; the steps are in mm."""

    def between(reader, affine, expected=AFFINE, shape=SHAPE, scale=1.0):
        grids = []
        for name, matrix in (("found", affine), ("expected", expected)):
            matrix = np.diag([scale, scale, scale, 1.0]) @ matrix
            edges = SHAPE if name == "expected" else shape
            image = nibabel.Nifti1Image(np.zeros(edges[::-1], np.uint8), matrix)
            nibabel.save(image, tmp_path / f"{name}.nii.gz")
            labels, properties = reader().read_seg(str(tmp_path / f"{name}.nii.gz"))
            grids.append(grid_of(labels.shape[1:], properties))
        return grid_difference(*grids)

    return between


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("affine", "kind", "text"),
    [
        (changed(0, 3, -772.5), "origin", ", 10 voxels apart"),
        (changed(2, 3, 100.06), "origin", ", 0.02 voxels apart"),
        (turned(0.17), "origin", "voxels apart"),
        (changed(0, 0, -0.5), ("origin", "direction"), "voxels apart"),
        (changed(1, 1, 0.5001), "spacing", "(3, 0.5001, 0.5) against (3, 0.5, 0.5)"),
    ],
    ids=["far", "near", "turned about 0", "flipped", "spacing"],
)
def test_every_reader_tells_what_is_not_at_its_place(difference, reader, affine, kind, text):
    found = difference(reader, affine)
    assert found.kind in kind
    assert text in found.text


@pytest.mark.parametrize("reader", READERS)
def test_a_direction_counts_by_how_far_it_moves_the_far_corner(difference, reader):
    about_the_first_voxel = turned(0.17)
    about_the_first_voxel[:3, 3] = AFFINE[:3, 3]
    assert difference(reader, about_the_first_voxel).kind == "direction"
    slightly = turned(1e-3)
    slightly[:3, 3] = AFFINE[:3, 3]
    # the corner, 30 voxels away, moves by 0.03 voxels
    assert difference(reader, slightly).text.endswith(", 0.03 voxels apart")
    slightly = turned(1e-4)
    slightly[:3, 3] = AFFINE[:3, 3]
    assert difference(reader, slightly) is None


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_the_rule_is_relative_to_the_voxel(difference, reader, scale):
    near = changed(0, 3, 0.0)
    assert difference(reader, changed(0, 3, 0.25), near, scale=scale).text.endswith(", 0.5 voxels apart")
    assert difference(reader, changed(0, 3, 0.002), near, scale=scale) is None


@pytest.mark.parametrize("reader", READERS)
def test_what_a_header_rounds_is_no_difference(difference, reader):
    assert difference(reader, AFFINE) is None
    assert difference(reader, turned(0.3, AFFINE) * (1 + 1e-7), turned(0.3, AFFINE)) is None


@pytest.mark.parametrize("reader", READERS)
def test_other_numbers_of_voxels_are_told(difference, reader):
    assert difference(reader, AFFINE, shape=(5, 20, 30)) == ("shape", "(5, 20, 30) voxels against (4, 20, 30)")


@pytest.mark.parametrize("reader", [SimpleITKIOWithReorient, NibabelIOWithReorient])
def test_a_file_in_another_orientation_is_on_the_grid_that_its_reader_turns_it_to(difference, reader):
    # the same voxels, the last one along X first
    flipped = AFFINE @ np.array([[-1, 0, 0, SHAPE[2] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert difference(reader, flipped) is None
    assert difference(NibabelIO, flipped).kind == "origin"


def test_readers_that_know_the_spacing_alone_compare_it(tmp_path):
    for name, spacing in (("a", [3, 1, 1]), ("b", [2, 1, 1])):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros(SHAPE, np.uint8), photometric="minisblack")
        (tmp_path / f"{name}.json").write_text(json.dumps({"spacing": spacing}))
    grids = []
    for name in "ab":
        labels, properties = Tiff3DIO().read_seg(str(tmp_path / f"{name}.tif"))
        grids.append(grid_of(labels.shape[1:], properties))
    assert grid_difference(*grids) == ("spacing", "spacing (3, 1, 1) against (2, 1, 1)")
    assert grid_difference(grids[0], grids[0]) is None


def test_natural_images_compare_their_sizes(tmp_path):
    grids = []
    for name, shape in (("a", (8, 9, 3)), ("b", (8, 9)), ("c", (9, 8))):
        io.imsave(tmp_path / f"{name}.png", np.zeros(shape, np.uint8), check_contrast=False)
        image, properties = NaturalImage2DIO().read_images([str(tmp_path / f"{name}.png")])
        grids.append(grid_of(image.shape[1:], properties))
    assert grid_difference(grids[0], grids[1]) is None
    assert grid_difference(grids[0], grids[2]).kind == "shape"


def test_a_slice_and_a_volume_of_one_slice_are_not_one_grid():
    slice_, volume = (SimpleITK.GetImageFromArray(np.zeros(shape, np.uint8)) for shape in ((8, 9), (1, 8, 9)))
    found = grid_difference(grid_of_image(volume), grid_of_image(slice_))
    assert found == ("number of dimensions", "3 dimensions against 2")
    assert grid_difference(grid_of_image(slice_), grid_of_image(slice_)) is None


def test_channels_in_one_file_lie_on_the_grid_of_their_volume(tmp_path):
    volume = SimpleITK.GetImageFromArray(np.zeros(SHAPE, np.float32))
    volume.SetOrigin((10, 20, 30))
    SimpleITK.WriteImage(SimpleITK.JoinSeries([volume, volume]), str(tmp_path / "a.nii.gz"))
    images, properties = SimpleITKIO().read_images([str(tmp_path / "a.nii.gz")])
    assert len(images) == 2
    assert grid_difference(grid_of(images.shape[1:], properties), grid_of_image(volume)) is None
