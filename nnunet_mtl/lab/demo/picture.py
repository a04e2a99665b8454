"""The picture of a run: a slice of a test image, the outlines of every task, and the answer about the whole image.

The picture is drawn on a new `Figure`, so no function reads or changes pyplot's state or needs a display.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_mtl.evaluation.report.overlay import LabelMap, fullest_slice, region_colour, windowed
from nnunet_mtl.evaluation.report.plot_style import DPI, line_colour, plain, png


@dataclass(frozen=True)
class CaseAnswer:
    """The answer to a question with two classes for one case, and the truth.

    Attributes:
        question: Name of the question.
        classes: Names of the two classes.
        probability: Probability of the second class, 0..1.
        positive: Whether the second class is true.
    """

    question: str
    classes: tuple[str, str]
    probability: float
    positive: bool


def outlines_figure(
    image: npt.NDArray[Any],
    truth: LabelMap,
    prediction: LabelMap,
    regions: Mapping[str, Sequence[int]],
    *,
    spacing_mm: Sequence[float],
    answer: CaseAnswer | None = None,
) -> bytes:
    """Draw the slice that holds most of the truth: the image, the outlines of truth and of prediction, the answer.

    Args:
        image: Intensities, (Z, Y, X).
        truth: Reference label map, (Z, Y, X).
        prediction: Predicted label map, (Z, Y, X).
        regions: Label values of every region; the position of a region in this mapping decides its `region_colour`.
        spacing_mm: Voxel size in mm, (Z, Y, X).
        answer: The image-level answer; with None its panel is left out.

    Returns:
        A PNG file.
    """
    index = fullest_slice([np.isin(truth, values) for values in regions.values()])
    plane, aspect = windowed(image[index]), spacing_mm[1] / spacing_mm[2]
    height = 3.0 * aspect * plane.shape[0] / plane.shape[1]
    widths = [3.0] * 3 + ([] if answer is None else [1.9])
    figure = Figure(figsize=(sum(widths) + 0.3, height + 1.1), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(widths), width_ratios=widths)
    slices = {"scan": np.zeros_like(truth[index]), "truth": truth[index], "prediction": prediction[index]}
    drawn: set[int] = set()
    for axes, (title, labels) in zip(panels, slices.items(), strict=False):
        axes.imshow(plane, cmap="gray", vmin=0, vmax=1, aspect=aspect)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
        drawn |= _outline(axes, labels, regions)
    if answer is not None:
        _draw_answer(panels[-1], answer)
    names = list(regions)
    lines = [Line2D([], [], color=region_colour(number), linewidth=2, label=names[number]) for number in sorted(drawn)]
    figure.legend(handles=lines, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    return png(figure)


def _outline(axes: Axes, labels: LabelMap, regions: Mapping[str, Sequence[int]]) -> set[int]:
    """Draw a line around every region, and return the places of the regions that are in the slice."""
    rows, columns = (np.arange(-1, size + 1) for size in labels.shape)
    drawn = set()
    for number, values in enumerate(regions.values()):
        mask = np.isin(labels, values)
        if mask.any():
            # padded: the line around a region at the edge of the image is closed outside the image
            padded = np.pad(mask, 1).astype(float)
            axes.contour(columns, rows, padded, levels=[0.5], colors=[region_colour(number)], linewidths=1.6)
            drawn.add(number)
    axes.set(xlim=(-0.5, labels.shape[1] - 0.5), ylim=(labels.shape[0] - 0.5, -0.5))
    return drawn


def _draw_answer(axes: Axes, answer: CaseAnswer) -> None:
    """Draw the probability of both classes as bars, and name the true one."""
    probabilities = (1 - answer.probability, answer.probability)
    axes.bar(range(2), probabilities, 0.6, color=[line_colour(0), line_colour(1)])
    for place, probability in enumerate(probabilities):
        axes.text(place, probability + 0.02, f"{probability:.2f}", ha="center", fontsize=9)
    axes.set_xticks(range(2), list(answer.classes), fontsize=9)
    axes.set(ylim=(0, 1.12), ylabel="probability")
    axes.set_title(f"{answer.question}\ntruth: {answer.classes[answer.positive]}", fontsize=10)
    plain(axes)
