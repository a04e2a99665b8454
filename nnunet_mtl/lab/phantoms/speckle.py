"""How an ultrasound scanner sees tissue: speckle, attenuation, log compression.

Sub-resolution scatterers give a complex Gaussian field; the scanner sees it through its point spread function and shows
the envelope. Over homogeneous tissue the envelope then has a Rayleigh distribution (mean over standard deviation 1.91)
and its intensity the autocorrelation exp(-d^2 / (2 s^2)) for a Gaussian point spread of standard deviation s (Wagner,
Smith, Sandrik, Lopez, Statistics of speckle in ultrasound B-scans, IEEE Trans. Sonics Ultrason. 1983). The carrier is
left out: the field is the one after demodulation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

# Place of homogeneous glandular tissue in the range of levels that a scanner shows.
_GLAND_SHARE = 0.62


@dataclass(frozen=True)
class Probe:
    """One scanner.

    Attributes:
        name: Written as the `source` of its cases.
        axial_mm: Standard deviation of the point spread along the beam.
        lateral_mm: Standard deviation of the point spread across the beams.
        dynamic_range_db: Span of levels between black and white.
        noise_db: Level of the receiver's noise below that of glandular tissue, at the bottom of the image; 12 dB less
            at its top.
    """

    name: str
    axial_mm: float
    lateral_mm: float
    dynamic_range_db: float
    noise_db: float


PROBES = (Probe("probe_a", 0.22, 0.42, 55.0, -34.0), Probe("probe_b", 0.32, 0.55, 66.0, -38.0))


def speckle(
    level_db: NDArray[np.floating], spread: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the envelope of the echoes, (Y, X), relative to tissue of 0 dB: its mean square there is 1.

    Args:
        level_db: Backscatter of each place in dB, attenuation on the way included, (Y, X), depth first.
        spread: Standard deviations of the point spread in voxels, depth first; from 0.8 on they are sampled well.
        rng: Random numbers of the scatterers.
    """
    margin = [int(np.ceil(4 * s)) for s in spread]
    padded = np.pad(level_db, [(m, m) for m in margin], mode="edge")
    scatterers = rng.standard_normal((2, *padded.shape)) * 10 ** (padded / 20)
    field = gaussian_filter(scatterers, (0, *spread))[:, margin[0] : -margin[0], margin[1] : -margin[1]]
    # Half the power is in each part of the complex field.
    norm = np.sqrt(2) * np.prod([_kernel_norm(s) for s in spread])
    envelope: NDArray[np.float64] = np.hypot(*field) / norm
    return envelope


def attenuated(
    level_db: NDArray[np.floating],
    excess_db_per_mm: NDArray[np.floating],
    spacing_mm: float,
    beam_mm: float,
) -> NDArray[np.float64]:
    """Return the level of the echoes after the loss in the tissue above each place, (Y, X).

    The scanner makes up for the mean loss with depth; only the excess remains, as a shadow (an enhancement, if it is
    negative) straight below the tissue that causes it.

    Args:
        level_db: Backscatter, (Y, X), depth first.
        excess_db_per_mm: Loss there and back above the mean one, (Y, X).
        spacing_mm: Distance of voxels, the same along both axes.
        beam_mm: Standard deviation of the beam's width, over which the loss is spread.
    """
    spread = gaussian_filter1d(excess_db_per_mm, beam_mm / spacing_mm, axis=1, mode="nearest")
    shadowed: NDArray[np.float64] = level_db - np.cumsum(spread, axis=0) * spacing_mm
    return shadowed


def displayed(
    envelope: NDArray[np.floating], probe: Probe, gain_db: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the log-compressed image, 0 to 255, (Y, X).

    Args:
        envelope: Relative to glandular tissue, (Y, X), depth first.
        probe: The scanner.
        gain_db: Gain that the user of the scanner added.
        rng: Random numbers of the receiver's noise.
    """
    depth = np.linspace(-12, 0, envelope.shape[0])[:, None]
    noise = rng.rayleigh(np.sqrt(0.5), envelope.shape) * 10 ** ((probe.noise_db + depth) / 20)
    level_db = 20 * np.log10(np.maximum(np.hypot(envelope, noise), 1e-6)) + gain_db
    shown = _GLAND_SHARE + level_db / probe.dynamic_range_db
    image: NDArray[np.uint8] = np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)
    return image


def _kernel_norm(deviation: float) -> float:
    """Return the root of the sum of squares of the sampled Gaussian that `gaussian_filter` uses."""
    impulse = np.zeros(2 * int(np.ceil(4 * deviation)) + 3)
    impulse[impulse.size // 2] = 1
    return float(np.sqrt((gaussian_filter1d(impulse, deviation) ** 2).sum()))
