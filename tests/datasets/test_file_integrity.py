import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.datasets.file_integrity import file_problem


def written(path: Path) -> Path:
    values = np.random.default_rng(0).normal(0, 1, (6, 7, 8)).astype(np.float32)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(path))
    return path


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_whole_file_has_no_problem(tmp_path: Path, ending: str) -> None:
    assert file_problem(written(tmp_path / f"image{ending}")) == ""


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_shortened_file_is_seen_at_every_length(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"image{ending}")
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert file_problem(path), length


def test_what_was_cut_before_it_was_compressed_is_seen(tmp_path: Path) -> None:
    content = written(tmp_path / "image.nii").read_bytes()
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(content[:-1]))
    assert file_problem(path) == f"the file ends after {len(content) - 1} of {len(content)} bytes"
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))  # parallel tools write members
    assert file_problem(path) == ""


def test_one_flipped_bit_in_a_compressed_file_is_seen(tmp_path: Path) -> None:
    path = written(tmp_path / "image.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert "damaged" in file_problem(path)


def test_nifti_2_and_the_other_byte_order_are_known(tmp_path: Path) -> None:
    import nibabel

    values = np.zeros((4, 5, 6), np.int16)
    for number, image in enumerate((nibabel.Nifti2Image(values, np.eye(4)), nibabel.Nifti1Image(values, np.eye(4)))):
        path = tmp_path / f"image{number}.nii"
        nibabel.save(image, path)
        assert file_problem(path) == ""
        path.write_bytes(path.read_bytes()[:-1])
        assert "ends after" in file_problem(path)
    header = nibabel.Nifti1Header(endianness=">")
    path = tmp_path / "swapped.nii"
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4), header), path)
    assert path.read_bytes()[:4] == b"\x00\x00\x01\x5c"
    path.write_bytes(path.read_bytes()[:-1])
    assert "ends after" in file_problem(path)


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert "cannot be read" in file_problem(tmp_path / "none.nii.gz")
