"""A slice of an image with regions painted on it, as PNG bytes.

Every overlay has its own `Figure` object: nothing reads or changes pyplot's state, and no display is needed.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_mtl.evaluation.report.plot_style import DPI, png

LabelMap = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]

# The palette of Okabe and Ito without black, which colour-blind readers can tell apart and from grey. In this order
# neighbours in a data set's regions (an organ, then its tumour) also differ in lightness.
_COLOURS = ("#56B4E9", "#D55E00", "#009E73", "#F0E442", "#0072B2", "#E69F00", "#CC79A7")


def region_colour(index: int) -> tuple[float, float, float]:
    """Return the colour of a region as red, green, blue in 0..1; colours 8 to 14 are the first seven in lighter."""
    lightening = 0.55 * (index // len(_COLOURS) % 2)
    red, green, blue = (channel + (1 - channel) * lightening for channel in to_rgb(_COLOURS[index % len(_COLOURS)]))
    return red, green, blue


def read_upright(path: Path) -> tuple[npt.NDArray[Any], tuple[float, ...]]:
    """Read an image or a label map in radiological display: patient's front up, patient's right on the left.

    A colour image becomes grey, the mean of its channels, so that painted regions stand out.

    Returns:
        The values, (Z, Y, X) or (Y, X), and the spacing in mm in the same order.

    Raises:
        RuntimeError: If SimpleITK cannot read the file.
    """
    image = SimpleITK.ReadImage(str(path))
    if image.GetDimension() == 3:
        image = SimpleITK.DICOMOrient(image, "LPS")
    values = SimpleITK.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        values = values[..., :3].mean(-1)  # without transparency
    return values, tuple(image.GetSpacing())[::-1]


def fullest_slice(masks: Sequence[Mask]) -> int:
    """Return the index along the first axis of the slice that holds the largest share of the regions.

    Every region weighs the same: a slice with half of a small tumour beats a slice with a third of a large organ.

    Args:
        masks: Masks of the regions, each (Z, Y, X).
    """
    shares = [mask.sum(axis=(1, 2)) / mask.sum() for mask in masks if mask.any()]
    return int(np.argmax(np.sum(shares, axis=0))) if shares else masks[0].shape[0] // 2


def overlay_figure(
    image: npt.NDArray[Any],
    truth: LabelMap,
    prediction: LabelMap,
    regions: Mapping[str, Sequence[int]],
    *,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    slice_index: int | None = None,
) -> bytes:
    """Draw one slice three times (image, image with reference, image with prediction) and a legend of the regions.

    Args:
        image: Intensities, (Z, Y, X) or (Y, X).
        truth: Reference label map of the same shape.
        prediction: Predicted label map of the same shape.
        regions: Label values by region, in output order; a later region is painted over an earlier one.
        spacing_mm: Voxel size in mm, in the order of the axes.
        slice_index: Slice along the first axis; None for the slice that holds the largest share of the reference.

    Raises:
        ValueError: If image and maps differ in shape, or do not have two or three axes.
    """
    shapes = {"the image": image.shape, "the reference": truth.shape, "the prediction": prediction.shape}
    if len(set(shapes.values())) > 1 or image.ndim not in (2, 3):
        raise ValueError(f"{', '.join(f'{name} has {shape} voxels' for name, shape in shapes.items())}")
    volume, true_labels, predicted_labels = (
        array if array.ndim == 3 else array[None] for array in (image, truth, prediction)
    )
    index = fullest_slice(_masks(true_labels, regions)) if slice_index is None else slice_index
    plane = windowed(volume[index])
    aspect = spacing_mm[-2] / spacing_mm[-1]
    panels = {
        f"image, slice {index + 1} of {len(volume)}": [],
        "truth": _masks(true_labels[index], regions),
        "prediction": _masks(predicted_labels[index], regions),
    }
    drawn = sorted({number for masks in panels.values() for number, mask in enumerate(masks) if mask.any()})
    figure, all_axes = _panels(
        len(panels), aspect * plane.shape[0] / plane.shape[1], legend_rows=math.ceil(len(drawn) / 5)
    )
    for axes, (title, masks) in zip(all_axes, panels.items(), strict=True):
        axes.imshow(_painted(plane, masks), aspect=aspect, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    if drawn:
        names = list(regions)
        patches = [Patch(facecolor=region_colour(number), label=names[number]) for number in drawn]
        figure.legend(handles=patches, loc="lower center", ncols=min(len(patches), 5), frameon=False, fontsize=9)
    return png(figure)


def _panels(number: int, height_to_width: float, legend_rows: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row of panels, space for titles above and for the legend below (lengths in inches)."""
    width, title, legend = 3.2, 0.3, 0.12 + 0.22 * legend_rows
    height = width * min(max(height_to_width, 0.4), 1.6)
    total = title + height + legend
    figure = Figure(figsize=(number * (width + 0.1), total), dpi=DPI)
    grid = figure.add_gridspec(
        1, number, left=0.01, right=0.99, top=1 - title / total, bottom=legend / total, wspace=0.03
    )
    return figure, [figure.add_subplot(grid[0, column]) for column in range(number)]


def windowed(plane: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Map intensities between two percentiles of the slice to 0..1: a few bright voxels must not darken the rest."""
    low, high = (float(value) for value in np.percentile(plane, (1.0, 99.5)))
    return np.clip((plane.astype(np.float64) - low) / max(high - low, 1e-6), 0.0, 1.0)


def _masks(labels: LabelMap, regions: Mapping[str, Sequence[int]]) -> list[Mask]:
    return [np.isin(labels, list(leaves)) for leaves in regions.values()]


def _painted(plane: npt.NDArray[np.float64], masks: Sequence[Mask]) -> npt.NDArray[np.float64]:
    """Return the slice as (Y, X, 3) with every region tinted and its border drawn in full colour."""
    painted = np.repeat(plane[..., None], 3, axis=2)
    for number, mask in enumerate(masks):
        colour = np.array(region_colour(number))
        painted[mask] = 0.55 * plane[mask][:, None] + 0.45 * colour
        painted[_border(mask)] = colour
    return painted


def _border(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside
