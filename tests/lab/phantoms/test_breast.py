"""The tissue of the ultrasound phantoms, before any scanner sees it."""

import numpy as np
import pytest

from nnunet_mtl.lab.phantoms.breast import FIELD_MM, Breast, Mass, draw_breast

SIZE = 160
MIDDLES = (np.arange(SIZE) + 0.5) * FIELD_MM / SIZE
DEPTH, X = np.meshgrid(MIDDLES, MIDDLES - FIELD_MM / 2, indexing="ij")
NOTHING = Breast(np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE), dtype=bool))
VOXEL_MM2 = (FIELD_MM / SIZE) ** 2


def _mass(entropy, *, malignant, cyst=False, cue="margin_and_shadow"):
    return Mass(np.array([0.0, 20.0]), 6.0, malignant, cyst, 10.0, cue, entropy).add(NOTHING, X, DEPTH)


@pytest.mark.parametrize("malignant", [False, True])
@pytest.mark.parametrize("entropy", range(5))
def test_the_area_is_that_of_a_disc_of_the_radius(malignant, entropy):
    area = _mass(entropy, malignant=malignant).lesion.sum() * VOXEL_MM2
    assert area == pytest.approx(np.pi * 6**2, rel=0.03)


@pytest.mark.parametrize("entropy", range(5))
def test_benign_is_wider_than_tall_and_malignant_taller_than_wide(entropy):
    for malignant in (False, True):
        rows, columns = np.nonzero(_mass(entropy, malignant=malignant).lesion)
        assert (np.std(rows) > np.std(columns)) == malignant


@pytest.mark.parametrize("entropy", range(5))
def test_the_margin_of_a_malignant_mass_is_blurred(entropy):
    """Area over which the level falls from a quarter to three quarters of the contrast."""
    areas = []
    for malignant in (False, True):
        level = _mass(entropy, malignant=malignant).level_db
        areas.append(((level < -2.5) & (level > -7.5)).sum() * VOXEL_MM2)
    assert areas[1] > 2 * areas[0]


def test_the_outline_is_drawn_where_half_of_it_is_lesion():
    """The level there is half of the contrast, up to the texture and the sampling."""
    mass = _mass(3, malignant=True)
    inner = mass.lesion & ~np.roll(mass.lesion, 1, axis=1)
    assert mass.level_db[inner].mean() == pytest.approx(-5, abs=1.5)


def test_only_a_malignant_mass_with_that_cue_takes_the_sound_away():
    assert _mass(0, malignant=True).excess_db_per_mm.max() > 0.7
    assert not _mass(0, malignant=True, cue="margin").excess_db_per_mm.any()
    assert not _mass(0, malignant=False).excess_db_per_mm.any()
    assert _mass(0, malignant=False, cyst=True).excess_db_per_mm.min() == pytest.approx(-0.8, abs=0.01)


def test_a_cyst_is_black_within_a_bright_capsule():
    mass = _mass(0, malignant=False, cyst=True)
    assert np.percentile(mass.level_db[mass.lesion], 20) == pytest.approx(-32, abs=0.5)
    assert mass.level_db[~mass.lesion].max() > 3
    assert mass.level_db[0].max() < 0.01


def test_layers_follow_each_other_from_the_skin():
    level = np.mean([draw_breast(np.random.default_rng(seed), 0.0, X, DEPTH).level_db for seed in range(12)], axis=0)
    at = {depth: level[int(depth / FIELD_MM * SIZE)].mean() for depth in (0.5, 4.0, 20.0, 38.0)}
    skin, fat, gland, muscle = at.values()
    assert skin > gland > fat
    assert gland > muscle
    assert gland == pytest.approx(0, abs=1)


def test_lobules_are_as_dark_as_fat_and_streaks_cast_shadows():
    drawn = [draw_breast(np.random.default_rng(seed), 6.0, X, DEPTH) for seed in range(6)]
    calm = [draw_breast(np.random.default_rng(seed), 0.0, X, DEPTH) for seed in range(6)]
    assert not any(breast.excess_db_per_mm.any() for breast in calm)
    assert all(breast.excess_db_per_mm.max() >= 3 for breast in drawn)
    for busy, quiet in zip(drawn, calm, strict=True):
        changed = busy.level_db < quiet.level_db - 8
        assert changed.any()
        assert busy.level_db[changed].min() > -14
        assert not busy.lesion.any()
