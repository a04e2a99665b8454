"""A brain with one tumour whose regions are nested: the enhancing part in the core, the core in the whole tumour.

Points are (3, N) float32 in mm: x towards the patient's left, y towards the back, z towards the head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.geometry import Ellipsoid, Mask, Points, rotation, tube, waves

_SEMI_AXES_MM = np.array([64.0, 79.0, 60.0])


class BrainTissue(IntEnum):
    """Tissue at a point; the MR sequence determines its intensity."""

    OUTSIDE = 0
    WHITE = 1
    GREY = 2
    FLUID = 3
    VESSEL = 4
    OLD_LESION = 5
    OEDEMA = 6
    NECROSIS = 7
    ENHANCING = 8


@dataclass(frozen=True)
class Glioma:
    """A tumour: swollen tissue around a core; a core that enhances does so at its rim.

    Attributes:
        radius_mm: Radius of the whole tumour, before its surface is bent.
        enhances: Whether a part of the core takes up contrast agent.
        entropy: Seed of the tumour's place and form.
    """

    radius_mm: float
    enhances: bool
    entropy: int


class Brain:
    """One patient: every shape is drawn at construction.

    Args:
        rng: The patient's generator.
        glioma: The patient's tumour.
        mimics: Expected number of old lesions of the white matter, bright like swelling, and of contrast-filled vessels
            outside the sinus, bright like enhancing tumour.
    """

    def __init__(self, rng: np.random.Generator, glioma: Glioma, mimics: float) -> None:
        self._entropy = int(rng.integers(2**32))
        tilt = rotation(np.clip(rng.normal(0, 0.08, size=3), -0.2, 0.2))
        self._brain = Ellipsoid(rng.uniform(-3, 3, size=3), _SEMI_AXES_MM * rng.uniform(0.92, 1.04, size=3), tilt)
        self._ventricles = [self._ellipsoid((side * 13, 4, 8), (7, 30, 11), rng) for side in (-1, 1)]
        self._nuclei = [self._ellipsoid((side * 24, 0, -2), (9, 17, 12), rng) for side in (-1, 1)]
        self._vessels = [self._sinus(), *(_draw_vessel(rng, self._brain) for _ in range(rng.poisson(mimics)))]
        self._old_lesions = [_draw_old_lesion(rng, self._brain) for _ in range(rng.poisson(mimics))]
        self._glioma = glioma
        form = np.random.default_rng(glioma.entropy)
        towards = form.normal(size=3) * (1, 1, 0.6)
        self._centre = self._brain.at(towards / np.linalg.norm(towards) * form.uniform(0.35, 0.6))

    @property
    def focus_mm(self) -> NDArray[np.float64]:
        """Centre of the tumour, (3,)."""
        return self._centre

    def sample(self, points: Points) -> NDArray[np.uint8]:
        """Return the `BrainTissue` at points (3, N) in mm, (N,)."""
        rng = np.random.default_rng(self._entropy)
        bent = points + np.stack([waves(points, rng, (60, 140), 6) for _ in range(3)]) * np.float32(2.5)
        depth = self._depth(bent)
        folds = waves(bent, rng, (16, 34), 24)
        tissue = np.full(points.shape[1], BrainTissue.WHITE, dtype=np.uint8)
        tissue[depth > 0.83 + 0.07 * folds] = BrainTissue.GREY
        tissue[depth > 0.965 + 0.05 * folds] = BrainTissue.FLUID
        for mask, kind in self._inner_parts(bent):
            tissue[mask] = kind
        for mask, kind in self._tumour_parts(points, bent):
            tissue[mask & (tissue != BrainTissue.FLUID)] = kind
        tissue[depth > 1] = BrainTissue.OUTSIDE
        return tissue

    def _depth(self, points: Points) -> NDArray[np.float32]:
        """Return the distance from the brain's centre relative to its surface, (N,)."""
        local = (self._brain.rotation / self._brain.semi_axes).T.astype(np.float32) @ (
            points - self._brain.centre.astype(np.float32)[:, None]
        )
        depth: NDArray[np.float32] = np.linalg.norm(local, axis=0)
        return depth

    def _inner_parts(self, points: Points) -> Iterator[tuple[Mask, BrainTissue]]:
        for nucleus in self._nuclei:
            yield nucleus.contains(points), BrainTissue.GREY
        for lesion in self._old_lesions:
            yield lesion.contains(points), BrainTissue.OLD_LESION
        for ventricle in self._ventricles:
            yield ventricle.contains(points), BrainTissue.FLUID
        for nodes in self._vessels:
            yield tube(points, nodes, np.full(len(nodes), 3.2)), BrainTissue.VESSEL

    def _tumour_parts(self, points: Points, bent: Points) -> Iterator[tuple[Mask, BrainTissue]]:
        """Yield the parts from the outside in; a core may reach beyond the swelling around it."""
        rng = np.random.default_rng([self._glioma.entropy, 1])
        radius = self._glioma.radius_mm
        yield _bent_ball(bent, self._centre, radius, 0.16, rng), BrainTissue.OEDEMA
        core_centre = self._centre + rng.uniform(-0.2, 0.2, size=3) * radius
        core_radius = radius * rng.uniform(0.55, 0.68)
        core = _bent_ball(points, core_centre, core_radius, 0.12, rng)
        yield core, BrainTissue.NECROSIS
        necrosis_centre = core_centre + rng.uniform(-0.15, 0.15, size=3) * core_radius
        necrosis = _bent_ball(points, necrosis_centre, core_radius * rng.uniform(0.4, 0.6), 0.15, rng)
        # The rim has gaps.
        rim = core & ~necrosis & (waves(points, rng, (25, 45), 12) < 1.2)
        yield rim if self._glioma.enhances else np.zeros_like(rim), BrainTissue.ENHANCING

    def _ellipsoid(
        self, place_mm: tuple[float, float, float], semi_axes: tuple[float, float, float], rng: np.random.Generator
    ) -> Ellipsoid:
        centre = self._brain.centre + self._brain.rotation @ (np.array(place_mm) + rng.normal(0, 1.5, size=3))
        return Ellipsoid(centre, np.array(semi_axes) * rng.uniform(0.75, 1.25, size=3), self._brain.rotation)

    def _sinus(self) -> NDArray[np.float64]:
        """Return the vein that runs along the top of the midline."""
        angles = np.linspace(0.15 * np.pi, 0.95 * np.pi, 9)
        return np.stack([self._brain.at(np.array([0, 0.96 * np.cos(a), 0.96 * np.sin(a)])) for a in angles])


def _bent_ball(
    points: Points, centre: NDArray[np.float64], radius: float, bend: float, rng: np.random.Generator
) -> Mask:
    distance = np.linalg.norm(points - centre.astype(np.float32)[:, None], axis=0)
    surface = radius * (1 + bend * np.clip(waves(points, rng, (1.6 * radius, 3 * radius), 8), -2, 2))
    inside: Mask = distance < surface
    return inside


def _draw_vessel(rng: np.random.Generator, brain: Ellipsoid) -> NDArray[np.float64]:
    start = rng.normal(size=3)
    start *= 0.9 / np.linalg.norm(start)
    bends = np.linspace(1, rng.uniform(0.4, 0.6), 4)[:, None] * start + rng.normal(0, 0.06, size=(4, 3))
    return np.stack([brain.at(bend) for bend in bends])


def _draw_old_lesion(rng: np.random.Generator, brain: Ellipsoid) -> Ellipsoid:
    place = rng.normal(size=3)
    place *= rng.uniform(0.3, 0.75) / np.linalg.norm(place)
    return Ellipsoid(brain.at(place), rng.uniform(5, 13, size=3), brain.rotation)
