"""Shapes of the phantom: analytic, so that one body can be sampled on any scanner's grid.

Points are (3, N) float32 in mm: x towards the patient's left, y towards the back, z towards the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid that may be tilted; degenerate cases (zero axes) are not meant to occur.

    Attributes:
        centre: Centre in mm, (3,).
        semi_axes: Half lengths of its axes in mm, (3,).
        rotation: Orthonormal matrix whose columns are the directions of the axes, (3, 3).
    """

    centre: NDArray[np.float64]
    semi_axes: NDArray[np.float64]
    rotation: NDArray[np.float64]

    def contains(self, points: Points) -> Mask:
        """Return which points lie inside, (N,)."""
        inside = np.zeros(points.shape[1], dtype=bool)
        near = np.flatnonzero(_within_box(points, self.centre, float(self.semi_axes.max())))
        local = (self.rotation / self.semi_axes).T.astype(np.float32) @ (points[:, near] - _column(self.centre))
        inside[near] = np.einsum("in,in->n", local, local) < 1
        return inside

    def at(self, relative: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the place in mm of coordinates (3,) in which the surface has length 1."""
        place: NDArray[np.float64] = self.centre + self.rotation @ (self.semi_axes * relative)
        return place


def voxel_places(
    matrix: Sequence[int], spacing_mm: Sequence[float], shift_mm: NDArray[np.float64], height_mm: float
) -> Points:
    """Return where the voxels of an image lie in the patient, (3, N).

    Args:
        matrix: Voxels along each axis, (Y, X) or (Z, Y, X).
        spacing_mm: Distance of voxels along the same axes.
        shift_mm: Place of the middle of the image in the patient, (3,), x first.
        height_mm: Height of a 2D slice, whatever the shift; not used for volumes.
    """
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(matrix, spacing_mm, strict=True)]
    if len(axes) == 2:
        axes = [np.array([height_mm - shift_mm[2]]), *axes]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (np.stack([x, y, z]).reshape(3, -1) + shift_mm[:, None]).astype(np.float32)


def tube(points: Points, nodes: NDArray[np.float64], radii: NDArray[np.float64]) -> Mask:
    """Return which points lie in a tube along a polyline, (N,).

    Args:
        points: (3, N) in mm.
        nodes: Corners of the centre line in mm, (M, 3), M >= 2.
        radii: Radius at each corner in mm, (M,); linear in between.
    """
    inside = np.zeros(points.shape[1], dtype=bool)
    for start, end, r_start, r_end in zip(nodes[:-1], nodes[1:], radii[:-1], radii[1:], strict=True):
        half = float(np.abs(end - start).max()) / 2 + float(max(r_start, r_end))
        near = np.flatnonzero(_within_box(points, (start + end) / 2, half))
        offset = points[:, near] - _column(start)
        axis = (end - start).astype(np.float32)
        along = np.clip(axis @ offset / float(axis @ axis), 0, 1)
        distance = np.linalg.norm(offset - axis[:, None] * along, axis=0)
        inside[near] |= distance < r_start + (r_end - r_start) * along
    return inside


def tube_distance(points: Points, nodes: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return how far points are from the surface of a tube along a polyline in mm, (N,), negative inside.

    Args:
        points: (3, N) in mm.
        nodes: Corners of the centre line in mm, (M, 3), M >= 2.
        radii: Radius at each corner in mm, (M,); linear in between, where the distance is right for slender cones.
    """
    distance = np.full(points.shape[1], np.inf, dtype=np.float32)
    for start, end, r_start, r_end in zip(nodes[:-1], nodes[1:], radii[:-1], radii[1:], strict=True):
        axis = (end - start).astype(np.float32)
        offset = points - _column(start)
        along = np.clip(axis @ offset / float(axis @ axis), 0, 1)
        to_axis = np.linalg.norm(offset - axis[:, None] * along, axis=0)
        distance = np.minimum(distance, to_axis - np.float32(r_start) - np.float32(r_end - r_start) * along)
    return distance


def waves(
    points: Points, rng: np.random.Generator, wavelength_mm: tuple[float, float], count: int
) -> NDArray[np.float32]:
    """Return a smooth random field of mean about 0 and variance about 1 at the points, (N,).

    A sum of plane waves of random direction and phase: the same rng gives the same field on any grid.
    """
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = rng.uniform(*wavelength_mm, size=(count, 1))
    phases = rng.uniform(0, 2 * np.pi, size=(count, 1)).astype(np.float32)
    vectors = (2 * np.pi * directions / lengths).astype(np.float32)
    field: NDArray[np.float32] = np.sin(vectors @ points + phases).sum(axis=0) * np.float32(np.sqrt(2 / count))
    return field


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation about x, then y, then z by angles in radians, (3, 3)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    combined: NDArray[np.float64] = about_z @ about_y @ about_x
    return combined


def _within_box(points: Points, centre: NDArray[np.float64], half: float) -> Mask:
    within: Mask = (np.abs(points - _column(centre)) < half).all(axis=0)
    return within


def _column(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    return vector.astype(np.float32)[:, None]
