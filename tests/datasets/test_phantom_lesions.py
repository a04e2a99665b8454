import numpy as np
import pytest

from nnunet_mtl.datasets.phantom_lesions import TUMOUR_CONTRAST_HU, Tumour, draw_mimic

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


def test_mimics_are_smaller_than_any_default_tumour_and_dark_or_bright(points):
    mimics = [draw_mimic(np.zeros(3), np.random.default_rng(entropy)) for entropy in range(20)]
    assert all(mimic.contains(points).sum() * STEP_MM**3 < 4 / 3 * np.pi * 10**3 for mimic in mimics)
    assert {np.sign(mimic.contrast_hu) for mimic in mimics} == {-1, 1}
