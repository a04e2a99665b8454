"""Tumours and their mimics: where they lie, how their margin and texture tell benign from malignant."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.geometry import Mask, Points, waves

# How much a tumour is darker than its organ; the noise is set in proportion to it.
TUMOUR_CONTRAST_HU = 70.0
# Share of that contrast by which the tissue of a textured tumour varies.
TEXTURE_CONTRAST = 0.65

Cue = Literal["margin_and_texture", "texture"]
CUES: tuple[Cue, ...] = get_args(Cue)

_PATCHES_MM = (18.0, 34.0)
# Where texture is the only cue: about 3 to 4 voxels of the default size, and twice that.
_FINE_MM, _COARSE_MM = (17.0, 22.0), (38.0, 52.0)
# The scanners blur the fine texture more: this much more of it leaves both with the same deviation in the image.
_FINE_GAIN = 1.2


@dataclass(frozen=True)
class Disease:
    """The tumours and mimics of a patient.

    Attributes:
        tumours: Number of tumours in an organ that has any, by organ name; an organ that has none is not named.
        malignant: Whether all of the patient's tumours are malignant or all are benign.
        radius_mm: Smallest and largest radius of a tumour.
        mimics: Expected number of spots that are no tumours.
        cue: What tells malignant from benign.
        texture_contrast: Standard deviation of a tumour's texture over its contrast to the organ.
    """

    tumours: dict[str, int]
    malignant: bool
    radius_mm: tuple[float, float]
    mimics: float
    cue: Cue = "margin_and_texture"
    texture_contrast: float = TEXTURE_CONTRAST


@dataclass(frozen=True)
class Tumour:
    """One tumour.

    With the cue "margin_and_texture" a benign one is smooth and homogeneous, a malignant one has spicules and a patchy
    texture. With "texture" all are smooth and textured, with the same mean and the same spread of intensities: the
    texture of the malignant is fine, that of the benign coarse.

    Attributes:
        centre: Centre in mm, (3,).
        radius_mm: Radius of a ball of about its volume.
        malignant: Chooses margin and texture, as the cue says; mean darkness and volume are alike.
        entropy: Seed of its shape and texture.
        cue: What tells malignant from benign.
        texture_contrast: Standard deviation of its texture over its contrast to the organ.
    """

    centre: NDArray[np.float64]
    radius_mm: float
    malignant: bool
    entropy: int
    cue: Cue = "margin_and_texture"
    texture_contrast: float = TEXTURE_CONTRAST

    def contains(self, points: Points) -> Mask:
        """Return which points lie in the tumour, (N,)."""
        rng = np.random.default_rng([self.entropy, 0])
        offset = points - self.centre.astype(np.float32)[:, None]
        near = np.flatnonzero((np.abs(offset) < 1.7 * self.radius_mm).all(axis=0))
        offset = offset[:, near]
        distance = np.linalg.norm(offset, axis=0) + np.float32(1e-3)
        inside = np.zeros(points.shape[1], dtype=bool)
        if self.malignant and self.cue == "margin_and_texture":
            spicules = rng.normal(size=(9, 3))
            spicules /= np.linalg.norm(spicules, axis=1, keepdims=True)
            towards = (spicules.astype(np.float32) @ (offset / distance)).max(axis=0)
            surface = self.radius_mm * (0.78 + 0.62 * np.exp(9 * (towards - 1)))
            inside[near] = distance < surface
        else:
            axes = self.radius_mm * rng.uniform(0.9, 1.12, size=(3, 1)).astype(np.float32)
            inside[near] = np.linalg.norm(offset / axes, axis=0) < 1
        return inside

    def contrast_hu(self, points: Points) -> NDArray[np.float32]:
        """Return how far the tissue at points inside the tumour is from the organ's intensity, (N,), in HU."""
        rng = np.random.default_rng([self.entropy, 1])
        if self.cue == "texture":
            texture = self._fine_or_coarse(points, rng)
        elif self.malignant:
            texture = waves(points, rng, _PATCHES_MM, 14)
        else:
            return np.full(points.shape[1], -TUMOUR_CONTRAST_HU, dtype=np.float32)
        contrast: NDArray[np.float32] = -TUMOUR_CONTRAST_HU * (1 + np.float32(self.texture_contrast) * texture)
        return contrast

    def _fine_or_coarse(self, points: Points, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return a field of mean exactly 0 over the points, (N,), whose deviation there differs between tumours."""
        strength = rng.uniform(0.75, 1.25) * (_FINE_GAIN if self.malignant else 1.0)
        field = waves(points, rng, _FINE_MM if self.malignant else _COARSE_MM, 24)
        if not field.size:
            return field
        # A coarse field has about two waves in a tumour: left as it is, its mean and deviation would tell.
        field -= field.mean()
        texture: NDArray[np.float32] = field * np.float32(strength / max(float(field.std()), 1e-6))
        return texture


@dataclass(frozen=True)
class Mimic:
    """A spot that is no tumour: small and round, a dark cyst or a bright calcification."""

    centre: NDArray[np.float64]
    radius_mm: float
    contrast_hu: float

    def contains(self, points: Points) -> Mask:
        """Return which points lie in the spot, (N,)."""
        offset = points - self.centre.astype(np.float32)[:, None]
        inside: Mask = np.einsum("in,in->n", offset, offset) < self.radius_mm**2
        return inside


def draw_mimic(centre: NDArray[np.float64], rng: np.random.Generator) -> Mimic:
    """Return a cyst or a calcification at a place in mm, (3,)."""
    contrast_hu = float(rng.choice([-75.0, 130.0]))
    return Mimic(centre, float(rng.uniform(6, 9.5)), contrast_hu)
