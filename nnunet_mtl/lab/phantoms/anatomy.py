"""The phantom's anatomy: an abdomen whose organs look alike, so that place, shape and neighbours tell them apart.

The left and the right kidney are each other's mirror image in shape and equal in intensity. What tells them apart in a
patch, also in one that was mirrored, is the bowel filled with contrast agent that runs beside the left kidney only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.geometry import Ellipsoid, Mask, Points, tube, waves
from nnunet_mtl.lab.phantoms.lesions import Disease, Mimic, Tumour, draw_mimic
from nnunet_mtl.lab.phantoms.organs import ASCENDING_COLON, PANCREAS_RADII_MM, Organs, kidney_mask, vessel_radii_mm


class Tissue(IntEnum):
    """Tissue at a point; the contrast phase of the scanner determines its intensity."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    BONE = 3
    BOWEL = 4
    STOMACH = 5
    FILLED_BOWEL = 6
    AORTA = 7
    CAVA = 8
    LIVER = 9
    VESSEL = 10
    KIDNEY = 11
    SPLEEN = 12
    PANCREAS = 13


class Leaf(IntEnum):
    """Label values. A voxel has one value, and the regions of the data set are unions of values."""

    BACKGROUND = 0
    LIVER = 1
    VESSEL = 2
    LIVER_TUMOUR = 3
    KIDNEY_LEFT = 4
    KIDNEY_RIGHT = 5
    SPLEEN = 6
    PANCREAS = 7
    PANCREAS_TUMOUR = 8


@dataclass(frozen=True)
class Anatomy:
    """A body sampled at N points.

    Attributes:
        tissue: `Tissue` at each point, (N,) uint8.
        leaves: `Leaf` at each point, (N,) uint8.
        detail_hu: What texture, tumours and mimics add to the intensity of the tissue, (N,) float32.
    """

    tissue: NDArray[np.uint8]
    leaves: NDArray[np.uint8]
    detail_hu: NDArray[np.float32]


# Half extents in mm of the cavity in which the organs are placed, and the thickness of the wall around it.
_CAVITY_MM = np.array([122.0, 77.0])
_WALL_MM = 13.0
_CORE_HU = np.float32(-75)
_LOBULE_HU = np.float32(24)


class Body:
    """One patient: every shape is drawn at construction, from the patient's own random numbers.

    The skin's oval (`skin_centre_mm`, `skin_semi_axes_mm`, in the plane) and the displacement of the organs as a whole
    (`shift_mm`) are of interest to the scanner.

    Args:
        rng: The patient's generator.
        disease: The patient's tumours and mimics.
        focus_z_mm: Height among the organs at which tumours and mimics are centred, so that a single slice there shows
            them; None leaves their height free.
    """

    def __init__(self, rng: np.random.Generator, disease: Disease, focus_z_mm: float | None = None) -> None:
        self._warp_entropy = int(rng.integers(2**32))
        # Skin and organs vary independently, so that the outline of the body does not show where the organs are.
        fat_mm = float(rng.uniform(4, 36))
        belly_mm = float(rng.uniform(0, 60))  # in front only: the organs lie deeper in one patient than in another
        self.skin_centre_mm = rng.uniform(-0.5, 0.5, size=2) * fat_mm - (0, belly_mm / 2)
        self.skin_semi_axes_mm = _CAVITY_MM + _WALL_MM + fat_mm + (0, belly_mm / 2)
        self.shift_mm = np.clip(rng.normal(0, (7, 6, 18)), (-12, -10, -32), (12, 10, 32))
        self._organs = Organs.draw(rng)
        self._tumours = self._draw_tumours(rng, disease, focus_z_mm)
        self._mimics = [self._draw_mimic(rng, focus_z_mm) for _ in range(rng.poisson(disease.mimics))]

    def sample(self, points: Points) -> Anatomy:
        """Return the body at points (3, N) in mm, in the patient's own coordinates."""
        rng = np.random.default_rng(self._warp_entropy)
        # Small enough for neighbours to stay neighbours, large enough that no two livers are the same ellipsoid.
        bent = points - self.shift_mm.astype(np.float32)[:, None]
        bent += np.stack([waves(points, rng, (70, 160), 6) for _ in range(3)]) * np.float32(4)
        tissue, cavity = self._trunk(points)
        leaves = np.zeros_like(tissue)
        for mask, kind, leaf in self._parts(bent):
            mask &= cavity
            tissue[mask] = kind
            leaves[mask] = leaf
        detail_hu = np.zeros(tissue.shape, dtype=np.float32)
        self._add_texture(detail_hu, tissue, bent, rng)
        self._add_mimics(detail_hu, tissue, bent)
        self._add_tumours(detail_hu, tissue, leaves, bent)
        self._add_vessels(detail_hu, tissue, leaves, bent)
        return Anatomy(tissue, leaves, detail_hu)

    def _trunk(self, points: Points) -> tuple[NDArray[np.uint8], Mask]:
        """Return the tissue of skin, wall and spine with air outside, and the mask of the cavity inside, both (N,)."""
        x, y, z = points
        skin_x, skin_y = self.skin_centre_mm
        skin = _oval(x - np.float32(skin_x), y - np.float32(skin_y), self.skin_semi_axes_mm)
        cavity = _oval(x, y, _CAVITY_MM)
        wall = _oval(x, y, _CAVITY_MM + _WALL_MM) & ~cavity
        ribs = wall & (z > -30) & (np.cos(12 * np.arctan2(y, x) + z / 14) > 0.75)
        back = (np.abs(np.abs(x) - 34) < 20) & (np.abs(y - 78) < 14)
        spine = np.hypot(x / 24, (y - 62) / 20) < 1
        tissue = np.where(skin, np.uint8(Tissue.FAT), np.uint8(Tissue.AIR))
        tissue[wall | (back & skin)] = Tissue.MUSCLE
        tissue[ribs | spine] = Tissue.BONE
        return tissue, cavity & ~spine & ~back

    def _parts(self, points: Points) -> Iterator[tuple[Mask, Tissue, Leaf]]:
        """Yield the parts in the cavity; where two parts overlap, the later part replaces the earlier."""
        for nodes in self._organs.loops:
            yield tube(points, nodes, np.full(len(nodes), 9.0)), Tissue.BOWEL, Leaf.BACKGROUND
        yield self._organs.stomach.contains(points), Tissue.STOMACH, Leaf.BACKGROUND
        yield tube(points, ASCENDING_COLON, np.array([15.0, 15.0])), Tissue.BOWEL, Leaf.BACKGROUND
        colon = self._organs.descending_colon()
        yield tube(points, colon, np.array([17.0, 17.0])), Tissue.BOWEL, Leaf.BACKGROUND
        yield tube(points, colon, np.array([14.0, 14.0])), Tissue.FILLED_BOWEL, Leaf.BACKGROUND
        yield self._organs.spleen.contains(points), Tissue.SPLEEN, Leaf.SPLEEN
        yield self._organs.liver.contains(points) | self._organs.left_lobe.contains(points), Tissue.LIVER, Leaf.LIVER
        yield tube(points, self._organs.pancreas, PANCREAS_RADII_MM), Tissue.PANCREAS, Leaf.PANCREAS
        yield kidney_mask(self._organs.kidney_right, points), Tissue.KIDNEY, Leaf.KIDNEY_RIGHT
        yield kidney_mask(self._organs.kidney_left, points), Tissue.KIDNEY, Leaf.KIDNEY_LEFT
        yield np.hypot(points[0] - 13, points[1] - 28) < 11, Tissue.AORTA, Leaf.BACKGROUND
        yield np.hypot(points[0] + 15, points[1] - 28) < 11, Tissue.CAVA, Leaf.BACKGROUND

    def _draw_tumours(
        self, rng: np.random.Generator, disease: Disease, focus_z_mm: float | None
    ) -> list[tuple[str, Tumour]]:
        tumours = []
        # All places are always drawn, so that the number of tumours changes nothing else in the patient.
        for organ, number in (("liver", 0), ("liver", 1), ("pancreas", 0), ("pancreas", 1)):
            radius_mm = float(rng.uniform(*disease.radius_mm))
            if organ == "liver":
                # The second one lies on the other side of the vessel tree's trunk.
                relative = np.array([-0.2, 0.4 if number else -0.3, 0.05]) + rng.uniform(-0.4, 0.4, size=3)
                centre = self._organs.liver.at(relative)
            else:
                centre = _along(self._organs.pancreas, float(rng.random()))
                # A pancreas is slender: a tumour of the liver's size would swallow it.
                radius_mm *= 0.8
            centre = _at_height(centre, focus_z_mm, radius_mm / 3, rng)
            entropy = int(rng.integers(2**32))
            tumour = Tumour(centre, radius_mm, disease.malignant, entropy, disease.cue, disease.texture_contrast)
            if number < disease.tumours.get(organ, 0):
                tumours.append((organ, tumour))
        return tumours

    def _draw_mimic(self, rng: np.random.Generator, focus_z_mm: float | None) -> Mimic:
        organ = self._organs.liver if rng.random() < 0.7 else self._organs.spleen
        centre = _at_height(organ.at(rng.uniform(-0.5, 0.5, size=3)), focus_z_mm, 4, rng)
        return draw_mimic(centre, rng)

    def _add_texture(
        self, detail_hu: NDArray[np.float32], tissue: NDArray[np.uint8], points: Points, rng: np.random.Generator
    ) -> None:
        """Give the kidneys their dark core and the pancreas its lobules."""
        for kidney in (self._organs.kidney_left, self._organs.kidney_right):
            core = Ellipsoid(kidney.at(np.array([-0.15, 0.0, 0.0])), 0.5 * kidney.semi_axes, kidney.rotation)
            detail_hu[core.contains(points) & (tissue == Tissue.KIDNEY)] = _CORE_HU
        pancreas = tissue == Tissue.PANCREAS
        detail_hu[pancreas] = _LOBULE_HU * waves(points[:, pancreas], rng, (17, 24), 14)

    def _add_mimics(self, detail_hu: NDArray[np.float32], tissue: NDArray[np.uint8], points: Points) -> None:
        for mimic in self._mimics:
            detail_hu[mimic.contains(points) & np.isin(tissue, (Tissue.LIVER, Tissue.SPLEEN))] = mimic.contrast_hu

    def _add_tumours(
        self,
        detail_hu: NDArray[np.float32],
        tissue: NDArray[np.uint8],
        leaves: NDArray[np.uint8],
        points: Points,
    ) -> None:
        for organ, tumour in self._tumours:
            kind, leaf, hosts = _HOSTS[organ]
            mask = tumour.contains(points) & np.isin(tissue, hosts)
            tissue[mask] = kind
            leaves[mask] = leaf
            detail_hu[mask] = tumour.contrast_hu(points[:, mask])

    def _add_vessels(
        self,
        detail_hu: NDArray[np.float32],
        tissue: NDArray[np.uint8],
        leaves: NDArray[np.uint8],
        points: Points,
    ) -> None:
        for number, nodes in enumerate(self._organs.branches):
            mask = tube(points, nodes, vessel_radii_mm(number)) & (leaves == Leaf.LIVER)
            tissue[mask] = Tissue.VESSEL
            leaves[mask] = Leaf.VESSEL
            detail_hu[mask] = 0


# Tissue a tumour is made of, its label, and the tissue it may replace.
_HOSTS = {
    "liver": (Tissue.LIVER, Leaf.LIVER_TUMOUR, (Tissue.LIVER,)),
    "pancreas": (Tissue.PANCREAS, Leaf.PANCREAS_TUMOUR, (Tissue.PANCREAS, Tissue.FAT, Tissue.BOWEL, Tissue.STOMACH)),
}


def _oval(x: NDArray[np.float32], y: NDArray[np.float32], semi_axes: NDArray[np.float64]) -> Mask:
    inside: Mask = (np.abs(x) / np.float32(semi_axes[0])) ** 2.3 + (np.abs(y) / np.float32(semi_axes[1])) ** 2.3 < 1
    return inside


def _along(nodes: NDArray[np.float64], fraction: float) -> NDArray[np.float64]:
    """Return the place a fraction of the way along a polyline (M, 3), by corners and not by length."""
    corners = np.arange(len(nodes))
    return np.array([np.interp(fraction * corners[-1], corners, axis) for axis in nodes.T])


def _at_height(
    centre: NDArray[np.float64], focus_z_mm: float | None, spread_mm: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    offset = float(rng.uniform(-spread_mm, spread_mm))
    return centre if focus_z_mm is None else np.array([centre[0], centre[1], focus_z_mm + offset])
