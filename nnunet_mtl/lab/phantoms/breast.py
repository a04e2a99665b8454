"""Breast tissue as ultrasound sees it: layers, fat lobules that look like lesions, and one lesion.

Places are in mm: x across the image from its middle, depth from the skin. Levels are backscatter in dB relative to
glandular tissue.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.geometry import waves

FIELD_MM = 40.0

MassCue = Literal["margin_and_shadow", "margin"]
MASS_CUES: tuple[MassCue, ...] = get_args(MassCue)

_SKIN_DB, _FAT_DB, _SEPTUM_DB, _FASCIA_DB, _MUSCLE_DB = 5.0, -11.0, 4.0, 7.0, -9.0
_CYST_DB = -32.0
_ANGLES = np.linspace(-np.pi, np.pi, 721)

Field = NDArray[np.floating]


@dataclass(frozen=True)
class Breast:
    """Tissue sampled on a grid.

    Attributes:
        level_db: Backscatter, (Y, X), depth first.
        excess_db_per_mm: Loss there and back above the mean one, (Y, X).
        lesion: Which voxels are the lesion, (Y, X).
    """

    level_db: NDArray[np.float64]
    excess_db_per_mm: NDArray[np.float64]
    lesion: NDArray[np.bool_]


@dataclass(frozen=True)
class Mass:
    """One lesion.

    A benign one is a smooth wide oval with a sharp margin and a thin bright capsule. A malignant one has spicules, is
    taller than wide, fades into its surroundings and, with the cue "margin_and_shadow", takes away the sound behind it.
    Both have the same area and, cysts apart, the same darkness.

    Attributes:
        centre_mm: x and depth, (2,).
        radius_mm: Radius of a disc with the area of the lesion.
        malignant: Whether form and margin are malignant.
        cyst: Whether the lesion is filled with fluid: black, with brighter tissue behind it. Benign lesions only.
        contrast_db: How much darker than glandular tissue the lesion is, unless it is a cyst.
        cue: The features that differ between malignant and benign lesions.
        entropy: Seed of the lesion's form and texture.
    """

    centre_mm: NDArray[np.float64]
    radius_mm: float
    malignant: bool
    cyst: bool
    contrast_db: float
    cue: MassCue
    entropy: int

    def add(self, tissue: Breast, x: Field, depth: Field) -> Breast:
        """Return tissue with the lesion in it.

        Args:
            tissue: Tissue without a lesion.
            x: Place of every voxel along the image in mm, (Y, X).
            depth: Depth of every voxel in mm, (Y, X).
        """
        rng = np.random.default_rng(self.entropy)
        outline = self._outline(rng)
        margin_mm = rng.uniform(0.9, 1.4) if self.malignant else 0.2
        dx, dz = x - self.centre_mm[0], depth - self.centre_mm[1]
        distance = np.hypot(dx, dz) - np.interp(np.arctan2(dz, dx), _ANGLES, outline)
        # A fading margin does not move the annotation: the annotator draws the line in the middle of the fading.
        share = 1 / (1 + np.exp(np.clip(4 * distance / margin_mm, -50, 50)))
        level_db = (1 - share) * tissue.level_db + share * self._inside_db(x, depth, rng)
        if not self.malignant:
            level_db = level_db + 5 * np.exp(-(((distance - 0.35) / 0.3) ** 2))
        excess = tissue.excess_db_per_mm + share * self._excess(rng)
        return Breast(level_db, excess, distance < 0)

    def _outline(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the distance of the margin from the centre in mm at `_ANGLES`."""
        height = rng.uniform(1.1, 1.5) if self.malignant else rng.uniform(0.55, 0.78)
        turn = np.deg2rad(rng.uniform(-15, 15))
        form = 1 / np.hypot(np.cos(_ANGLES - turn) * np.sqrt(height), np.sin(_ANGLES - turn) / np.sqrt(height))
        if self.malignant:
            for angle in np.arange(9) * 2 * np.pi / 9 + rng.uniform(-0.3, 0.3, size=9):
                off = np.abs(np.angle(np.exp(1j * (_ANGLES - angle))))
                form = form + rng.uniform(0.25, 0.6) * np.exp(-((off / rng.uniform(0.11, 0.17)) ** 2))
        else:
            form = form * (1 + rng.uniform(0, 0.05) * np.cos(rng.integers(2, 4) * _ANGLES + rng.uniform(0, 2 * np.pi)))
        # The first angle is the last one again.
        scaled: NDArray[np.float64] = form * self.radius_mm / np.sqrt((form[1:] ** 2).mean())
        return scaled

    def _inside_db(self, x: Field, depth: Field, rng: np.random.Generator) -> NDArray[np.float64]:
        if self.cyst:
            return np.full(x.shape, _CYST_DB)
        return -self.contrast_db + 1.5 * _texture(x, depth, rng, (3, 6))

    def _excess(self, rng: np.random.Generator) -> float:
        """Return the lesion's loss of sound above the mean in dB per mm, there and back."""
        if self.cyst:
            return -0.8
        shadow = float(rng.uniform(0.8, 1.4))
        return shadow if self.malignant and self.cue == "margin_and_shadow" else 0.0


def draw_breast(rng: np.random.Generator, mimics: float, x: Field, depth: Field) -> Breast:
    """Return a patient's breast without a lesion.

    Args:
        rng: The patient's generator.
        mimics: Expected number of fat lobules inside the gland, and twice that of shadows that no lesion casts.
        x: Place of every voxel along the image in mm, (Y, X).
        depth: Depth of every voxel in mm, (Y, X).
    """
    skin = rng.uniform(1.4, 2.4)
    fat = skin + rng.uniform(3, 9)
    gland = fat + rng.uniform(17, 22)
    fat_end, gland_end = (
        bottom + swell * _texture(x, 0 * depth, rng, (14, 40)) for bottom, swell in ((fat, 1.2), (gland, 0.8))
    )
    level_db = 2.5 * _texture(x, depth, rng, (2.5, 7))
    septa = np.abs(_texture(x, depth, rng, (8, 16))) < 0.12
    in_fat = depth < fat_end
    level_db = np.where(in_fat, np.where(septa, _SEPTUM_DB, _FAT_DB), level_db)
    level_db = np.where(depth < skin, _SKIN_DB, level_db)
    stripes = 4 * np.sin(2 * np.pi * (depth + 0.6 * _texture(x, depth, rng, (10, 25))) / 2.2)
    level_db = np.where(depth > gland_end, _MUSCLE_DB + stripes, level_db)
    level_db = np.where(np.abs(depth - gland_end) < 0.5, _FASCIA_DB, level_db)
    excess = np.zeros(x.shape)
    for _ in range(rng.poisson(mimics)):
        level_db = _with_lobule(level_db, rng, x, depth, (fat + 2, gland - 2))
    for _ in range(rng.poisson(mimics / 2)):
        excess = _with_streak(excess, rng, x, depth, (fat, gland))
    return Breast(level_db, excess, np.zeros(x.shape, dtype=bool))


def _with_lobule(
    level_db: NDArray[np.float64], rng: np.random.Generator, x: Field, depth: Field, between: tuple[float, float]
) -> NDArray[np.float64]:
    """Put a lobule of fat into the gland: as dark as a lesion, with a ligament on it."""
    centre_x, centre_depth = rng.uniform(-17, 17), rng.uniform(*between)
    half_width = rng.uniform(2.5, 5)
    half_height = half_width * rng.uniform(0.4, 1.1)
    distance = np.hypot((x - centre_x) / half_width, (depth - centre_depth) / half_height)
    lobule = np.where(distance < 1, rng.uniform(-13, -8), level_db)
    ligament = (np.abs(distance - 1) < 0.1) & (depth < centre_depth)
    return np.where(ligament, _SEPTUM_DB, lobule)


def _with_streak(
    excess: NDArray[np.float64], rng: np.random.Generator, x: Field, depth: Field, between: tuple[float, float]
) -> NDArray[np.float64]:
    """Let a ligament take away the sound below it: a shadow without a lesion."""
    centre_x, top = rng.uniform(-18, 18), rng.uniform(*between)
    at = (np.abs(x - centre_x) < rng.uniform(1, 3)) & (np.abs(depth - top) < 1)
    return np.where(at, excess + rng.uniform(3, 6), excess)


def _texture(
    x: Field, depth: Field, rng: np.random.Generator, wavelength_mm: tuple[float, float]
) -> NDArray[np.float64]:
    """Return a smooth field of mean about 0 and variance about 1, (Y, X)."""
    points = np.stack([x.ravel(), depth.ravel(), np.zeros(x.size)]).astype(np.float32)
    return waves(points, rng, wavelength_mm, 16).reshape(x.shape).astype(np.float64)
