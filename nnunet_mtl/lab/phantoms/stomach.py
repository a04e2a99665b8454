"""The upper abdomen around a stomach with a tumour in its wall, and lymph nodes in the fat beside it.

Points are (3, N) float32 in mm: x towards the patient's left, y towards the back, z towards the head.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.geometry import Ellipsoid, Mask, Points, tube, tube_distance, waves
from nnunet_mtl.lab.phantoms.nodes import Node, NodeCue, draw_nodes, draw_places

# Field of view, slices first, and the largest displacement of a patient from its middle, in any direction.
EXTENT_MM = (160.0, 192.0, 192.0)
SHIFT_MM = 6.0

# Points of the stomach's centre line, from fundus to pylorus, and the radius of the stomach at these points.
_LINE_MM = np.array(
    [(30.0, 14.0, 52.0), (40.0, -4.0, 22.0), (28.0, -18.0, -10.0), (0.0, -24.0, -30.0), (-30, -14, -28)]
)
_RADII_MM = np.array([25.0, 24.0, 21.0, 18.0, 14.0])
_WALL_MM, _BOWEL_MM = 5.5, 10.0
_FAT_HU, _WALL_HU, _VESSEL_HU, _BOWEL_HU, _LIVER_HU, _SPLEEN_HU, _BONE_HU = (
    -95.0,
    72.0,
    165.0,
    60.0,
    105.0,
    118.0,
    260.0,
)
_TUMOUR_HU, _TUMOUR_TEXTURE_HU = 118.0, 10.0
_REACH_MM = 5.0  # how far a tumour reaches out of the wall
_APART_MM = 8.0  # distance of the nodes from the tumour, in addition to their usual gap


@dataclass(frozen=True)
class Abdomen:
    """A body sampled at N points.

    Attributes:
        intensity_hu: Intensity before the scanner's blur and noise, (N,).
        tumour: Which points are tumour, (N,).
        nodes: Which points are lymph node, (N,).
    """

    intensity_hu: NDArray[np.float32]
    tumour: Mask
    nodes: Mask


class Stomach:
    """One patient: every shape is drawn at construction, and nothing but the nodes depends on their status.

    Args:
        rng: The patient's generator.
        positive: Whether the nodes are metastatic.
        cue: Property of the nodes that shows the status.
        tumour_radius_mm: Half the largest extent of the tumour.
        flat: Whether the nodes are to lie in one slice with the tumour.
    """

    def __init__(
        self, rng: np.random.Generator, positive: bool, cue: NodeCue, tumour_radius_mm: float, flat: bool
    ) -> None:
        self._entropy = int(rng.integers(2**32))
        self._line = _LINE_MM + rng.normal(0, 3, size=3) + rng.normal(0, 2.5, size=_LINE_MM.shape)
        self._radii = _RADII_MM * rng.uniform(0.9, 1.1) * rng.uniform(0.95, 1.05, size=_RADII_MM.shape)
        self._lumen_hu = float(rng.uniform(-20, 35))
        self._liver = _organ(rng, (-78, -22, 40), (58, 62, 50))
        self._spleen = _organ(rng, (88, 44, 38), (24, 34, 36))
        self._spine = _organ(rng, (0, 92, 0), (26, 26, 400))
        self._tumour = self._draw_tumour(rng, tumour_radius_mm)
        self._aorta = np.array([(8.0, 56.0, -200.0), (8.0, 56.0, 200.0)])
        self._bowel = [_draw_colon(rng), *(_draw_loop(rng) for _ in range(2))]
        self._vessels = [_draw_vessel(rng) for _ in range(3)]
        places = draw_places(np.random.default_rng([self._entropy, 1]), self._tumour.centre, self._clearance_mm, flat)
        self._nodes: tuple[Node, ...] = draw_nodes(np.random.default_rng([self._entropy, 2]), places, positive, cue)

    @property
    def focus_mm(self) -> NDArray[np.float64]:
        """Centre of the tumour, (3,)."""
        return self._tumour.centre

    def sample(self, points: Points) -> Abdomen:
        """Return the body at points (3, N) in mm."""
        rng = np.random.default_rng(self._entropy)
        bent = points.copy()
        # Points move in the plane only, so that structures of one slice stay in this slice.
        bent[:2] += np.stack([waves(points, rng, (60, 140), 6) for _ in range(2)]) * np.float32(1.5)
        intensity = np.full(points.shape[1], _FAT_HU, dtype=np.float32)
        for loop in self._bowel:
            intensity[tube(bent, loop, np.full(len(loop), _BOWEL_MM))] = _BOWEL_HU
        for mask, hu in (
            (self._liver.contains(bent), _LIVER_HU),
            (self._spleen.contains(bent), _SPLEEN_HU),
            (self._spine.contains(bent), _BONE_HU),
            (tube(bent, self._aorta, np.full(2, 10.0)), _VESSEL_HU),
        ):
            intensity[mask] = hu
        for vessel in self._vessels:
            intensity[tube(bent, vessel, np.full(len(vessel), 2.6))] = _VESSEL_HU
        outer = tube(bent, self._line, self._radii)
        intensity[outer] = _WALL_HU
        intensity[tube(bent, self._line, self._radii - _WALL_MM)] = self._lumen_hu
        tumour = self._tumour.contains(bent) & tube(bent, self._line, self._radii + _REACH_MM)
        intensity[tumour] = _TUMOUR_HU + _TUMOUR_TEXTURE_HU * waves(bent[:, tumour], rng, (10, 22), 16)
        nodes = np.zeros_like(tumour)
        for node in self._nodes:
            mask = node.contains(bent)
            intensity[mask] = node.intensity_hu(bent[:, mask])
            nodes |= mask
        return Abdomen(intensity, tumour, nodes)

    def _draw_tumour(self, rng: np.random.Generator, radius_mm: float) -> Ellipsoid:
        corners = np.arange(len(self._line))
        along = rng.uniform(1.0, 3.2)
        centre, radius = self._on_line(along), float(np.interp(along, corners, self._radii))
        axis = self._on_line(along + 0.4) - self._on_line(along - 0.4)
        axis /= np.linalg.norm(axis)
        outwards = np.cross(axis, rng.normal(size=3))
        outwards /= np.linalg.norm(outwards)
        frame = np.stack([outwards, axis, np.cross(outwards, axis)], axis=1)
        semi_axes = radius_mm * np.array([0.7, rng.uniform(0.85, 1.0), rng.uniform(0.85, 1.0)])
        return Ellipsoid(centre + outwards * (radius - _WALL_MM), semi_axes, frame)

    def _on_line(self, along: float) -> NDArray[np.float64]:
        corners = np.arange(len(self._line))
        return np.array([np.interp(along, corners, axis) for axis in self._line.T])

    def _clearance_mm(self, points: Points) -> NDArray[np.float32]:
        """Return the distance to tissue other than fat (small vessels excepted) or to the image's border, (N,)."""
        distances = [
            tube_distance(points, self._line, self._radii) - np.float32(_REACH_MM),
            *(tube_distance(points, loop, np.full(len(loop), _BOWEL_MM)) for loop in self._bowel),
            tube_distance(points, self._aorta, np.full(2, 10.0)),
            *(_ellipsoid_distance(organ, points) for organ in (self._liver, self._spleen, self._spine)),
            # This distance is so large that the scanner's blur carries nothing over.
            _ellipsoid_distance(self._tumour, points) - np.float32(_APART_MM),
        ]
        half_mm = np.array(EXTENT_MM[::-1], dtype=np.float32)[:, None] / 2 - np.float32(SHIFT_MM)
        distances.append((half_mm - np.abs(points)).min(axis=0))
        clearance: NDArray[np.float32] = np.min(distances, axis=0)
        return clearance


def _ellipsoid_distance(organ: Ellipsoid, points: Points) -> NDArray[np.float32]:
    """Return a lower bound of the distance to an ellipsoid's surface in mm, (N,), negative inside."""
    local = (organ.rotation / organ.semi_axes).T.astype(np.float32) @ (
        points - organ.centre.astype(np.float32)[:, None]
    )
    bound: NDArray[np.float32] = (np.linalg.norm(local, axis=0) - 1) * np.float32(organ.semi_axes.min())
    return bound


def _organ(
    rng: np.random.Generator, centre: tuple[float, float, float], semi_axes: tuple[float, float, float]
) -> Ellipsoid:
    sizes = np.array(semi_axes) * rng.uniform(0.9, 1.08, size=3)
    return Ellipsoid(np.array(centre) + rng.normal(0, 3, size=3), sizes, np.eye(3))


def _draw_colon(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the colon that crosses below and in front of the stomach."""
    nodes = np.array([(-80.0, -30.0, -52.0), (-30.0, -48.0, -62.0), (30.0, -50.0, -60.0), (80.0, -20.0, -40.0)])
    return nodes + rng.normal(0, 4, size=nodes.shape)


def _draw_loop(rng: np.random.Generator) -> NDArray[np.float64]:
    start = rng.uniform((-60, -10, -75), (60, 30, -50))
    steps = rng.normal(size=(3, 3)) * (1, 0.6, 0.2)
    steps *= 22 / np.linalg.norm(steps, axis=1, keepdims=True)
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def _draw_vessel(rng: np.random.Generator) -> NDArray[np.float64]:
    start = np.array([8.0, 46.0, rng.uniform(-40, 40)])
    steps = rng.normal(size=(4, 3)) * (1.0, 0.7, 0.8) + (0, -0.8, 0)
    steps *= 22 / np.linalg.norm(steps, axis=1, keepdims=True)
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])
