"""The physics of the image, against what is known of speckle in closed form."""

import numpy as np
import pytest

from nnunet_mtl.lab.phantoms.speckle import PROBES, Probe, attenuated, displayed, speckle


@pytest.fixture(scope="module")
def envelope():
    return speckle(np.zeros((400, 400)), (1.5, 3.0), np.random.default_rng(0))


def test_over_homogeneous_tissue_the_envelope_is_rayleigh(envelope):
    assert np.mean(envelope**2) == pytest.approx(1, abs=0.03)
    # Rayleigh: mean / deviation = sqrt(pi / (4 - pi)) = 1.913; the intensity is exponential: they are equal.
    assert envelope.mean() / envelope.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), abs=0.05)
    assert np.std(envelope**2) == pytest.approx(1, abs=0.06)
    # Deviation of the level of a Rayleigh envelope: 5.57 dB.
    assert np.std(20 * np.log10(envelope)) == pytest.approx(5.57, abs=0.15)


@pytest.mark.parametrize(("axis", "deviation"), [(0, 1.5), (1, 3.0)])
def test_the_correlation_is_that_of_the_point_spread(envelope, axis, deviation):
    intensity = np.moveaxis(envelope**2, axis, 0)
    for lag in (1, 2, 4):
        found = np.corrcoef(intensity[:-lag].ravel(), intensity[lag:].ravel())[0, 1]
        # |exp(-d^2 / (4 s^2))|^2
        assert found == pytest.approx(np.exp(-(lag**2) / (2 * deviation**2)), abs=0.05)


def test_speckle_is_multiplicative():
    level = np.zeros((200, 200))
    level[:, 100:] = -12
    envelope = speckle(level, (1.0, 1.0), np.random.default_rng(1))
    bright, dark = envelope[:, :90], envelope[:, 110:]
    assert 20 * np.log10(bright.mean() / dark.mean()) == pytest.approx(12, abs=0.5)
    assert bright.std() / bright.mean() == pytest.approx(dark.std() / dark.mean(), rel=0.06)


def test_the_edge_of_the_image_is_as_bright_as_the_rest():
    strips = [speckle(np.zeros((40, 400)), (2.0, 2.0), np.random.default_rng(seed))[:2] ** 2 for seed in range(20)]
    assert np.mean(strips) == pytest.approx(1, abs=0.1)


def test_a_shadow_lies_straight_below_what_casts_it():
    excess = np.zeros((60, 40))
    excess[20:30, 10:20] = 1.5
    level = attenuated(np.zeros((60, 40)), excess, spacing_mm=0.5, beam_mm=0.1)
    assert np.abs(level[:20]).max() == 0
    # 10 voxels of 0.5 mm at 1.5 dB per mm.
    np.testing.assert_allclose(level[30:, 12:18], -7.5, atol=1e-6)
    assert np.abs(level[:, 25:]).max() < 1e-6
    assert level[40, 10] > level[40, 14]
    brighter = attenuated(np.zeros((60, 40)), -excess, spacing_mm=0.5, beam_mm=0.1)
    np.testing.assert_allclose(brighter, -level)


def test_log_compression_maps_decibels_to_grey_and_never_leaves_the_range():
    probe = Probe("quiet", 0.2, 0.4, 50.0, -200.0)
    rng = np.random.default_rng(2)
    grey = displayed(np.array([[1.0, 10 ** (-10 / 20)]]), probe, 0.0, rng).astype(float)
    # 10 dB are a fifth of the range.
    assert grey[0, 0] - grey[0, 1] == pytest.approx(255 / 5, abs=1)
    assert displayed(np.array([[1e-9, 1e9]]), probe, 0.0, rng).tolist() == [[0, 255]]
    assert displayed(np.ones((1, 1)), probe, 5.0, rng) > displayed(np.ones((1, 1)), probe, 0.0, rng)


def test_the_receivers_noise_is_all_there_is_where_nothing_echoes_and_grows_with_depth():
    probe = Probe("loud", 0.2, 0.4, 60.0, -5.0)
    grey = displayed(np.zeros((100, 100)), probe, 0.0, np.random.default_rng(3)).astype(float)
    # 12 dB from top to bottom.
    assert grey[-10:].mean() - grey[:10].mean() == pytest.approx(255 * 12 * 0.9 / 60, abs=4)


def test_probes_are_sampled_well_at_the_default_size():
    for probe in PROBES:
        assert min(probe.axial_mm, probe.lateral_mm) / (40 / 128) > 0.7
