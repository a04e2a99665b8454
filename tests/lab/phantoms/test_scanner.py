import itertools

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from nnunet_mtl.lab.phantoms.anatomy import Body, Leaf, Tissue
from nnunet_mtl.lab.phantoms.lesions import TUMOUR_CONTRAST_HU, Disease
from nnunet_mtl.lab.phantoms.scanner import SCANNERS, Pose, scan

MATRIX = (40, 64, 64)


def _scan(scanner, contrast_to_noise=3.0, matrix=MATRIX, seed=0):
    body = Body(np.random.default_rng(5), Disease({}, False, (20.0, 30.0), 0.0))
    pose = Pose(np.zeros(3), np.zeros(3), np.ones(3))
    return scan(body, pose, scanner, matrix, contrast_to_noise, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def scans():
    return [_scan(scanner) for scanner in SCANNERS]


@pytest.fixture(scope="module")
def quiet_scans():
    return [_scan(scanner, contrast_to_noise=1e4) for scanner in SCANNERS]


def _oriented(values, taken):
    """Return an array with its axes towards the patient's head, back and left."""
    cosines = np.array(taken.direction)[:: values.ndim + 1][::-1]
    return np.flip(values, tuple(np.flatnonzero(cosines < 0)))


def _level(taken, leaf):
    return float(np.median(taken.image[binary_erosion(taken.leaves == leaf, iterations=2)]))


def _place_mm(taken, leaf):
    index = np.argwhere(taken.leaves == leaf).mean(axis=0)[::-1]
    cosines = np.reshape(taken.direction, (index.size, index.size))
    return np.array(taken.origin_mm) + cosines @ (np.array(taken.spacing_mm) * index)


@pytest.mark.parametrize("matrix", [MATRIX, (64, 64)])
def test_orientations_differ_and_every_structure_keeps_its_place_in_the_patient(matrix):
    scans = [_scan(scanner, matrix=matrix) for scanner in SCANNERS]
    assert len({taken.direction for taken in scans}) == 3 if len(matrix) == 3 else 2
    for taken in scans:
        # A few mm: scanners differ in voxel size, and the smallest field of view cuts nothing of the kidneys.
        np.testing.assert_allclose(_place_mm(taken, Leaf.KIDNEY_LEFT), _place_mm(scans[0], Leaf.KIDNEY_LEFT), atol=4)
        assert _place_mm(taken, Leaf.KIDNEY_LEFT)[0] > 20 > -20 > _place_mm(taken, Leaf.KIDNEY_RIGHT)[0]


def test_spacing_field_of_view_and_number_of_slices_differ(scans):
    for first, second in itertools.combinations(scans, 2):
        assert abs(first.spacing_mm[2] - second.spacing_mm[2]) > 0.4
        assert abs(first.spacing_mm[0] - second.spacing_mm[0]) > 0.1
        assert first.image.shape[0] != second.image.shape[0]
    assert all(taken.image.shape == taken.leaves.shape for taken in scans)


def test_slices_are_the_coarsest_axis_so_that_nnunet_keeps_the_order_of_the_axes(scans):
    columns, rows, slices = np.median([taken.spacing_mm for taken in scans], axis=0)
    assert slices > 1.05 * max(rows, columns)


def test_phases_order_the_organs_differently(quiet_scans):
    organs = (Leaf.LIVER, Leaf.SPLEEN, Leaf.KIDNEY_LEFT, Leaf.PANCREAS, Leaf.VESSEL)
    orders = {
        tuple(sorted(organs, key=lambda leaf: SCANNERS[i].phase_hu[Tissue[leaf.name.split("_")[0]]])) for i in range(3)
    }
    assert len(orders) == 3
    levels = [[_level(taken, leaf) for leaf in (Leaf.LIVER, Leaf.SPLEEN, Leaf.KIDNEY_LEFT)] for taken in quiet_scans]
    for first, second in itertools.combinations(levels, 2):
        # An affine map would keep the ratio of two differences.
        shares = [(level[0] - level[1]) / (level[2] - level[1]) for level in (first, second)]
        assert abs(shares[0] - shares[1]) > 0.3


def test_organs_overlap_in_intensity(scans):
    for taken in scans:
        liver, spleen, kidney = (
            taken.image[binary_erosion(taken.leaves == leaf)] for leaf in (Leaf.LIVER, Leaf.SPLEEN, Leaf.KIDNEY_LEFT)
        )
        for first, second in itertools.combinations((liver, spleen, kidney), 2):
            edges = np.linspace(-200, 400, 61)
            shares = [np.histogram(values, edges)[0] / values.size for values in (first, second)]
            assert np.minimum(*shares).sum() > 0.2


def _noise(scanner):
    """Noise alone: the difference of two scans that differ in nothing but the noise level's sign of contrast."""
    loud, quiet = (_scan(scanner, contrast_to_noise=value) for value in (1.0, 1e6))
    return (loud.image.astype(float) - quiet.image)[(loud.leaves == Leaf.LIVER)], loud, quiet


def _autocorrelation(scanner):
    """Correlation of the noise with itself one voxel along a row: no affine map changes it."""
    _, loud, quiet = _noise(scanner)
    noise = loud.image.astype(float) - quiet.image
    inside = binary_erosion(loud.leaves == Leaf.LIVER, iterations=2)
    here, there = noise[:, :, :-1][inside[:, :, :-1]], noise[:, :, 1:][inside[:, :, :-1]]
    return float(np.corrcoef(here, there)[0, 1])


def test_no_affine_change_of_one_domain_gives_the_noise_of_another():
    correlations = [_autocorrelation(scanner) for scanner in SCANNERS]
    for first, second in itertools.combinations(correlations, 2):
        assert abs(first - second) > 0.15


def test_blur_differs(quiet_scans):
    widths = []
    for taken in quiet_scans:
        profile = _oriented(taken.image, taken).astype(float)
        bone = np.percentile(profile, 99.9)
        # Share of voxels between air and skin: the wider the edge, the more.
        middle = profile[profile.shape[0] // 2]
        widths.append(((middle > -900) & (middle < -200)).sum() * taken.spacing_mm[0] ** 2 / bone)
    assert len({round(width, 1) for width in widths}) == 3


def test_contrast_to_noise_sets_the_noise():
    for scanner in SCANNERS:
        noise, _, _ = _noise(scanner)
        assert noise.std() == pytest.approx(TUMOUR_CONTRAST_HU, rel=0.15)


def test_the_table_lies_under_the_body_and_differs(quiet_scans):
    tables = []
    for taken in quiet_scans:
        image = _oriented(taken.image, taken)
        below = image[image.shape[0] // 2, -14:]
        tables.append((below > -700).sum())
    assert len(set(tables)) == 3
    assert min(tables) > 30


def test_a_scan_depends_on_its_random_numbers_alone():
    first, same, other = (_scan(SCANNERS[1], seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.image, same.image)
    assert (first.image != other.image).any()
