from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_mtl.inference.case_stages import voxel_volume


def test_a_voxel_of_a_volume_has_its_three_edges() -> None:
    assert voxel_volume((1.5, 0.5, 2.0)) == 1.5
    assert voxel_volume([np.float64(900.0), 1.0, 1.0]) == 900


def test_a_pixel_counts_as_1_mm_thick_whatever_the_reader(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.ones((4, 5), np.float32))
    image.SetSpacing((0.3, 0.7))
    SimpleITK.WriteImage(image, str(tmp_path / "slice.mha"))
    _, properties = SimpleITKIO().read_images([str(tmp_path / "slice.mha")])
    assert voxel_volume(properties["spacing"]) == pytest.approx(0.3 * 0.7)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((4, 5), np.uint8)), str(tmp_path / "picture.png"))
    _, properties = NaturalImage2DIO().read_images([str(tmp_path / "picture.png")])
    assert voxel_volume(properties["spacing"]) == 1
