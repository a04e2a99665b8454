"""Tumours and their mimics: where they lie, how their margin and texture tell benign from malignant."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.datasets.phantom_geometry import Mask, Points, waves

# How much a tumour is darker than its organ; the noise is set in proportion to it.
TUMOUR_CONTRAST_HU = 70.0


@dataclass(frozen=True)
class Disease:
    """What a patient has.

    Attributes:
        tumours: Number of tumours in an organ that has any, by organ name; an organ that has none is not named.
        malignant: Whether all of the patient's tumours are malignant or all are benign.
        radius_mm: Smallest and largest radius of a tumour.
        mimics: Expected number of spots that are no tumours.
    """

    tumours: dict[str, int]
    malignant: bool
    radius_mm: tuple[float, float]
    mimics: float


@dataclass(frozen=True)
class Tumour:
    """One tumour: a smooth, homogeneous one, or one with spicules and a patchy texture.

    Attributes:
        centre: In mm, (3,).
        radius_mm: Radius of a ball of about its volume.
        malignant: Chooses margin and texture; mean darkness and volume are alike.
        entropy: What its random shape and texture are drawn from.
    """

    centre: NDArray[np.float64]
    radius_mm: float
    malignant: bool
    entropy: int

    def contains(self, points: Points) -> Mask:
        """Return which points lie in the tumour, (N,)."""
        rng = np.random.default_rng([self.entropy, 0])
        offset = points - self.centre.astype(np.float32)[:, None]
        near = np.flatnonzero((np.abs(offset) < 1.7 * self.radius_mm).all(axis=0))
        offset = offset[:, near]
        distance = np.linalg.norm(offset, axis=0) + np.float32(1e-3)
        inside = np.zeros(points.shape[1], dtype=bool)
        if self.malignant:
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
        if not self.malignant:
            return np.full(points.shape[1], -TUMOUR_CONTRAST_HU, dtype=np.float32)
        texture = waves(points, np.random.default_rng([self.entropy, 1]), (18, 34), 14)
        contrast: NDArray[np.float32] = -TUMOUR_CONTRAST_HU * (1 + np.float32(0.65) * texture)
        return contrast


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
