import numpy as np
import pytest

from nnunet_mtl.lab.phantoms.geometry import Ellipsoid, rotation, tube, tube_distance, waves

STEP_MM = 2.0


@pytest.fixture
def points():
    axis = np.arange(-60, 60, STEP_MM) + STEP_MM / 2
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1).astype(np.float32)


@pytest.fixture
def tilted():
    return Ellipsoid(np.array([4.0, -6.0, 2.0]), np.array([40.0, 25.0, 15.0]), rotation(np.array([0.3, -0.5, 0.9])))


def test_ellipsoid_has_its_volume_and_its_surface(points, tilted):
    volume = tilted.contains(points).sum() * STEP_MM**3
    assert volume == pytest.approx(4 / 3 * np.pi * 40 * 25 * 15, rel=0.02)
    directions = np.random.default_rng(0).normal(size=(50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for factor, inside in ((0.99, True), (1.01, False)):
        surface = np.stack([tilted.at(factor * direction) for direction in directions], axis=1)
        assert (tilted.contains(surface.astype(np.float32)) == inside).all()


def test_tube_is_a_cylinder_with_round_ends(points):
    inside = tube(points, np.array([(-30.0, 0, 0), (0, 0, 0), (30.0, 0, 0)]), np.array([12.0, 12.0, 12.0]))
    assert inside.sum() * STEP_MM**3 == pytest.approx(np.pi * 12**2 * 60 + 4 / 3 * np.pi * 12**3, rel=0.02)


def test_the_distance_to_a_tube_is_negative_just_where_the_tube_is(points):
    nodes, radii = np.array([(-30.0, 0, 0), (0, 5.0, 0), (30.0, 0, 8.0)]), np.array([12.0, 9.0, 14.0])
    np.testing.assert_array_equal(tube_distance(points, nodes, radii) < 0, tube(points, nodes, radii))
    beside = np.array([[0.0, -30.0], [20.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    straight = tube_distance(beside, np.array([(-30.0, 0, 0), (30.0, 0, 0)]), np.array([12.0, 12.0]))
    np.testing.assert_allclose(straight, [8.0, -12.0])


def test_tube_tapers(points):
    inside = tube(points, np.array([(-30.0, 0, 0), (30.0, 0, 0)]), np.array([20.0, 10.0]))
    slices = [np.abs(points[0] - x) < STEP_MM for x in (-20, 20)]
    wide, narrow = (int((inside & chosen).sum()) for chosen in slices)
    assert wide / narrow == pytest.approx((20 - 10 / 6) ** 2 / (10 + 10 / 6) ** 2, rel=0.1)


def test_waves_are_smooth_normalised_and_the_same_on_any_grid(points):
    field = waves(points, np.random.default_rng(3), (20, 30), 12)
    assert abs(field.mean()) < 0.1
    assert field.std() == pytest.approx(1, abs=0.15)
    some = slice(100, 5000, 7)
    np.testing.assert_allclose(waves(points[:, some], np.random.default_rng(3), (20, 30), 12), field[some], atol=1e-4)
    volume = field.reshape(60, 60, 60)
    assert np.abs(np.diff(volume, axis=0)).max() < 2 * np.pi / 20 * STEP_MM * np.sqrt(2 * 12)


def test_rotation_is_a_rotation():
    turn = rotation(np.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(rotation(np.array([0, 0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
