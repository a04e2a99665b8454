import numpy as np
import pytest

from nnunet_mtl.lab.phantoms.lesions import TUMOUR_CONTRAST_HU, Tumour, draw_mimic

STEP_MM = 2.0
SIZE = 60


@pytest.fixture(scope="module")
def points():
    axis = (np.arange(SIZE) - (SIZE - 1) / 2) * STEP_MM
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1).astype(np.float32)


def _surface_over_ball(mask):
    """Area of a mask's voxel faces over that of a ball of the same volume; about 1.5 for a ball."""
    volume = mask.reshape((SIZE,) * 3).astype(int)
    faces = sum(np.abs(np.diff(volume, axis=axis)).sum() for axis in range(3))
    return faces / (4 * np.pi * (3 * mask.sum() / (4 * np.pi)) ** (2 / 3))


@pytest.mark.parametrize("entropy", range(8))
def test_malignant_tumours_have_rougher_margins_and_patchier_texture_than_benign_ones(points, entropy):
    benign, malignant = (Tumour(np.zeros(3), 25.0, kind, entropy) for kind in (False, True))
    smooth, rough = benign.contains(points), malignant.contains(points)
    assert _surface_over_ball(smooth) < 1.6 < 1.7 < _surface_over_ball(rough)
    assert benign.contrast_hu(points[:, smooth]).std() < 1
    assert malignant.contrast_hu(points[:, rough]).std() > 0.3 * TUMOUR_CONTRAST_HU


def test_benign_and_malignant_tumours_are_alike_in_size_and_mean_contrast(points):
    volumes, contrasts = [], []
    for kind in (False, True):
        tumours = [Tumour(np.zeros(3), 25.0, kind, entropy) for entropy in range(40)]
        masks = [tumour.contains(points) for tumour in tumours]
        volumes.append(np.mean([mask.sum() for mask in masks]) * STEP_MM**3)
        contrasts.append(np.mean([t.contrast_hu(points[:, m]).mean() for t, m in zip(tumours, masks, strict=True)]))
    assert volumes[0] == pytest.approx(4 / 3 * np.pi * 25**3, rel=0.15)
    assert volumes[1] == pytest.approx(volumes[0], rel=0.2)
    assert contrasts == pytest.approx([-TUMOUR_CONTRAST_HU] * 2, rel=0.15)


def _wavelength_mm(field):
    """Mean wavelength of the power of a field on the points' grid, away from its mean."""
    values = field.reshape((SIZE,) * 3)
    power = np.abs(np.fft.fftn((values - values.mean()) * np.hanning(SIZE)[:, None, None])) ** 2
    frequencies = np.fft.fftfreq(SIZE, STEP_MM)
    length = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[frequencies] * 3, indexing="ij")))
    return float(power.sum() / (power * length).sum())


@pytest.mark.parametrize("entropy", range(3))
def test_where_texture_is_the_cue_it_is_fine_or_coarse_with_the_same_mean_and_surface(points, entropy):
    benign, malignant = (Tumour(np.zeros(3), 25.0, kind, entropy, "texture") for kind in (False, True))
    mask = benign.contains(points)
    np.testing.assert_array_equal(mask, malignant.contains(points))
    assert _surface_over_ball(mask) < 1.6
    # In a slice of it too, where a coarse texture is hardly more than one side of a wave.
    for place in (mask, mask & (np.abs(points[0]) < STEP_MM) & (points[1] > 0)):
        for tumour, gain in ((benign, 1.0), (malignant, 1.2)):
            contrast = tumour.contrast_hu(points[:, place]) / TUMOUR_CONTRAST_HU
            assert contrast.mean() == pytest.approx(-1, abs=1e-3)
            assert 0.75 * gain <= contrast.std() / 0.65 <= 1.25 * gain
    # Voxels of the default size are 5.3 to 5.8 mm wide: about 3 to 5 of them are to make a wave.
    assert 3 * 5.3 < _wavelength_mm(malignant.contrast_hu(points)) < 5 * 5.3
    assert _wavelength_mm(benign.contrast_hu(points)) > 1.6 * _wavelength_mm(malignant.contrast_hu(points))


@pytest.mark.parametrize("kind", [False, True])
def test_a_texture_has_no_points_one_or_many(points, kind):
    tumour = Tumour(np.zeros(3), 25.0, kind, 0, "texture")
    assert tumour.contrast_hu(points[:, :0]).shape == (0,)
    assert tumour.contrast_hu(points[:, :1]) == pytest.approx([-TUMOUR_CONTRAST_HU], abs=1e-3)


def test_the_contrast_of_the_texture_sets_its_deviation(points):
    for cue in ("margin_and_texture", "texture"):
        tumours = [Tumour(np.zeros(3), 25.0, True, 0, cue, contrast) for contrast in (0.2, 0.4)]
        deviations = [tumour.contrast_hu(points).std() for tumour in tumours]
        assert deviations[1] == pytest.approx(2 * deviations[0], rel=1e-3)
        default = Tumour(np.zeros(3), 25.0, True, 0, cue).contrast_hu(points).std()
        assert default == pytest.approx(0.65 / 0.2 * deviations[0], rel=1e-3)


def test_mimics_are_smaller_than_any_default_tumour_and_dark_or_bright(points):
    mimics = [draw_mimic(np.zeros(3), np.random.default_rng(entropy)) for entropy in range(20)]
    assert all(mimic.contains(points).sum() * STEP_MM**3 < 4 / 3 * np.pi * 10**3 for mimic in mimics)
    assert {np.sign(mimic.contrast_hu) for mimic in mimics} == {-1, 1}
