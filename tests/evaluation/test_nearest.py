import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from nnunet_mtl.evaluation import nearest
from nnunet_mtl.evaluation.nearest import near, nearest_distances

SPACINGS = {1: (2.0,), 2: (0.7, 3.0), 3: (3.0, 0.8, 1.1)}


def between(of, to, spacing_mm):
    """Every distance, one by one."""
    return cdist(np.argwhere(of) * spacing_mm, np.argwhere(to) * spacing_mm).min(axis=1)


def drawn(shape, density, seed):
    mask = np.random.default_rng(seed).random(shape) < density
    mask.flat[seed % mask.size] = True
    return mask


@st.composite
def pairs(draw):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=3)))
    densities = st.sampled_from((0.0, 0.02, 0.3, 0.9))
    of, to = (drawn(shape, draw(densities), draw(st.integers(0, 999))) for _ in range(2))
    return of, to, SPACINGS[len(shape)]


@pytest.fixture(params=["looks", "tree", "transform"])
def way(request, monkeypatch):
    """The one way by which every distance that is not 0 is found."""
    monkeypatch.setattr(nearest, "_LOOKS_PER_VOXEL", 10**6 if request.param == "looks" else -1)
    monkeypatch.setattr(nearest, "_PER_VOXEL_TRANSFORMED", 0.0 if request.param == "transform" else math.inf)
    return request.param


@pytest.mark.parametrize(("shape", "density"), [((12, 30, 28), 0.002), ((12, 30, 28), 0.4), ((40, 60), 0.01)])
def test_every_way_finds_the_distances_of_all_pairs(way, shape, density):
    of, to = drawn(shape, 0.1, 1), drawn(shape, density, 2)
    spacing_mm = SPACINGS[len(shape)]
    np.testing.assert_allclose(
        np.sort(nearest_distances(of, to, spacing_mm)), np.sort(between(of, to, spacing_mm)), rtol=1e-12, atol=0
    )
    for within_mm in (0.0, 0.85, 2.05, 5.05, 12.1, 200.0):
        expected = of.copy()
        expected[of] = between(of, to, spacing_mm) <= within_mm
        np.testing.assert_array_equal(near(of, to, spacing_mm, within_mm), expected)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pair=pairs())
def test_the_way_that_is_taken_makes_no_difference(pair):
    of, to, spacing_mm = pair
    found = nearest_distances(of, to, spacing_mm)
    np.testing.assert_allclose(np.sort(found), np.sort(between(of, to, spacing_mm)), rtol=1e-12, atol=0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pair=pairs(), within_mm=st.sampled_from((0.0, 0.75, 1.15, 3.25, 7.05, 30.05)))
def test_near_is_what_lies_within(pair, within_mm):
    of, to, spacing_mm = pair
    np.testing.assert_array_equal(near(of, to, spacing_mm, within_mm)[of], between(of, to, spacing_mm) <= within_mm)
    assert not near(of, to, spacing_mm, within_mm)[~of].any()


def test_each_estimate_prefers_the_cheaper_way(monkeypatch):
    asked = []
    monkeypatch.setattr(nearest, "_transformed", lambda points, *_: asked.append(len(points)) or np.ones(len(points)))
    grid = np.zeros((60, 60, 60), dtype=bool)
    few, corner = grid.copy(), grid.copy()
    few[0, 0, :5] = corner[-1, -1, -1] = True
    nearest_distances(few, corner, (1.0, 1.0, 1.0))
    assert asked == []  # a question or two is no reason to transform a box
    shell = ~np.pad(np.ones((58, 58, 58), dtype=bool), 1)
    middle = np.pad(np.ones((10, 10, 10), dtype=bool), 25)
    nearest_distances(middle, shell, (1.0, 1.0, 1.0))
    assert asked == [1000]  # from the middle of a box every voxel of the walls is asked
    monkeypatch.setattr(nearest, "_NEAR_VOXELS", 5)
    nearest_distances(middle | np.eye(60, dtype=bool)[5], shell, (1.0, 1.0, 1.0))
    assert asked == [1000, 1000]  # what lies near the wall has been answered before


def test_the_tree_is_asked_again_for_what_it_did_not_reach(monkeypatch):
    monkeypatch.setattr(nearest, "_PER_VOXEL_TRANSFORMED", math.inf)
    of, to = np.zeros((2, 300), dtype=bool), np.zeros((2, 300), dtype=bool)
    of[0, [0, 200, 297]] = to[1, 299] = True
    expected = [math.hypot(1, n * 0.5) for n in (2, 99, 299)]
    assert np.sort(nearest_distances(of, to, (1.0, 0.5))) == pytest.approx(expected)


def test_nothing_to_find_is_infinitely_far():
    empty, one = np.zeros((3, 4), dtype=bool), np.eye(3, 4, dtype=bool)
    assert nearest_distances(one, empty, (1.0, 1.0)).tolist() == [math.inf] * 3
    assert nearest_distances(empty, one, (1.0, 1.0)).tolist() == []
    assert not near(one, empty, (1.0, 1.0), 1e9).any()
    assert not near(empty, one, (1.0, 1.0), 1e9).any()
