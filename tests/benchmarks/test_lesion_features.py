import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesion_features import lesion_features, position_features
from scipy.stats import kurtosis, skew

SPACING = (3.0, 1.5, 2.0)
SHAPE = (14, 24, 20)


def _ball(radius_mm, centre=(0.5, 0.5, 0.5), shape=SHAPE, spacing=SPACING):
    axes = [(np.arange(n) + 0.5 - n * c) * step for n, c, step in zip(shape, centre, spacing, strict=True)]
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) < radius_mm**2


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(50, 10, SHAPE)


def test_first_order_numbers_are_those_of_other_libraries(image):
    mask = _ball(12)
    features, values = lesion_features(image, mask, SPACING), image[mask]
    expected = {"mean": values.mean(), "deviation": values.std(), "p90": np.percentile(values, 90)}
    expected |= {"skewness": skew(values), "kurtosis": kurtosis(values, fisher=False)}
    assert {name: features[name] for name in expected} == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.1, 10), offset=st.floats(-500, 500))
def test_what_lies_outside_has_no_influence_and_units_are_those_of_the_image(seed, factor, offset):
    rng = np.random.default_rng(seed)
    image, mask = rng.normal(size=SHAPE), _ball(13) & (rng.random(SHAPE) < 0.8)
    features = lesion_features(image, mask, SPACING)
    elsewhere = np.where(mask, image, 1000 * rng.normal(size=SHAPE))
    assert lesion_features(elsewhere, mask, SPACING) == pytest.approx(features, abs=1e-9)
    scaled = lesion_features(factor * image + offset, mask, SPACING)
    for name, value in features.items():
        if name in ("mean", "p10", "p25", "p50", "p75", "p90"):
            assert scaled[name] == pytest.approx(factor * value + offset, rel=1e-6, abs=1e-6)
        elif name in ("deviation", "gradient") or name.startswith("band"):
            assert scaled[name] == pytest.approx(factor * value, rel=1e-6, abs=1e-6)
        else:
            assert scaled[name] == pytest.approx(value, rel=1e-3, abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.tuples(*[st.integers(-2, 2)] * 3), axis=st.integers(0, 2))
def test_lesion_features_do_not_depend_on_place_or_mirroring(seed, shift, axis):
    image, mask = np.random.default_rng(seed).normal(size=SHAPE), _ball(9)
    features = lesion_features(image, mask, SPACING)
    moved = lesion_features(*(np.flip(np.roll(array, shift, (0, 1, 2)), axis) for array in (image, mask)), SPACING)
    assert moved == pytest.approx(features, rel=1e-9)


def test_the_order_of_the_axes_goes_with_the_spacing(image):
    mask = _ball(12)
    features = lesion_features(image, mask, SPACING)
    turned = lesion_features(image.transpose(2, 0, 1), mask.transpose(2, 0, 1), (SPACING[2], SPACING[0], SPACING[1]))
    assert turned == pytest.approx(features)
    assert lesion_features(image, mask, (3.0, 2.0, 1.5))["band_1"] != pytest.approx(features["band_1"], rel=1e-4)


@pytest.mark.parametrize(("wavelength_mm", "loudest"), [(5, "band_0"), (19, "band_1"), (39, "band_2")])
def test_bands_answer_to_wavelengths_in_mm_whatever_the_voxel_size(wavelength_mm, loudest):
    for spacing in ((2.0, 1.0, 1.0), (1.0, 2.0, 1.5)):
        shape = tuple(round(72 / step) for step in spacing)
        x = (np.arange(shape[2]) * spacing[2])[None, None]
        image = np.broadcast_to(np.sin(2 * np.pi * x / wavelength_mm), shape)
        features = lesion_features(image, np.ones(shape, dtype=bool), spacing)
        bands = {name: value for name, value in features.items() if name.startswith("band")}
        assert max(bands, key=bands.get) == loudest


def test_fine_texture_has_more_contrast_less_homogeneity_and_a_steeper_gradient():
    rng = np.random.default_rng(1)
    x = np.arange(48)
    fine, coarse = (np.sin(2 * np.pi * (x + rng.random()) / period)[None, :].repeat(48, 0) for period in (6, 24))
    mask = np.ones((48, 48), dtype=bool)
    of_fine, of_coarse = (lesion_features(image, mask, (1.0, 1.0), (0.5, 1.0)) for image in (fine, coarse))
    assert of_fine["deviation"] == pytest.approx(of_coarse["deviation"], rel=0.01)
    assert of_fine["contrast"] > 2 * of_coarse["contrast"]
    assert of_fine["homogeneity"] < of_coarse["homogeneity"]
    # The mean of |cos| is 2 / pi; smoothing by half a voxel takes little of a wave of 6.
    assert of_coarse["gradient"] == pytest.approx(0.5 * 2 / np.pi * 2 * np.pi / 24, rel=0.05)
    assert of_fine["gradient"] > 2.5 * of_coarse["gradient"]


def test_the_gradient_is_a_slope_per_mm_of_the_smoothed_image():
    ramp = 4.0 * 3 * np.arange(30)[:, None] + np.zeros((30, 30))
    mask = np.ones((30, 30), dtype=bool)
    # 4 per mm along the first axis, none along the other, of which there are as many pairs.
    assert lesion_features(ramp, mask, (3.0, 1.0), (0.1, 1.0))["gradient"] == pytest.approx(2)
    noise = np.random.default_rng(0).normal(size=(30, 30))
    slopes = [lesion_features(noise, mask, (1.0, 1.0), (scale, 8.0))["gradient"] for scale in (0.1, 1.0, 4.0)]
    assert slopes[0] == pytest.approx(2 / np.sqrt(np.pi), rel=0.1)  # mean distance of two Gaussian numbers
    assert slopes[0] > 2 * slopes[1] > 8 * slopes[2]


def test_co_occurrence_of_a_chessboard_is_extreme():
    board = np.indices((8, 8)).sum(axis=0) % 2 * 7.0
    features = lesion_features(board, np.ones((8, 8), dtype=bool), (1.0, 1.0))
    assert features["contrast"] == 1
    assert features["homogeneity"] == pytest.approx(1 / 16)  # 16 grey levels: each step is 15


def test_volume_and_compactness():
    features = lesion_features(np.zeros((80, 80, 80)), _ball(33, shape=(80,) * 3, spacing=(1.0,) * 3), (1.0,) * 3)
    assert features["volume_mm3"] == pytest.approx(4 / 3 * math.pi * 33**3, rel=0.01)
    assert features["compactness"] == pytest.approx(2 / 3, rel=0.02)
    disc = _ball(60, (0.5, 0.5), (100, 140), (2.0, 1.0))
    features = lesion_features(np.zeros(disc.shape), disc, (2.0, 1.0))
    assert features["volume_mm3"] == pytest.approx(math.pi * 60**2, rel=0.01)
    assert features["compactness"] == pytest.approx(math.pi / 4, rel=0.02)
    rod = np.zeros((4, 4, 20), dtype=bool)
    rod[2, 2] = True
    # Four long sides of 20 faces and two ends: 82 faces.
    compactness = lesion_features(np.zeros(rod.shape), rod, (1.0,) * 3)["compactness"]
    assert compactness == pytest.approx((36 * math.pi * 20**2) ** (1 / 3) / 82)


def test_an_empty_mask_has_no_volume_and_nothing_else(image):
    full = lesion_features(image, _ball(9), SPACING)
    empty = lesion_features(image, np.zeros(SHAPE, dtype=bool), SPACING)
    assert list(empty) == list(full)
    assert empty.pop("volume_mm3") == 0
    assert all(math.isnan(value) for value in empty.values())


def test_one_voxel_and_constant_images_have_numbers(image):
    one = np.zeros(SHAPE, dtype=bool)
    one[3, 4, 5] = True
    for values, mask in ((image, one), (np.full(SHAPE, 40), _ball(9))):
        features = lesion_features(values, mask, SPACING)
        assert all(math.isfinite(value) for value in features.values())
        flat = ("deviation", "skewness", "kurtosis", "band_0", "band_1", "gradient", "contrast")
        assert [features[name] for name in flat] == pytest.approx([0] * len(flat), abs=1e-9)
        assert features["homogeneity"] == 1


def test_the_place_is_relative_to_the_image():
    mask = np.zeros((10, 20, 40), dtype=bool)
    mask[0, 5:15, 38:] = True
    features = position_features(mask, (3.0, 1.0, 0.5))
    assert features == pytest.approx({"volume_mm3": 30.0, "centre_0": 0.05, "centre_1": 0.5, "centre_2": 0.975})
    empty = position_features(np.zeros((4, 4), dtype=bool), (1.0, 1.0))
    assert empty.pop("volume_mm3") == 0
    assert list(empty) == ["centre_0", "centre_1"]
    assert all(math.isnan(value) for value in empty.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.ones((3, 3, 3), dtype=bool)}, "differ in their axes"),
        ({"spacing_mm": (1.0, 1.0)}, "differ in their axes"),
        ({"scales_mm": (3.0, 3.0)}, r"scales_mm=\(3.0, 3.0\) must be positive and ascending"),
        ({"scales_mm": ()}, "must be positive and ascending"),
        ({"scales_mm": (0.0, 2.0)}, "must be positive and ascending"),
    ],
)
def test_what_does_not_fit_is_refused(image, change, message):
    arguments = {"image": image, "mask": _ball(9), "spacing_mm": SPACING} | change
    with pytest.raises(ValueError, match=message):
        lesion_features(**arguments)


def test_a_place_needs_as_many_spacings_as_axes():
    with pytest.raises(ValueError, match="differ in their axes"):
        position_features(_ball(9), (1.0, 1.0))
