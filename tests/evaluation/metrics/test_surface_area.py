import math
from itertools import permutations, product

import numpy as np
import pytest

from nnunet_mtl.evaluation.metrics.surface_area import cell_codes, element_sizes

A, B, C = SPACING = (5.0, 2.0, 1.0)
CORNERS = list(product((0, 1), repeat=3))


def code_of(*inside):
    return sum(1 << CORNERS.index(corner) for corner in inside)


def area(*inside):
    return element_sizes(SPACING)[code_of(*inside)]


def test_bits_stand_for_corners_in_c_order():
    mask = np.zeros((1, 1, 1), dtype=bool)
    mask[:] = True
    # The voxel is the last corner of the first cell, and the first corner of the last.
    assert cell_codes(mask).ravel().tolist() == [128, 64, 32, 16, 8, 4, 2, 1]
    assert cell_codes(np.ones((1, 2), dtype=bool)).tolist() == [[8, 12, 4], [2, 3, 1]]


def test_what_lies_beyond_the_array_is_outside():
    mask = np.random.default_rng(0).random((3, 4, 5)) < 0.5
    np.testing.assert_array_equal(cell_codes(np.pad(mask, 1))[1:-1, 1:-1, 1:-1], cell_codes(mask))


def test_a_cut_off_corner_is_a_triangle_over_half_the_edges():
    # Half the cross product of (A/2, -B/2, 0) and (A/2, 0, -C/2).
    expected = math.hypot(B * C, A * C, A * B) / 8
    assert area((0, 0, 0)) == pytest.approx(expected)
    assert area((1, 0, 1)) == pytest.approx(expected)


@pytest.mark.parametrize(("axis", "expected"), [(0, B * C), (1, A * C), (2, A * B)])
def test_half_a_cell_is_cut_by_a_face(axis, expected):
    assert area(*(corner for corner in CORNERS if corner[axis] == 0)) == pytest.approx(expected)


@pytest.mark.parametrize(("axis", "expected"), [(0, A * math.hypot(B, C)), (1, B * math.hypot(A, C))])
def test_an_edge_is_cut_off_by_a_sloping_rectangle(axis, expected):
    others = [n for n in range(3) if n != axis]
    assert area(*(corner for corner in CORNERS if not any(corner[n] for n in others))) == pytest.approx(expected / 2)


def test_corners_that_touch_only_across_a_face_or_the_cell_are_cut_off_each_by_itself():
    one = area((0, 0, 0))
    assert area((0, 0, 0), (0, 1, 1)) == pytest.approx(2 * one)
    assert area((0, 0, 0), (1, 1, 1)) == pytest.approx(2 * one)
    assert area((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)) == pytest.approx(4 * one)


@pytest.mark.parametrize("spacing_mm", [SPACING, (0.7, 3.0)])
def test_inside_and_outside_may_be_exchanged(spacing_mm):
    sizes = element_sizes(spacing_mm)
    assert sizes == pytest.approx(sizes[::-1])
    assert sizes[0] == sizes[-1] == 0
    assert (sizes[1:-1] > 0).all()


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_order_of_the_axes_goes_with_the_spacing(order):
    sizes, turned = element_sizes(SPACING), element_sizes([SPACING[axis] for axis in order])
    bits = [CORNERS.index(tuple(corner[axis] for axis in order)) for corner in CORNERS]
    codes = [sum((code >> bit & 1) << bits[bit] for bit in range(8)) for code in range(256)]
    assert turned[codes] == pytest.approx(sizes)


def test_outlines_in_a_slice():
    sizes = element_sizes((3.0, 4.0))
    corner, row, column = 2.5, 4.0, 3.0
    assert sizes[[1, 2, 4, 8]] == pytest.approx(corner)
    assert sizes[[7, 11, 13, 14]] == pytest.approx(corner)
    assert sizes[[3, 12]] == pytest.approx(row)
    assert sizes[[5, 10]] == pytest.approx(column)
    assert sizes[[6, 9]] == pytest.approx(2 * corner)


def test_the_surface_of_a_ball_is_that_of_a_ball():
    axes = [(np.arange(n) - n / 2 + 0.5) * step for n, step in zip((30, 60, 90), (3.0, 1.5, 1.0), strict=True)]
    ball = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) < 40**2
    found = element_sizes((3.0, 1.5, 1.0))[cell_codes(ball)].sum()
    # Steps of a voxel are rougher than a ball, and half a voxel is cut off all around.
    assert found == pytest.approx(4 * math.pi * 40**2, rel=0.15)
