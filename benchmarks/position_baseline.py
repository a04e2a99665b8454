"""The Dice that intensity and place alone reach on a data set; a phantom with a low one needs shape and context.

For every region the annotated training cases give an intensity window, and a map of how often the region lies at a
place relative to the body's bounding box. A voxel belongs to the region if it is in the window and its place is
frequent enough. Window and frequency are the best ones on the training cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy.ndimage import binary_opening, gaussian_filter, label, map_coordinates

from nnunet_mtl.common.files import references_table
from nnunet_mtl.tasks import TaskSet, read_dataset_json

_BODY_HU = -300
_MAP_SIZE = 24
_PERCENTILES = ((0.0, 100.0), (5.0, 95.0), (15.0, 85.0))
_FREQUENCIES = np.linspace(0.05, 0.9, 18)


@dataclass(frozen=True)
class _Case:
    """A case in the patient's orientation: smoothed channels, leaves on their grid, relative place of each voxel."""

    image: NDArray[np.float32]  # (C, *spatial)
    leaves: NDArray[np.integer[Any]]
    place: NDArray[np.float32]


def threshold_and_position_dice(
    folder: Path, *, smoothing: float = 0.7, body: float | None = _BODY_HU
) -> dict[str, float]:
    """Return the Dice of thresholds and position maps on the fully labelled test cases, per region.

    Args:
        folder: A data set of phantoms with the block; with several channels a voxel must be in the windows of all.
        smoothing: Standard deviation in voxels of a Gaussian over the image before it is thresholded.
        body: The body is what is brighter in the first channel, where places are relative to its box; None takes
            places relative to the image.

    Returns:
        Mean over the test cases that have the region; nan for a region that no test case has.
    """
    tasks = TaskSet.from_dataset_json(read_dataset_json(folder / "dataset.json"))
    oracle = TaskSet.from_dataset_json(read_dataset_json(references_table(folder / "labelsTs")))
    training = {name: _read(folder, "Tr", name, smoothing, body) for name in tasks.cases}
    test = [_read(folder, "Ts", name, smoothing, body) for name in oracle.cases]
    scores = {}
    for index, region in enumerate(tasks.regions):
        labels = tasks.region_labels[index]
        annotated = [case for name, case in training.items() if tasks.annotated(name)[index]]
        scores[region] = _score(annotated, test, labels)
    return scores


def _score(training: Sequence[_Case], test: Sequence[_Case], labels: tuple[int, ...]) -> float:
    truths = [np.isin(case.leaves, labels) for case in training]
    voxels = np.concatenate([case.image[:, truth] for case, truth in zip(training, truths, strict=True)], axis=1)
    if not voxels.size:
        return float("nan")
    frequency = _position_map(training, truths)
    levels = _FREQUENCIES * frequency.max()
    best = (-1.0, 0, 0)
    windows = [np.percentile(voxels, percentiles, axis=1) for percentiles in _PERCENTILES]
    for number, window in enumerate(windows):
        scored = zip(training, truths, strict=True)
        curve = np.nanmean([_dice_curve(case, truth, frequency, window, levels) for case, truth in scored], axis=0)
        best = max(best, (float(curve.max()), number, int(curve.argmax())))
    _, number, level = best
    dice = [_dice_curve(case, np.isin(case.leaves, labels), frequency, windows[number], levels)[level] for case in test]
    present = [np.isin(case.leaves, labels).any() for case in test]
    return float(np.mean(dice, where=present)) if any(present) else float("nan")


def _dice_curve(
    case: _Case,
    truth: NDArray[np.bool_],
    frequency: NDArray[np.float32],
    window: NDArray[np.float64],
    levels: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the Dice at each level of frequency, (L,); nan where neither the case nor the guess has the region."""
    low, high = window.reshape(2, -1, *[1] * truth.ndim)
    candidates = ((case.image >= low) & (case.image <= high)).all(axis=0)
    # How many levels a voxel passes: every level's counts come from one pass.
    passed = np.searchsorted(levels, _look_up(frequency, case.place[:, candidates]), side="right")
    predicted = _counts_at_or_above(passed, len(levels))
    hits = _counts_at_or_above(passed[truth[candidates]], len(levels))
    total = predicted + truth.sum()
    dice: NDArray[np.float64] = np.divide(2 * hits, total, out=np.full(len(levels), np.nan), where=total > 0)
    return dice


def _counts_at_or_above(passed: NDArray[np.intp], levels: int) -> NDArray[np.float64]:
    counts: NDArray[np.float64] = np.bincount(passed, minlength=levels + 1)[::-1].cumsum()[::-1][1:].astype(float)
    return counts


def _position_map(cases: Sequence[_Case], truths: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """Return how often the region lies at each place of the body's box, smoothed, (24, ..., 24)."""
    dimension = truths[0].ndim
    shape = (_MAP_SIZE,) * dimension
    inside, seen = np.zeros(shape, dtype=np.float32), np.full(shape, 1e-6, dtype=np.float32)
    for case, truth in zip(cases, truths, strict=True):
        cell = tuple(np.clip((case.place * _MAP_SIZE).astype(int), 0, _MAP_SIZE - 1))
        np.add.at(inside, cell, truth.astype(np.float32))
        np.add.at(seen, cell, np.float32(1))
    frequency: NDArray[np.float32] = gaussian_filter(inside, 1.0) / gaussian_filter(seen, 1.0)
    return frequency


def _look_up(frequency: NDArray[np.float32], place: NDArray[np.float32]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = map_coordinates(frequency, place * _MAP_SIZE - 0.5, order=1, mode="nearest")
    return values


def _read(folder: Path, part: str, name: str, smoothing: float, body: float | None) -> _Case:
    channels = [
        SimpleITK.ReadImage(str(path)) for path in sorted((folder / f"images{part}").glob(f"{name}_????.nii.gz"))
    ]
    leaves = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / f"labels{part}" / f"{name}.nii.gz")))
    # Every (D + 1)-th cosine is on the diagonal; arrays are indexed slice first, cosines column first.
    cosines = np.asarray(channels[0].GetDirection())[:: leaves.ndim + 1][::-1]
    axes = tuple(axis for axis, cosine in enumerate(cosines) if cosine < 0)
    values = (np.flip(SimpleITK.GetArrayFromImage(channel), axes).astype(np.float32) for channel in channels)
    smooth = np.stack([gaussian_filter(channel, smoothing) for channel in values])
    return _Case(smooth, np.flip(leaves, axes), _relative_place(smooth[0], body))


def _relative_place(image: NDArray[np.float32], threshold: float | None) -> NDArray[np.float32]:
    """Return the coordinates of each voxel in the body's bounding box, 0 to 1 inside it, (D, *shape)."""
    low, high = np.zeros(image.ndim, dtype=int), np.array(image.shape)
    if threshold is not None:
        # Opening takes the table away.
        components, _ = label(binary_opening(image > threshold, iterations=2))
        corners = np.argwhere(components == np.bincount(components[components > 0]).argmax())
        low, high = corners.min(axis=0), corners.max(axis=0) + 1
    grid = np.indices(image.shape, dtype=np.float32)
    column = (slice(None),) + (None,) * image.ndim
    place: NDArray[np.float32] = ((grid + 0.5 - low[column]) / (high - low)[column]).astype(np.float32)
    return place
