"""Radiomic-like numbers of a lesion under a mask: intensities, volume, shape, texture at several scales, place.

Nothing outside the mask has any influence: smoothing is normalised by the smoothed mask. The texture measures are
differences of Gaussians in mm, as in a band-pass of wavelength, and two of the co-occurrence matrix of Haralick et al.,
"Textural features for image classification" (1973), with the grey levels spread over the lesion's own range.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

_PERCENTILES = (10, 25, 50, 75, 90)
_GREY_LEVELS = 16

Mask = NDArray[np.bool_]


def lesion_features(
    image: NDArray[np.number],
    mask: Mask,
    spacing_mm: Sequence[float],
    scales_mm: Sequence[float] = (3.0, 6.0, 12.0),
) -> dict[str, float]:
    """Return what intensities and shape of the voxels under a mask are like.

    Args:
        image: Intensities, (Y, X) or (Z, Y, X).
        mask: The lesion, same shape; its parts count as one.
        spacing_mm: Distance of voxels along each axis, in the order of the axes of the arrays.
        scales_mm: Standard deviations of the Gaussians, ascending. The band of s and 2 s answers most to structures of
            a wavelength of about 6.5 s.

    Returns:
        By name, in a fixed order; an empty mask gives 0 for the volume and NaN for all else.
        In the image's unit: `mean`, `deviation`, percentiles `p10` ... `p90`. Without unit: `skewness`, and `kurtosis`,
        3 for a Gaussian; both 0 where all intensities are equal.
        `volume_mm3` (mm2 for a slice). `compactness`: surface of a ball of this volume over the mask's surface of voxel
        faces: 2/3 for a large ball, less for ragged masks (in a slice: of a disc, and outlines, pi/4).
        In the image's unit: `band_0`, deviation of the image less its smoothing by the first scale; `band_1` ..., of
        one smoothing less the next. Per mm: `gradient`, mean slope between neighbours along all axes, whatever its
        sign, of the image smoothed by the first scale.
        Without unit, 0 to 1: co-occurrence `contrast` and `homogeneity` of neighbours along all axes.

    Raises:
        ValueError: If shapes or numbers of axes differ, or the scales are not ascending and positive.
    """
    _check(image, mask, spacing_mm)
    if min(scales_mm, default=0) <= 0 or list(scales_mm) != sorted(set(scales_mm)):
        raise ValueError(f"scales_mm={tuple(scales_mm)} must be positive and ascending")
    if not mask.any():
        names = lesion_features(np.zeros_like(image, dtype=np.float32), np.ones_like(mask), spacing_mm, scales_mm)
        return dict.fromkeys(names, float("nan")) | {"volume_mm3": 0.0}
    box = _bounding_box(mask)
    values, inside = image[box].astype(np.float64), mask[box]
    return {
        **_first_order(values[inside]),
        "volume_mm3": float(inside.sum() * np.prod(spacing_mm)),
        "compactness": _compactness(inside, spacing_mm),
        **_bands(values, inside, spacing_mm, scales_mm),
        **_co_occurrence(values, inside),
    }


def position_features(mask: Mask, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Return how large a lesion is and where it lies, nothing of what it looks like.

    Args:
        mask: The lesion, (Y, X) or (Z, Y, X).
        spacing_mm: Distance of voxels along each axis, in the order of the axes of the mask.

    Returns:
        `volume_mm3` (mm2 for a slice), and `centre_0` ... along each axis: the centre of mass relative to the image, 0
        at its first edge and 1 at its last. An empty mask has volume 0 and NaN for a centre.

    Raises:
        ValueError: If the number of axes differs from that of the spacing.
    """
    _check(mask, mask, spacing_mm)
    voxels = np.argwhere(mask)
    centre = (voxels.mean(axis=0) + 0.5) / mask.shape if len(voxels) else np.full(mask.ndim, np.nan)
    place = {f"centre_{axis}": float(value) for axis, value in enumerate(centre)}
    return {"volume_mm3": float(len(voxels) * np.prod(spacing_mm)), **place}


def _check(image: NDArray[np.generic], mask: Mask, spacing_mm: Sequence[float]) -> None:
    if image.shape != mask.shape or mask.ndim != len(spacing_mm):
        raise ValueError(f"image {image.shape}, mask {mask.shape} and spacing {tuple(spacing_mm)} differ in their axes")


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    voxels = np.argwhere(mask)
    return tuple(slice(low, high + 1) for low, high in zip(voxels.min(axis=0), voxels.max(axis=0), strict=True))


def _first_order(values: NDArray[np.float64]) -> dict[str, float]:
    deviation = float(values.std())
    score = (values - values.mean()) / deviation if deviation else np.zeros_like(values)
    percentiles = np.percentile(values, _PERCENTILES)
    return {
        "mean": float(values.mean()),
        "deviation": deviation,
        "skewness": float((score**3).mean()),
        "kurtosis": float((score**4).mean()),
        **{f"p{number}": float(value) for number, value in zip(_PERCENTILES, percentiles, strict=True)},
    }


def _compactness(inside: Mask, spacing_mm: Sequence[float]) -> float:
    size = float(np.prod(spacing_mm))
    volume = inside.sum() * size
    padded = np.pad(inside, 1).astype(np.int8)
    surface = sum(np.abs(np.diff(padded, axis=axis)).sum() * size / step for axis, step in enumerate(spacing_mm))
    if inside.ndim == 2:
        return float(2 * np.sqrt(np.pi * volume) / surface)
    return float(np.cbrt(36 * np.pi * volume**2) / surface)


def _bands(
    values: NDArray[np.float64], inside: Mask, spacing_mm: Sequence[float], scales_mm: Sequence[float]
) -> dict[str, float]:
    levels = [values, *(_smoothed(values, inside, np.divide(scale, spacing_mm)) for scale in scales_mm)]
    bands = {f"band_{i}": float((fine - coarse)[inside].std()) for i, (fine, coarse) in enumerate(pairwise(levels))}
    steps = zip(_pairs(levels[1], inside), spacing_mm, strict=True)
    slopes = np.concatenate([np.abs(second - first) / step for (first, second), step in steps])
    return bands | {"gradient": float(slopes.mean()) if slopes.size else 0.0}


def _smoothed(values: NDArray[np.float64], inside: Mask, sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the values around each voxel weighted by a Gaussian, of voxels inside alone; 0 outside."""
    weight = gaussian_filter(inside.astype(np.float64), sigma, mode="constant")
    total = gaussian_filter(np.where(inside, values, 0), sigma, mode="constant")
    smoothed: NDArray[np.float64] = np.divide(total, weight, out=np.zeros_like(total), where=inside)
    return smoothed


def _pairs(values: NDArray[np.float64], inside: Mask) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield for each axis the values of neighbours along it of which both are inside, (N,) each."""
    for axis in range(values.ndim):
        first, second = (np.take(values, range(values.shape[axis])[part], axis) for part in (slice(-1), slice(1, None)))
        here, there = (np.take(inside, range(values.shape[axis])[part], axis) for part in (slice(-1), slice(1, None)))
        yield first[here & there], second[here & there]


def _co_occurrence(values: NDArray[np.float64], inside: Mask) -> dict[str, float]:
    low, high = np.percentile(values[inside], (1, 99))
    grey = np.clip((values - low) / (high - low) if high > low else np.zeros_like(values), 0, 1)
    levels = np.rint(grey * (_GREY_LEVELS - 1))
    pairs = list(_pairs(levels, inside))
    steps = np.abs(np.concatenate([second for _, second in pairs]) - np.concatenate([first for first, _ in pairs]))
    if not steps.size:
        return {"contrast": 0.0, "homogeneity": 1.0}
    return {
        "contrast": float((steps**2).mean() / (_GREY_LEVELS - 1) ** 2),
        "homogeneity": float((1 / (1 + steps)).mean()),
    }
