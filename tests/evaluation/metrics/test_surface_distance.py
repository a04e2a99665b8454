import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.distance import cdist

from nnunet_mtl.evaluation.metrics.surface_area import cell_codes, element_sizes
from nnunet_mtl.evaluation.metrics.surface_distance import SurfacePair, nearest_distances, union_box, voxel_surface

A, B, C = SPACING = (5.0, 2.0, 1.0)
# A cut-off corner of a cell, and a cut-off edge along the last axis.
CORNER = math.hypot(B * C, A * C, A * B) / 8
EDGE = C * math.hypot(A, B) / 2


def voxels(*places, shape=(4, 5, 6)):
    mask = np.zeros(shape, dtype=bool)
    for place in places:
        mask[place] = True
    return mask


def blob(seed, shape=(9, 14, 12)):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return noise > np.quantile(noise, 0.7)


def numbers(pair, tolerance_mm=2.1):
    return [pair.hd95_mm(), pair.hd95_mm("pooled"), pair.assd_mm(), pair.mssd_mm(), pair.nsd(tolerance_mm)]


def every_distance(of, to, spacing_mm):
    """The distance from every voxel to the nearest, one by one."""
    return cdist(np.argwhere(of) * spacing_mm, np.argwhere(to) * spacing_mm).min(axis=1)


def drawn(shape, density, seed):
    mask = np.random.default_rng(seed).random(shape) < density
    mask.flat[seed % mask.size] = True
    return mask


@st.composite
def mask_pairs(draw):
    """Two masks, sparse or dense, with another spacing along every axis."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=3)))
    densities = st.sampled_from((0.0, 0.02, 0.3, 0.9))
    of, to = (drawn(shape, draw(densities), draw(st.integers(0, 999))) for _ in range(2))
    return of, to, tuple(draw(st.floats(0.3, 5.0)) for _ in shape)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pair=mask_pairs())
def test_distances_are_those_of_all_pairs_of_voxels(pair):
    of, to, spacing_mm = pair
    expected = every_distance(of, to, spacing_mm)
    np.testing.assert_allclose(nearest_distances(of, to, spacing_mm), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("shape", "density"), [((12, 30, 28), 0.002), ((12, 30, 28), 0.4), ((40, 60), 0.01)])
def test_distances_in_larger_grids(shape, density):
    of, to = drawn(shape, 0.1, 1), drawn(shape, density, 2)
    spacing_mm = {2: (0.7, 3.0), 3: (3.0, 0.8, 1.1)}[len(shape)]
    expected = every_distance(of, to, spacing_mm)
    found = nearest_distances(of, to, spacing_mm)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)
    for within_mm in (0.0, 0.85, 2.05, 5.05, 12.1, 200.0):
        np.testing.assert_array_equal(found <= within_mm, expected <= within_mm)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pair=mask_pairs(), tolerance_mm=st.sampled_from((0.0, 0.75, 1.15, 3.25, 7.05, 30.05)))
def test_metrics_are_those_of_all_pairs_of_surface_voxels(pair, tolerance_mm):
    *masks, spacing_mm = pair
    surfaces = SurfacePair(*masks, spacing_mm)
    voxel = [voxel_surface(mask) for mask in masks]
    there, back = every_distance(*voxel, spacing_mm), every_distance(*voxel[::-1], spacing_mm)
    assert surfaces.mssd_mm() == pytest.approx(max(there.max(), back.max()), rel=1e-12)
    assert surfaces.assd_mm() == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-12)
    assert surfaces.hd95_mm() == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-12)
    assert surfaces.hd95_mm("pooled") == pytest.approx(np.percentile(np.concatenate([there, back]), 95), rel=1e-12)
    sizes = element_sizes(spacing_mm)
    codes = [cell_codes(mask) for mask in masks]
    cells = [(code > 0) & (code < len(sizes) - 1) for code in codes]
    areas = [sizes[code[cell]] for code, cell in zip(codes, cells, strict=True)]
    reach_mm = tolerance_mm * (1 + 1e-6)
    within = areas[0][every_distance(*cells, spacing_mm) <= reach_mm].sum()
    within += areas[1][every_distance(*cells[::-1], spacing_mm) <= reach_mm].sum()
    assert surfaces.nsd(tolerance_mm) == pytest.approx(within / (areas[0].sum() + areas[1].sum()), rel=1e-12)


def test_nothing_to_find_is_infinitely_far():
    empty, one = np.zeros((3, 4), dtype=bool), np.eye(3, 4, dtype=bool)
    assert nearest_distances(one, empty, (1.0, 1.0)).tolist() == [math.inf] * 3
    assert nearest_distances(empty, one, (1.0, 1.0)).tolist() == []


def test_distances_of_far_voxels():
    of, to = np.zeros((2, 300), dtype=bool), np.zeros((2, 300), dtype=bool)
    of[0, [0, 200, 297]] = to[1, 299] = True
    expected = [math.hypot(1, n * 0.5) for n in (299, 99, 2)]
    assert nearest_distances(of, to, (1.0, 0.5)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("place", "expected"),
    [((2, 2, 2), A), ((1, 3, 2), B), ((1, 2, 3), C), ((2, 3, 2), math.hypot(A, B)), ((3, 1, 4), math.hypot(10, 2, 2))],
)
def test_two_voxels_are_as_far_apart_as_their_centres(place, expected):
    pair = SurfacePair(voxels((1, 2, 2)), voxels(place), SPACING)
    assert numbers(pair)[:4] == pytest.approx([expected] * 4)


@pytest.mark.parametrize(("place", "step"), [((2, 2, 2), A), ((1, 3, 2), B), ((1, 2, 3), C)])
def test_a_voxel_too_many(place, step):
    # Distances 0 and `step` from the prediction, 0 from the reference.
    pair = SurfacePair(voxels((1, 2, 2), place), voxels((1, 2, 2)), SPACING)
    assert pair.hd95_mm() == pytest.approx(0.95 * step)
    assert pair.hd95_mm("pooled") == pytest.approx(0.9 * step)
    assert pair.assd_mm() == pytest.approx(step / 3)
    assert pair.mssd_mm() == pytest.approx(step)


def test_the_maximum_is_that_of_the_two_percentiles_whichever_is_larger():
    few, many = voxels((1, 2, 2)), voxels((1, 2, 2), (1, 2, 4))
    assert SurfacePair(few, many, SPACING).hd95_mm() == SurfacePair(many, few, SPACING).hd95_mm() == pytest.approx(1.9)


@pytest.mark.parametrize(("tolerance_mm", "expected"), [(0, 0.5), (0.999, 0.5), (C, 1), (C - 1e-7, 1)])
def test_nsd_of_two_voxels_side_by_side(tolerance_mm, expected):
    # Of each octahedron's eight faces the four in the middle lie in common cells, the others a step away.
    pair = SurfacePair(voxels((1, 2, 2)), voxels((1, 2, 3)), SPACING)
    assert pair.nsd(tolerance_mm) == pytest.approx(expected)


def test_nsd_weighs_by_area():
    pair = SurfacePair(voxels((1, 2, 2), (1, 2, 3)), voxels((1, 2, 2)), SPACING)
    # The bar has an end in common with the voxel, and its sides lie where the voxel's other end is.
    assert pair.nsd(0) == pytest.approx((4 * CORNER + 4 * EDGE + 8 * CORNER) / (8 * CORNER + 4 * EDGE + 8 * CORNER))
    assert pair.nsd(C) == 1


def test_nsd_in_a_slice_weighs_by_length():
    bar, pixel = np.zeros((3, 4), dtype=bool), np.zeros((3, 4), dtype=bool)
    bar[1, 1:3] = pixel[1, 1] = True
    # Corners of 2.5 mm; the bar's sides are 4 mm long.
    pair = SurfacePair(bar, pixel, (3.0, 4.0))
    assert pair.nsd(0) == pytest.approx((2 * 2.5 + 2 * 4 + 4 * 2.5) / (4 * 2.5 + 2 * 4 + 4 * 2.5))
    assert pair.hd95_mm() == pytest.approx(0.95 * 4)


def test_an_image_that_is_full_has_its_surface_at_the_border():
    full = np.ones((5, 6, 7), dtype=bool)
    assert voxel_surface(full).sum() == 5 * 6 * 7 - 3 * 4 * 5
    inner = np.pad(np.ones((3, 4, 5), dtype=bool), 1)
    pair = SurfacePair(full, inner, SPACING)
    # Every inner surface voxel has one of the border beside it; the corners are furthest from the inner box.
    assert pair.mssd_mm() == pytest.approx(math.hypot(*SPACING))
    assert 0 < pair.nsd(2.5) < pair.nsd(5.5) == 1


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), ndim=st.integers(2, 3))
def test_surface_voxels_are_those_that_an_erosion_takes(seed, ndim):
    mask = np.random.default_rng(seed).random((5, 7, 6)[:ndim]) < 0.8
    np.testing.assert_array_equal(voxel_surface(mask), mask & ~binary_erosion(mask))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)))
def test_swapping_prediction_and_reference_changes_nothing(seeds):
    first, second = map(blob, seeds)
    assert numbers(SurfacePair(first, second, SPACING)) == pytest.approx(numbers(SurfacePair(second, first, SPACING)))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), margins=st.tuples(*[st.integers(0, 5)] * 6))
def test_what_lies_around_the_box_of_both_changes_nothing(seed, margins):
    masks = (blob(seed), blob(seed + 1))
    padding = list(zip(margins[::2], margins[1::2], strict=True))
    moved = SurfacePair(*(np.pad(mask, padding) for mask in masks), SPACING)
    assert numbers(moved) == numbers(SurfacePair(*masks, SPACING))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), order=st.permutations(range(3)), flipped=st.integers(0, 2))
def test_the_order_of_the_axes_goes_with_the_spacing(seed, order, flipped):
    masks = (blob(seed), blob(seed + 1))
    pair = SurfacePair(*masks, SPACING)
    turned = SurfacePair(
        *(np.flip(mask.transpose(order), flipped) for mask in masks), [SPACING[axis] for axis in order]
    )
    assert numbers(turned) == pytest.approx(numbers(pair))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), factor=st.floats(0.1, 10))
def test_millimetres_scale(seed, factor):
    masks = (blob(seed), blob(seed + 1))
    pair, scaled = SurfacePair(*masks, SPACING), SurfacePair(*masks, np.multiply(SPACING, factor))
    assert numbers(scaled, 2.1 * factor) == pytest.approx([factor * n for n in numbers(pair)[:4]] + [pair.nsd(2.1)])


def test_equal_masks_agree_everywhere():
    assert numbers(SurfacePair(blob(1), blob(1), SPACING), 0) == [0, 0, 0, 0, 1]


def test_a_tolerance_and_a_spacing_that_was_stored_in_32_bits():
    spacing_mm = [float(np.float32(0.1)), 1.0]  # a little above a tenth
    pixels = np.eye(2, dtype=bool)
    pair = SurfacePair(pixels[:, :1] & [[True]], pixels[:, 1:], spacing_mm)
    assert pair.mssd_mm() > 0.1
    assert pair.nsd(0.1) == 1


def test_the_box_holds_both_masks():
    assert union_box(voxels((1, 2, 2)), voxels((2, 0, 4))) == (slice(1, 3), slice(0, 3), slice(2, 5))
    assert union_box(voxels(), voxels((3, 4, 5))) == (slice(3, 4), slice(4, 5), slice(5, 6))
    assert voxels()[union_box(voxels(), voxels())].size == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": np.ones((4, 5, 7), dtype=bool)}, "must have the same two or three axes"),
        ({"spacing_mm": (1.0, 1.0)}, "must have the same two or three axes"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "must be positive and finite"),
        ({"spacing_mm": (1.0, math.nan, 1.0)}, "must be positive and finite"),
        ({"prediction": voxels((0, 0, 0)).astype(np.uint8)}, "type uint8 and bool must be boolean"),
        ({"prediction": voxels()}, "an empty mask has no surface"),
    ],
)
def test_what_is_no_pair_of_masks_is_refused(change, message):
    arguments = {"prediction": voxels((0, 0, 0)), "reference": voxels((0, 0, 1)), "spacing_mm": SPACING} | change
    with pytest.raises(ValueError, match=message):
        SurfacePair(**arguments)


def test_lines_are_no_surfaces():
    line = np.ones(3, dtype=bool)
    with pytest.raises(ValueError, match="two or three axes"):
        SurfacePair(line, line, (1.0,))


def test_unknown_rules_and_tolerances_are_refused():
    pair = SurfacePair(voxels((0, 0, 0)), voxels((0, 0, 1)), SPACING)
    with pytest.raises(ValueError, match="'mean' must be one of maximum, pooled"):
        pair.hd95_mm("mean")
    for tolerance_mm in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match="must be 0 or more, and finite"):
            pair.nsd(tolerance_mm)
