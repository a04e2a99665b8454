import numpy as np
import pytest

from nnunet_mtl.lab.phantoms.organs import PANCREAS_RADII_MM, Organs, kidney_mask, vessel_radii_mm


@pytest.fixture(params=range(6))
def organs(request):
    return Organs.draw(np.random.default_rng(request.param))


def _sphere(count=400):
    directions = np.random.default_rng(0).normal(size=(count, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def test_the_notch_of_both_kidneys_is_on_the_side_of_the_spine(organs):
    for kidney in (organs.kidney_left, organs.kidney_right):
        shell = np.stack([kidney.at(0.9 * direction) for direction in _sphere()], axis=1)
        notch = shell[:, ~kidney_mask(kidney, shell.astype(np.float32))]
        assert notch.shape[1] > 0
        assert abs(notch[0].mean()) < abs(kidney.centre[0]) - 10


def test_the_kidneys_lie_on_their_sides_and_differ_within_the_patient(organs):
    assert organs.kidney_left.centre[0] > 30
    assert organs.kidney_right.centre[0] < -30
    assert not np.allclose(organs.kidney_left.semi_axes, organs.kidney_right.semi_axes)


def test_the_filled_bowel_passes_the_left_kidney_closely_without_entering_it(organs):
    bottom, top = organs.descending_colon()
    heights = np.linspace(0, 1, 50)[:, None]
    axis = bottom + heights * (top - bottom)
    kidney = organs.kidney_left
    surface = np.stack([kidney.at(direction) for direction in _sphere()])
    distances = np.linalg.norm(axis[:, None] - surface, axis=2).min(axis=1)
    assert not kidney.contains(axis.T.astype(np.float32)).any()
    assert distances.min() < 25
    assert top[2] - bottom[2] > 1.5 * kidney.semi_axes[2]


def test_vessels_join_the_trunk(organs):
    trunk, *others = organs.branches
    for branch in others:
        gaps = np.linalg.norm(trunk - branch[0], axis=1)
        assert gaps.min() < 1e-9
    assert all(vessel_radii_mm(number).shape == (3,) for number in range(len(organs.branches)))
    assert len(PANCREAS_RADII_MM) == len(organs.pancreas)
