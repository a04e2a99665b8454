import gzip

import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage import io

from nnunet_mtl.datasets.label_files import LabelFileError, read_label_file

VOLUME = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)


def write(path, values=VOLUME):
    image = SimpleITK.GetImageFromArray(values, isVector=False)
    image.SetSpacing((1.0, 2.0, 3.0, 1.0)[: image.GetDimension()])
    SimpleITK.WriteImage(image, str(path))
    return path


def problem(path, reader):
    with pytest.raises(LabelFileError) as caught:
        read_label_file(path, reader())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_a_map_comes_back_as_written(tmp_path, reader):
    found = read_label_file(write(tmp_path / "a.nii.gz"), reader())
    np.testing.assert_array_equal(found.labels, VOLUME)
    assert tuple(found.properties["spacing"]) == (3, 2, 1)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_a_truncated_file_is_no_map_of_zeros(tmp_path, reader):
    path = write(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-20])
    assert "cannot be read (the compressed file is damaged" in problem(path, reader)
    path.write_bytes(gzip.compress(gzip.decompress(write(path).read_bytes())[:400]))
    assert "cannot be read (the file ends after 400 of 472 bytes)" in problem(path, reader)
    path.write_bytes(b"")
    assert "cannot be read (the file is empty); copy, write or predict it again" in problem(path, reader)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_a_fourth_axis_is_refused(tmp_path, reader):
    message = problem(write(tmp_path / "a.nii.gz", np.stack([VOLUME] * 2)), reader)
    assert "holds 2 channels or time points, a label map has one" in message or "only 3d images" in message
    if reader is SimpleITKIO:  # NRRD keeps an axis of one entry
        assert "has 4 axes, a label map has 3 at most" in problem(write(tmp_path / "a.nrrd", VOLUME[None]), reader)


def test_colours_are_no_labels(tmp_path):
    path = tmp_path / "a.png"
    io.imsave(path, np.zeros((4, 5, 3), np.uint8), check_contrast=False)
    assert "holds 3 channels or time points" in problem(path, NaturalImage2DIO)
    io.imsave(path, VOLUME[0], check_contrast=False)
    assert read_label_file(path, NaturalImage2DIO()).labels.shape == (1, 5, 6)


def test_what_is_not_there_and_what_no_reader_reads(tmp_path):
    assert "is not there; write or predict it" in problem(tmp_path / "a.nii.gz", SimpleITKIO)
    (tmp_path / "a.nrrd").write_bytes(b"no image" * 100)
    assert "cannot be read (" in problem(tmp_path / "a.nrrd", SimpleITKIO)
