"""The area of the piece of surface in a cell between voxel centres, for every pattern of inside and outside corners.

Marching cubes (Lorensen and Cline, 1987) on the 2x2x2 corners of a cell, with the surface half way between inside and
outside corners. Some patterns leave open how the corners are connected: then every corner of the side with fewer
corners is cut off by itself, so that a mask and its complement have the same surface. The piece is stretched with the
voxel spacing along every axis. In 2D the same holds for the squares between pixel centres and the length of outlines.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import measure

# scikit-image ships no types.
_marching_cubes: Callable[..., Any] = measure.marching_cubes
_find_contours: Callable[..., Any] = measure.find_contours


def cell_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return for every cell between voxel centres which corners are inside the mask; beyond the array all are outside.

    Args:
        mask: (Y, X) or (Z, Y, X).

    Returns:
        One code for every cell; each axis has one cell more than voxels. Bit b is set if the b-th corner, in C order,
        is inside: bit 0 is the first corner along all axes, bit 1 the next corner along the last axis.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([size + 1 for size in mask.shape], np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        window = tuple(slice(start, start + size) for start, size in zip(corner, codes.shape, strict=True))
        codes |= padded[window] << np.uint8(bit)
    return codes


def element_sizes(spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Return the surface area in mm2 of a cell for every code, (256,); in 2D the outline's length in mm, (16,).

    The area is 0 for the two codes whose corners all lie on one side.
    """
    # The component of a normal along an axis is an area (in 2D a length) across that axis: other axes stretch it.
    stretch = np.prod(spacing_mm) / np.asarray(spacing_mm, dtype=float)
    sizes: NDArray[np.float64] = np.linalg.norm(_normals(len(spacing_mm)) * stretch, axis=2).sum(axis=1)
    return sizes


@cache
def _normals(ndim: int) -> NDArray[np.float64]:
    """Return the normals of the surface pieces in a cell of unit edges, (codes, pieces, axes).

    The length of a normal is the area of the piece. Codes with fewer pieces are filled up with zeros.
    """
    n_corners = 2**ndim
    all_inside = 2**n_corners - 1
    pieces = [np.zeros((0, ndim))] * (all_inside + 1)
    for code in range(1, all_inside):
        fewer = code if 2 * code.bit_count() <= n_corners else all_inside - code
        corners = np.array([fewer >> bit & 1 for bit in range(n_corners)], dtype=float).reshape((2,) * ndim)
        pieces[code] = _outline_normals(corners) if ndim == 2 else _surface_normals(corners)
    normals = np.zeros((all_inside + 1, max(map(len, pieces)), ndim))
    for code, code_pieces in enumerate(pieces):
        normals[code, : len(code_pieces)] = code_pieces
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
