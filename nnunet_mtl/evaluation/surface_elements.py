"""The piece of surface in a cell between voxel centres, by which of the cell's corners are inside.

Marching cubes as of Lorensen and Cline (1987) on the 2x2x2 corners, with the surface half way between inside and
outside. Where the corners leave open how they are connected, the side of fewer corners is the one that is cut off, each
of its corners by itself: the surface of a mask is that of its complement. Along the axes of the voxels a piece is
stretched with them. In 2D the same with squares and lengths.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import measure

# Both come without types.
_marching_cubes: Callable[..., Any] = measure.marching_cubes
_find_contours: Callable[..., Any] = measure.find_contours


def cell_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return for each cell between voxel centres which of its corners are inside; outside the mask nothing is.

    Args:
        mask: (Y, X) or (Z, Y, X).

    Returns:
        Codes, along each axis one more than voxels. Bit b stands for the b-th corner in C order: 1 for the first along
        all axes, 2 for the next along the last axis.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([size + 1 for size in mask.shape], np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        window = tuple(slice(start, start + size) for start, size in zip(corner, codes.shape, strict=True))
        codes |= padded[window] << np.uint8(bit)
    return codes


def element_sizes(spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Return the area in mm2 of the surface in a cell by its code, (256,); in 2D the length of the outline, (16,).

    Cells with all corners on one side have none.
    """
    # A normal's component is an area (length) across its axis and stretches with the other axes.
    stretch = np.prod(spacing_mm) / np.asarray(spacing_mm, dtype=float)
    sizes: NDArray[np.float64] = np.linalg.norm(_normals(len(spacing_mm)) * stretch, axis=2).sum(axis=1)
    return sizes


@cache
def _normals(ndim: int) -> NDArray[np.float64]:
    """Return the normals of the pieces in a cell of unit edges, as long as the pieces are large, (codes, pieces, axes).

    Filled up with zeros.
    """
    n_corners = 2**ndim
    everyone = 2**n_corners - 1
    of_codes = [np.zeros((0, ndim))] * (everyone + 1)
    for code in range(1, everyone):
        fewer = code if 2 * code.bit_count() <= n_corners else everyone - code
        corners = np.array([fewer >> bit & 1 for bit in range(n_corners)], dtype=float).reshape((2,) * ndim)
        of_codes[code] = _outline_normals(corners) if ndim == 2 else _surface_normals(corners)
    normals = np.zeros((everyone + 1, max(map(len, of_codes)), ndim))
    for code, found in enumerate(of_codes):
        normals[code, : len(found)] = found
    return normals


def _surface_normals(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    vertices, faces, _, _ = _marching_cubes(corners, 0.5, method="lorensen")
    first, second, third = vertices[faces].astype(float).transpose(1, 0, 2)
    normals: NDArray[np.float64] = np.cross(second - first, third - first) / 2
    return normals


def _outline_normals(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    lines = _find_contours(corners, 0.5)
    steps = np.concatenate([np.diff(line, axis=0) for line in lines])
    normals: NDArray[np.float64] = steps[:, ::-1] * (1, -1)
    return normals
