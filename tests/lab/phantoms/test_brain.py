"""The anatomy of the nested phantoms."""

import numpy as np
import pytest

from nnunet_mtl.lab.phantoms.brain import Brain, BrainTissue, Glioma

AXIS = np.arange(-84, 85, 4.0)
POINTS = np.stack(np.meshgrid(AXIS, AXIS, AXIS, indexing="ij")).reshape(3, -1).astype(np.float32)
TUMOUR = (BrainTissue.OEDEMA, BrainTissue.NECROSIS, BrainTissue.ENHANCING)


def _brain(seed, radius_mm, enhances=True, mimics=3.0):
    return Brain(np.random.default_rng(seed), Glioma(radius_mm, enhances, seed), mimics)


@pytest.fixture(scope="module", params=range(3))
def pair(request):
    """The same patient with next to no tumour, and with one."""
    return [_brain(request.param, radius_mm).sample(POINTS) for radius_mm in (0.01, 30.0)]


def test_a_tumour_replaces_tissue_and_never_fluid(pair):
    healthy, ill = pair
    grown = np.isin(ill, TUMOUR)
    assert grown.sum() > 500
    np.testing.assert_array_equal(healthy[~grown], ill[~grown])
    np.testing.assert_array_equal(healthy == BrainTissue.FLUID, ill == BrainTissue.FLUID)
    np.testing.assert_array_equal(healthy == BrainTissue.OUTSIDE, ill == BrainTissue.OUTSIDE)


def test_grey_matter_and_fluid_lie_around_white_matter(pair):
    """Mean distance from the middle: white matter, then its rind, then what lies in the folds outside it."""
    distance = np.linalg.norm(POINTS, axis=0)
    white, grey, outside = (
        distance[pair[0] == kind].mean() for kind in (BrainTissue.WHITE, BrainTissue.GREY, BrainTissue.OUTSIDE)
    )
    outer_fluid = distance[(pair[0] == BrainTissue.FLUID) & (distance > 50)].mean()
    assert white < grey < outer_fluid < outside


def test_there_is_fluid_in_the_middle_and_a_vessel_above(pair):
    x, _, z = POINTS
    fluid, vessel = (pair[0] == kind for kind in (BrainTissue.FLUID, BrainTissue.VESSEL))
    for side in (x < 0, x > 0):
        assert (fluid & side & (np.abs(x) < 28) & (np.abs(z - 8) < 12)).any()
    assert (vessel & (z > 40) & (np.abs(x) < 10)).any()


def test_a_tumour_that_does_not_enhance_has_the_same_core():
    rim, none = (_brain(5, 30.0, enhances).sample(POINTS) for enhances in (True, False))
    assert not (none == BrainTissue.ENHANCING).any()
    assert (rim == BrainTissue.ENHANCING).any()
    core = np.isin(rim, (BrainTissue.NECROSIS, BrainTissue.ENHANCING))
    np.testing.assert_array_equal(core, none == BrainTissue.NECROSIS)


def test_the_focus_is_inside_the_tumour():
    for seed in range(5):
        brain = _brain(seed, 28.0)
        (tissue,) = brain.sample(brain.focus_mm.astype(np.float32)[:, None])
        assert tissue in (*TUMOUR, BrainTissue.FLUID)


def test_a_point_has_one_tissue_whatever_other_points_are_asked_for():
    brain = _brain(1, 28.0)
    every = brain.sample(POINTS)
    np.testing.assert_array_equal(brain.sample(POINTS[:, ::7]), every[::7])
