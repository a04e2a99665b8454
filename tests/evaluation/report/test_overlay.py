import io

import matplotlib.image
import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.evaluation.report.overlay import fullest_slice, overlay_figure, read_upright, region_colour

REGIONS = {"liver": (1, 2), "liver_tumour": (2,), "spleen": (3,)}


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def holds_colour(png, colour):
    return bool((np.abs(pixels(png) - np.array(colour)).max(axis=-1) < 0.02).any())


@pytest.fixture
def labels():
    labels = np.zeros((5, 24, 24), np.uint8)
    labels[2, 2:12, 2:12] = 1
    labels[2, 4:9, 4:9] = 2
    return labels


def test_colours_of_fourteen_regions_differ():
    colours = [region_colour(index) for index in range(14)]
    assert len(set(colours)) == 14
    assert all(0 <= channel <= 1 for colour in colours for channel in colour)


def test_truth_and_prediction_are_painted_in_the_colours_of_their_regions(labels):
    image = np.random.default_rng(0).normal(size=labels.shape)
    prediction = np.zeros_like(labels)
    prediction[2, 14:22, 14:22] = 3
    png = overlay_figure(image, labels, prediction, REGIONS)
    assert all(holds_colour(png, region_colour(index)) for index in range(3))
    without_prediction = overlay_figure(image, labels, np.zeros_like(labels), REGIONS)
    assert holds_colour(without_prediction, region_colour(0))
    assert not holds_colour(without_prediction, region_colour(2))


def test_the_inner_region_lies_over_its_outer_one(labels):
    everything = np.where(labels > 0, 2, 0)
    # Where every liver voxel is tumour, no liver is to be seen: neither painted nor in the legend.
    png = overlay_figure(np.zeros(labels.shape), everything, np.zeros_like(labels), {"liver": (1, 2), "tumour": (2,)})
    picture = pixels(png)
    tumour = (np.abs(picture - np.array(region_colour(1))).max(axis=-1) < 0.02).sum()
    liver = (np.abs(picture - np.array(region_colour(0))).max(axis=-1) < 0.02).sum()
    # What is left of the liver's colour is its patch in the legend.
    assert 0 < liver < tumour


def test_a_flat_image_and_an_image_without_labels_are_drawn(labels):
    nothing = np.zeros_like(labels)
    assert overlay_figure(np.full(labels.shape, 7), nothing, nothing, REGIONS).startswith(b"\x89PNG")


def test_two_dimensional_images_are_drawn(labels):
    png = overlay_figure(np.ones((24, 24)), labels[2], labels[2], REGIONS, spacing_mm=(0.5, 2.0))
    assert holds_colour(png, region_colour(1))


def test_tall_voxels_make_a_tall_picture(labels):
    square, tall = (
        pixels(overlay_figure(np.ones(labels.shape), labels, labels, REGIONS, spacing_mm=spacing_mm)).shape
        for spacing_mm in ((1, 1, 1), (1, 1.5, 1))
    )
    assert tall[0] > square[0]
    assert tall[1] == square[1]


def test_the_slice_is_the_one_that_holds_most_of_every_region():
    organ, tumour = np.zeros((2, 6, 8, 8), bool)
    organ[1, :, :] = True
    organ[4, :4, :] = True
    tumour[4, 0, :3] = True
    tumour[5, 0, :2] = True
    # slice 1 holds 64/96 of the organ; slice 4 holds 32/96 of it and 3/5 of the tumour
    assert fullest_slice([organ]) == 1
    assert fullest_slice([organ, tumour]) == 4
    assert fullest_slice([np.zeros((6, 8, 8), bool)]) == 3


def test_images_are_read_with_the_patients_front_up(tmp_path):
    values = np.arange(24).reshape(2, 3, 4)
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    upright, spacing_mm = read_upright(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(upright, values[:, ::-1])
    assert spacing_mm == pytest.approx((3.0, 2.0, 1.0))


def test_plane_images_are_read_as_they_are(tmp_path):
    image = SimpleITK.GetImageFromArray(np.arange(12).reshape(3, 4))
    image.SetSpacing((0.5, 2.0))
    SimpleITK.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    values, spacing_mm = read_upright(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(values, np.arange(12).reshape(3, 4))
    assert spacing_mm == pytest.approx((2.0, 0.5))
