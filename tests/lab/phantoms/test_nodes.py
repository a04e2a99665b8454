"""Lymph nodes: what tells their status, and that their places do not."""

import numpy as np
import pytest

from nnunet_mtl.lab.phantoms.nodes import MOST_NODES, draw_nodes, draw_places

PLACES = np.stack([np.array([30.0 * i, 0.0, 0.0]) for i in range(MOST_NODES)])


def _nodes(seed, positive, cue="all"):
    return draw_nodes(np.random.default_rng(seed), PLACES, positive, cue)


def _largest(nodes):
    return max(float(node.shape.semi_axes.max()) for node in nodes)


@pytest.mark.parametrize("seed", range(8))
def test_with_all_cues_positive_nodes_are_more_larger_rounder_and_dark_inside(seed):
    negative, positive = _nodes(seed, False), _nodes(seed, True)
    assert 2 <= len(negative) < 5 <= len(positive) <= MOST_NODES
    assert max(n.shape.semi_axes.max() for n in negative) < min(p.shape.semi_axes.max() for p in positive)
    for node in positive:
        assert np.ptp(node.shape.semi_axes) == 0
        centre = node.shape.centre.astype(np.float32)[:, None]
        assert 0 < node.intensity_hu(centre)[0] < 60
    for node in negative:
        assert node.shape.semi_axes.min() < 0.9 * node.shape.semi_axes.max()
        assert node.intensity_hu(node.shape.centre.astype(np.float32)[:, None])[0] < 0


@pytest.mark.parametrize("seed", range(8))
def test_with_one_cue_the_others_do_not_tell(seed):
    negative, positive = _nodes(seed, False, "size"), _nodes(seed, True, "size")
    assert len(negative) == len(positive)
    assert _largest(negative) < _largest(positive)
    negative, positive = _nodes(seed, False, "number"), _nodes(seed, True, "number")
    assert len(negative) < len(positive)
    for one, other in zip(negative, positive, strict=False):
        np.testing.assert_array_equal(one.shape.semi_axes, other.shape.semi_axes)
        np.testing.assert_array_equal(one.shape.rotation, other.shape.rotation)
    for node in (*negative, *positive):
        points = np.stack([node.shape.at(np.array([share, 0, 0])) for share in (0, 0.9)], axis=1)
        assert np.ptp(node.intensity_hu(points.astype(np.float32))) == 0


def _half_space(points):
    """Fat on the side of positive x."""
    return points[0]


@pytest.mark.parametrize("flat", [False, True])
def test_places_are_in_free_fat_apart_from_each_other_and_in_the_slice_if_asked(flat):
    near = np.array([5.0, 3.0, 7.0])
    places = draw_places(np.random.default_rng(0), near, _half_space, flat)
    assert places.shape == (MOST_NODES, 3)
    assert places[:, 0].min() > 9
    distances = np.linalg.norm(places[:, None] - places, axis=2)[np.triu_indices(MOST_NODES, 1)]
    assert distances.min() > 18
    assert np.linalg.norm(places - near, axis=1).max() < 75
    assert np.allclose(places[:, 2], 7.0) == flat


def test_without_room_there_is_no_phantom():
    with pytest.raises(RuntimeError, match="room for 0 of 6 nodes"):
        draw_places(np.random.default_rng(0), np.zeros(3), lambda points: -np.ones(points.shape[1]), False)
