"""Comparison of the voxel grids of two images: one rule for all of nnU-Net's readers, in units of voxels.

Two grids are equal if the numbers of voxels along every axis are equal, if the spacings agree within nnU-Net's
tolerance (a relative 1e-5), and if no corner of one image lies further than a hundredth of a voxel from the same corner
of the other. Over a thousand voxels nnU-Net's tolerance adds up to a hundredth of a voxel. Coordinates and directions
that a header stores as 32-bit floats are more precise than that, even at -777.5 mm.

nnU-Net's readers give different geometry: SimpleITK's gives spacing, origin and direction, nibabel's an affine matrix,
the readers of natural images and of TIFF files only the spacing. Geometry that one reader lacks is not compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK

TOLERANCE_VOXELS = 0.01

Matrix = npt.NDArray[np.float64]


class GridDifference(NamedTuple):
    """The first difference between two grids.

    Attributes:
        kind: "number of dimensions", "shape", "spacing", "origin" or "direction".
        text: Both values, and for origin and direction the distance of the images in voxels.
    """

    kind: str
    text: str


@dataclass(frozen=True, eq=False)
class Grid:
    """The place of an image's voxels in mm.

    Attributes:
        shape: Voxels along each axis, (Z, Y, X); one slice for a 2D image.
        spacing_mm: Spacing from nnU-Net's reader, (Z, Y, X).
        affine: Matrix in mm, (D, D + 1): the columns are the steps to the next voxel along X, Y (and Z), and the place
            of the first voxel; None if the reader does not give it.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    affine: Matrix | None = None


def grid_of(shape: Sequence[int], properties: Mapping[str, Any]) -> Grid:
    """Return the grid of an image that one of nnU-Net's readers has read.

    Args:
        shape: Shape of the array without channels, (Z, Y, X).
        properties: Properties that the reader returns beside the array.
    """
    affine = None
    if "sitk_stuff" in properties:
        geometry = properties["sitk_stuff"]
        affine = _affine(geometry["spacing"], geometry["origin"], geometry["direction"])
    elif "nibabel_stuff" in properties:
        geometry = properties["nibabel_stuff"]
        # A reader that reorients images returns an array in the axis order of the reoriented affine.
        affine = np.asarray(geometry.get("reoriented_affine", geometry["original_affine"]), np.float64)[:3]
    return Grid(tuple(shape), tuple(float(step) for step in properties["spacing"]), affine)


def grid_of_image(image: SimpleITK.Image) -> Grid:
    """Return the grid of a SimpleITK image."""
    affine = _affine(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Grid(image.GetSize()[::-1], image.GetSpacing()[::-1], affine)


def grid_difference(found: Grid, expected: Grid) -> GridDifference | None:
    """Return the first difference between two grids; None if the grids are equal."""
    if found.affine is not None and expected.affine is not None and len(found.affine) != len(expected.affine):
        dimensions = f"{len(found.affine)} dimensions against {len(expected.affine)}"
        return GridDifference("number of dimensions", dimensions)
    if found.shape != expected.shape:
        return GridDifference("shape", f"{found.shape} voxels against {expected.shape}")
    if not np.allclose(found.spacing_mm, expected.spacing_mm):
        return _differing("spacing", found.spacing_mm, expected.spacing_mm)
    if found.affine is None or expected.affine is None:
        return None
    # Differences in voxels of the expected grid.
    apart = np.linalg.pinv(expected.affine[:, :-1]) @ (found.affine - expected.affine)
    shift = float(np.abs(apart[:, -1]).max())
    if not shift <= TOLERANCE_VOXELS:
        return _differing("origin", found.affine[:, -1], expected.affine[:, -1], shift)
    corners = np.array(list(product(*((0, edge) for edge in expected.shape[::-1][: len(apart)]))))
    turn = float(np.abs(apart[:, :-1] @ corners.T).max())
    if not turn <= TOLERANCE_VOXELS:
        return _differing("direction", _directions(found.affine), _directions(expected.affine), turn)
    return None


def _affine(spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]) -> Matrix:
    n_axes = len(spacing)
    steps = np.reshape(direction, (n_axes, n_axes)) * np.asarray(spacing, np.float64)
    # A fourth axis holds channels or time points.
    return np.column_stack((steps[:3, :3], np.asarray(origin, np.float64)[:3]))


def _directions(affine: Matrix) -> Matrix:
    steps = affine[:, :-1]
    directions: Matrix = np.round(steps / np.linalg.norm(steps, axis=0), 7).ravel()
    return directions


def _differing(
    kind: str, found: Sequence[float] | Matrix, expected: Sequence[float] | Matrix, apart: float = 0.0
) -> GridDifference:
    distance = f", {apart:.3g} voxels apart" if apart else ""
    return GridDifference(kind, f"{kind} {_rounded(found)} against {_rounded(expected)}{distance}")


def _rounded(numbers: Sequence[float] | Matrix) -> str:
    return "(" + ", ".join(f"{number:.7g}" for number in numbers) + ")"
