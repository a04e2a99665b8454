"""The surface metrics against MONAI's, which were written by others; where it is not installed nothing is compared."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from nnunet_mtl.evaluation.metrics.surface_area import cell_codes, element_sizes
from nnunet_mtl.evaluation.metrics.surface_distance import SurfacePair

metrics = pytest.importorskip("monai.metrics")
utils = pytest.importorskip("monai.metrics.utils")

# MONAI calls a function of its own with an argument that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (0.8, 3.0, 1.7), (1.0, 1.0), (0.6, 2.5)]


def blobs(spacing_mm, seed):
    shape = (12, 22, 18) if len(spacing_mm) == 3 else (40, 30)
    noise = [gaussian_filter(np.random.default_rng((seed, n)).normal(size=shape), 2) for n in range(2)]
    # The second resembles the first; both have several parts, holes, and surfaces at the border of the image.
    noise[1] += noise[0]
    return [field > np.quantile(field, 0.6) for field in noise]


def theirs(compute, masks, spacing_mm, **options):
    prediction, reference = (torch.from_numpy(mask)[None, None].float() for mask in masks)
    return compute(prediction, reference, include_background=True, spacing=spacing_mm, **options).item()


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("seed", range(2))
def test_distances(spacing_mm, seed):
    masks = blobs(spacing_mm, seed)
    pair = SurfacePair(*masks, spacing_mm)
    hausdorff = metrics.compute_hausdorff_distance
    # MONAI's own numbers have 32 bits.
    assert pair.hd95_mm() == pytest.approx(theirs(hausdorff, masks, spacing_mm, percentile=95), rel=1e-6)
    assert pair.mssd_mm() == pytest.approx(theirs(hausdorff, masks, spacing_mm), rel=1e-6)
    assd = theirs(metrics.compute_average_surface_distance, masks, spacing_mm, symmetric=True)
    assert pair.assd_mm() == pytest.approx(assd, rel=1e-6)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("seed", range(2))
def test_nsd(spacing_mm, seed):
    masks = blobs(spacing_mm, seed)
    pair = SurfacePair(*masks, spacing_mm)
    # Also at tolerances that are distances themselves: of one, three and, across, two voxels.
    ties = (max(spacing_mm), 3 * min(spacing_mm), math.hypot(*spacing_mm))
    for tolerance_mm in (0.0, 0.9, 2.3, 4.1, *ties):
        options = {"class_thresholds": [tolerance_mm], "use_subvoxels": True}
        expected = theirs(metrics.compute_surface_dice, masks, spacing_mm, **options)
        assert 0 < pair.nsd(tolerance_mm) <= 1
        assert pair.nsd(tolerance_mm) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_nsd_where_every_cell_holds_something(seed):
    spacing_mm = (2.5, 0.9, 1.2)
    noise = np.random.default_rng(seed).random((2, 9, 10, 11)) < [[[[0.5]]], [[[0.01]]]]
    options = {"class_thresholds": [1.3], "use_subvoxels": True}
    expected = theirs(metrics.compute_surface_dice, noise, spacing_mm, **options)
    assert SurfacePair(*noise, spacing_mm).nsd(1.3) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_every_piece_of_surface_has_monais_size(spacing_mm):
    sizes, weights = utils.get_code_to_measure_table(spacing_mm)
    weights = weights.numpy().ravel().astype(int)
    n_corners = len(weights)
    for code in range(2**n_corners):
        inside = np.array([code >> bit & 1 for bit in range(n_corners)])
        expected = sizes.ravel()[int(weights @ inside)].item()
        assert element_sizes(spacing_mm)[code] == pytest.approx(expected, rel=1e-6)
    cell = np.arange(n_corners).reshape((2,) * len(spacing_mm)) == n_corners - 1
    assert cell_codes(cell)[(1,) * cell.ndim] == 1 << (n_corners - 1)
