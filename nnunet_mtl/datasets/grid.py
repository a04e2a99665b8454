"""Whether two images lie on one voxel grid: one rule for every reader of nnU-Net, relative to the voxel.

Two grids are one if they have as many voxels along each axis, if their spacings are equal by nnU-Net's tolerance (a
relative 1e-5), and if no corner of the one lies further than a hundredth of a voxel from the same corner of the other.
A hundredth is what nnU-Net's tolerance adds up to over a thousand voxels; coordinates and directions that a header
stores as 32-bit floats come back to within less of that, also a slice at -777.5 mm.

nnU-Net's readers say more or less of where an image lies: SimpleITK's the spacing, origin and direction, nibabel's an
affine matrix, that of natural images and that of TIFF files the spacing alone. What neither says is not compared.
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
    """In what two grids differ.

    Attributes:
        kind: "number of dimensions", "shape", "spacing", "origin" or "direction", the first that differs.
        text: The two values, and for origin and direction by how many voxels the images lie apart.
    """

    kind: str
    text: str


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an image lie.

    Attributes:
        shape: Voxels along each axis, (Z, Y, X); one slice for a 2D image.
        spacing_mm: As nnU-Net's reader gives it, in the same order.
        affine: In mm, (D, D + 1): a column for the step to the next voxel along X, Y (and Z), and last the place of the
            first voxel; None where the reader does not say.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    affine: Matrix | None = None


def grid_of(shape: Sequence[int], properties: Mapping[str, Any]) -> Grid:
    """Return the grid of an image that one of nnU-Net's readers has read.

    Args:
        shape: Of the array without its channels, (Z, Y, X).
        properties: What the reader says beside the array.
    """
    affine = None
    if "sitk_stuff" in properties:
        found = properties["sitk_stuff"]
        affine = _affine(found["spacing"], found["origin"], found["direction"])
    elif "nibabel_stuff" in properties:
        found = properties["nibabel_stuff"]
        # a reader that turns images gives an array in the order of the affine after that
        affine = np.asarray(found.get("reoriented_affine", found["original_affine"]), np.float64)[:3]
    return Grid(tuple(shape), tuple(float(step) for step in properties["spacing"]), affine)


def grid_of_image(image: SimpleITK.Image) -> Grid:
    """Return the grid of an image of SimpleITK's."""
    affine = _affine(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Grid(image.GetSize()[::-1], image.GetSpacing()[::-1], affine)


def grid_difference(found: Grid, expected: Grid) -> GridDifference | None:
    """Say in what two grids differ; None where they are one."""
    if found.affine is not None and expected.affine is not None and len(found.affine) != len(expected.affine):
        dimensions = f"{len(found.affine)} dimensions against {len(expected.affine)}"
        return GridDifference("number of dimensions", dimensions)
    if found.shape != expected.shape:
        return GridDifference("shape", f"{found.shape} voxels against {expected.shape}")
    if not np.allclose(found.spacing_mm, expected.spacing_mm):
        return _differing("spacing", found.spacing_mm, expected.spacing_mm)
    if found.affine is None or expected.affine is None:
        return None
    # in voxels of the expected grid
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
    # a fourth axis is that of channels, or of time
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
