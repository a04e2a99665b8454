"""Distances from the voxels of one set to the nearest voxel of another, in mm and exact.

Several ways lead to the same numbers, and each voxel takes one that is cheap for it. First come looks at the voxels
around it, which settle good predictions and dense sets; then a k-d tree, asked for what lies within a few voxels, then
within more, and so on; and as soon as that would take longer, a distance transform of the whole box. A tree is
quick where the nearest is near, but from the middle of a box it visits every voxel of the walls; a transform takes the
same time whoever asks.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

# Voxels around a voxel that are looked at are at most so many steps away along each axis, and together at most so many
# per voxel of the two sets: the tree would have cost as much by then.
_STEPS = 3
_LOOKS_PER_VOXEL = 20
# In voxels of the mean size: how far a set is grown by shifts, and how far the tree is asked at first; each time that
# it is asked again, so many times further.
_GROWN_VOXELS = 3
_NEAR_VOXELS = 8
_FURTHER = 4
# So many points are asked ahead of the others.
_FEW = 64
# Seconds on one core, measured on 200^3 voxels; only the quotients matter.
_PER_QUESTION = 1e-6
_PER_VISIT = 5e-9
_PER_TARGET = 0.15e-6
_PER_VOXEL_TRANSFORMED = 80e-9

Grid = NDArray[np.bool_]
Places = NDArray[np.intp]
Numbers = NDArray[np.float64]


def nearest_distances(of: Grid, to: Grid, spacing_mm: Sequence[float]) -> Numbers:
    """Return how far each voxel of one set is from the nearest of another, between voxel centres.

    Args:
        of: The voxels that ask, (Y, X) or (Z, Y, X).
        to: The voxels that are looked for, same shape.
        spacing_mm: Distance of voxels along each axis.

    Returns:
        Distances in mm, (N,), one for each voxel of `of` in no order; infinite where `to` is empty.
    """
    both = of & to
    counts = [int(np.count_nonzero(both))]
    values = [0.0]
    targets = np.pad(to, _STEPS)  # so that no look leaves the grid
    places = np.flatnonzero(np.pad(of & ~both, _STEPS))
    looks = _LOOKS_PER_VOXEL * (len(places) + np.count_nonzero(to))
    for step, distance in _steps(targets.shape, spacing_mm):
        if not len(places) or looks < 0:
            break
        looks -= len(places)
        missed = places[~targets.ravel()[places + step]]
        counts.append(len(places) - len(missed))
        values.append(distance)
        places = missed
    points = np.stack(np.unravel_index(places, targets.shape), axis=1) - _STEPS
    return np.concatenate([np.repeat(values, counts), _searched(points, to, spacing_mm)])


def near(of: Grid, to: Grid, spacing_mm: Sequence[float], within_mm: float) -> Grid:
    """Return which voxels of one set have one of another within a distance between their centres.

    Args:
        of: The voxels that ask, (Y, X) or (Z, Y, X).
        to: The voxels that are looked for, same shape.
        spacing_mm: Distance of voxels along each axis.
        within_mm: The distance; one that equals it falls on either side by rounding.
    """
    grown_mm = min(within_mm, _GROWN_VOXELS * _mean_mm(spacing_mm))
    found = of & _grown(to, spacing_mm, grown_mm)
    if grown_mm < within_mm:
        points = np.argwhere(of & ~found)
        distances = _searched(points, to, spacing_mm, within_mm)
        found[tuple(points[distances <= within_mm].T)] = True
    return found


def _mean_mm(spacing_mm: Sequence[float]) -> float:
    return math.prod(spacing_mm) ** (1 / len(spacing_mm))


def _steps(shape: tuple[int, ...], spacing_mm: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Yield the voxels around a voxel by distance: step in the flat array, distance in mm."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    offsets = product(range(-_STEPS, _STEPS + 1), repeat=len(shape))
    by_distance = sorted((math.hypot(*np.multiply(offset, spacing_mm)), offset) for offset in offsets)
    # Further away there may be voxels that are nearer, but more steps away along one axis.
    complete_mm = (_STEPS + 1) * min(spacing_mm)
    yield from ((int(np.dot(o, strides)), distance) for distance, o in by_distance[1:] if distance <= complete_mm)


def _grown(to: Grid, spacing_mm: Sequence[float], radius_mm: float) -> Grid:
    """Return the voxels within a radius of a set, by shifts of the whole set.

    Along the finest axis the set is widened step by step, and each width shifted along the other axes to where the
    ball is that wide.
    """
    finest = int(np.argmin(spacing_mm))
    others = [axis for axis in range(to.ndim) if axis != finest]
    reaches = [int(radius_mm / spacing_mm[axis]) for axis in others]
    shifts_of_width: dict[int, list[tuple[int, ...]]] = {}
    for shift in product(*(range(-reach, reach + 1) for reach in reaches)):
        left = radius_mm**2 - sum((n * spacing_mm[axis]) ** 2 for n, axis in zip(shift, others, strict=True))
        if left >= 0:
            shifts_of_width.setdefault(int(math.sqrt(left) / spacing_mm[finest]), []).append(shift)
    widened, grown = to.copy(), np.zeros_like(to)
    for width in range(max(shifts_of_width) + 1):
        for n in {-width, width}:
            _add_shifted(widened, to, [finest], (n,))
        for shift in shifts_of_width.get(width, ()):
            _add_shifted(grown, widened, others, shift)
    return grown


def _add_shifted(target: Grid, source: Grid, axes: Sequence[int], shift: Sequence[int]) -> None:
    onto, of = [slice(None)] * source.ndim, [slice(None)] * source.ndim
    for axis, n in zip(axes, shift, strict=True):
        size = source.shape[axis]
        onto[axis] = slice(min(max(n, 0), size), max(min(size + n, size), 0))
        of[axis] = slice(min(max(-n, 0), size), max(min(size - n, size), 0))
    target[tuple(onto)] |= source[tuple(of)]


def _searched(points: Places, targets: Grid, spacing_mm: Sequence[float], within_mm: float = math.inf) -> Numbers:
    """Return the distances of voxels (N, axes) by tree or transform.

    Infinite where there is no target, and maybe where the nearest is further away than `within_mm`.
    """
    distances = np.full(len(points), np.inf)
    n_targets = int(np.count_nonzero(targets))
    if not len(points) or not n_targets:
        return distances
    steps_mm = np.asarray(spacing_mm, dtype=float)
    by_transform = targets.size * _PER_VOXEL_TRANSFORMED
    if by_transform < n_targets * _PER_TARGET:
        return _transformed(points, targets, steps_mm)
    tree = cKDTree(np.argwhere(targets) * steps_mm, leafsize=32, balanced_tree=False)
    waiting, radius = np.arange(len(points)), _NEAR_VOXELS
    while len(waiting):
        reach_mm = min(within_mm, radius * _mean_mm(spacing_mm))
        # A few tell what the others will take: how many targets they visit, now and, where they find none, again.
        few = points[waiting[:: len(waiting) // _FEW + 1]] * steps_mm
        questions, visits = len(few), tree.query_ball_point(few, reach_mm, return_length=True).sum()
        if reach_mm < within_mm:
            unanswered = few[np.isinf(_asked(tree, few, reach_mm))]
            questions += 2 * len(unanswered)
            visits += tree.query_ball_point(unanswered, _FURTHER * reach_mm, return_length=True).sum()
        by_tree = len(waiting) / len(few) * (questions * _PER_QUESTION + visits * _PER_VISIT)
        if by_transform < by_tree:
            distances[waiting] = _transformed(points[waiting], targets, steps_mm)
            break
        distances[waiting] = _asked(tree, points[waiting] * steps_mm, reach_mm)
        if reach_mm == within_mm:
            break
        waiting = waiting[np.isinf(distances[waiting])]
        radius *= _FURTHER
    return distances


def _asked(tree: cKDTree, points_mm: Numbers, reach_mm: float) -> Numbers:
    # The tree's bound is exclusive, ours is not.
    distances: Numbers = tree.query(points_mm, distance_upper_bound=np.nextafter(reach_mm, np.inf))[0]
    return distances


def _transformed(points: Places, targets: Grid, steps_mm: Numbers) -> Numbers:
    # Only who is nearest is asked of the transform: its own distances would fill the box with three more arrays.
    nearest = distance_transform_edt(~targets, sampling=steps_mm, return_distances=False, return_indices=True)
    differences = (nearest[(slice(None), *points.T)].T - points) * steps_mm
    distances: Numbers = np.sqrt((differences**2).sum(axis=1))
    return distances
