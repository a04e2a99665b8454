"""How an MR scanner sees a brain in four sequences: contrast, bias field, Rician noise."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from nnunet_mtl.lab.phantoms.brain import BrainTissue
from nnunet_mtl.lab.phantoms.geometry import Points, waves

# The names that nnU-Net's conversions of the BraTS challenges give the channels.
SEQUENCES = ("T1", "T1ce", "T2", "Flair")

# Intensity in each sequence. Only with contrast agent does the rim differ from what it lies in by much, and vessels
# are as bright there; in T2 and FLAIR old lesions of the white matter are as bright as swelling, in T2 fluid is too.
_LEVELS = {
    BrainTissue.OUTSIDE: (0, 0, 0, 0),
    BrainTissue.WHITE: (110, 112, 62, 66),
    BrainTissue.GREY: (84, 87, 84, 84),
    BrainTissue.FLUID: (36, 38, 150, 28),
    BrainTissue.VESSEL: (66, 160, 44, 48),
    BrainTissue.OLD_LESION: (78, 80, 112, 120),
    BrainTissue.OEDEMA: (76, 79, 114, 120),
    BrainTissue.NECROSIS: (58, 64, 128, 100),
    BrainTissue.ENHANCING: (74, 150, 106, 112),
}
_WHITE = 110.0


def mr_image(
    tissue: NDArray[np.uint8],
    points: Points,
    *,
    noise: float,
    bias: float,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """Return the four channels of a head without its skull, (4, *spatial): exactly 0 outside the brain.

    Args:
        tissue: `BrainTissue` of each voxel, (*spatial).
        points: Their places in mm, (3, N).
        noise: Standard deviation of the noise in either part of the complex signal, over the intensity of white matter.
        bias: Standard deviation of the logarithm of the field by which intensities vary from place to place.
        rng: What noise, bias, gain and the spread of contrasts are drawn from.
    """
    inside = tissue != BrainTissue.OUTSIDE
    channels = []
    for channel in range(len(SEQUENCES)):
        levels = np.array([_LEVELS[kind][channel] for kind in BrainTissue], dtype=np.float32)
        signal = (levels + rng.normal(0, 3, size=levels.size).astype(np.float32))[tissue]
        # Voxels at a border hold a part of both sides.
        signal = gaussian_filter(np.where(inside, signal, 0), 0.5)
        field = np.exp(bias * waves(points, rng, (120, 300), 8)).reshape(tissue.shape)
        parts = rng.normal(0, noise * _WHITE, size=(2, *tissue.shape))
        magnitude = np.hypot(signal * field + parts[0], parts[1]) * rng.uniform(0.7, 1.4)
        channels.append(np.where(inside, np.maximum(np.rint(magnitude), 1), 0))
    image: NDArray[np.int16] = np.stack(channels).astype(np.int16)
    return image
