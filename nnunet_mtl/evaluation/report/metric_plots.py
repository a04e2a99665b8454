"""Plots of an evaluation as PNG bytes: Dice by region, Bland-Altman plots of volumes, reliability and ROC curves.

Every plot has its own `Figure` object: nothing reads or changes pyplot's state, and no display is needed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from nnunet_mtl.evaluation.report.plot_style import DPI, line_colour, plain, png

Array = npt.NDArray[np.floating[Any]]
# Half the width of the interval that holds 95 % of normally distributed differences.
_LIMITS = 1.96
_COLUMNS = 3


class Curve(NamedTuple):
    """A curve of one question, class or label.

    Attributes:
        name: Text of the legend.
        x: Coordinates, (N,).
        y: Coordinates, (N,).
        counts: Number of cases behind every point, (N,); None where points do not stand for cases.
    """

    name: str
    x: Array
    y: Array
    counts: npt.NDArray[np.integer[Any]] | None = None


def boxes_figure(values: Mapping[str, Mapping[str, Sequence[float]]], *, label: str = "Dice") -> bytes:
    """Draw a box for every region with every case as a point; regions of one task stand side by side in one colour.

    Boxes show median and quartiles, whiskers the extremes within 1.5 times the interquartile range. NaN is left out.

    Args:
        values: One value for every case, by task and region.
        label: Label of the value axis, which runs from 0 to 1.
    """
    rows = [(task, region, numbers) for task, regions in values.items() for region, numbers in regions.items()]
    figure = Figure(figsize=(max(4.0, 1.2 + 0.8 * len(rows)), 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    colours = {task: line_colour(number) for number, task in enumerate(values)}
    for place, (task, _, numbers) in enumerate(rows, start=1):
        present = np.array([value for value in numbers if not math.isnan(value)])
        box = axes.boxplot(present, positions=[place], widths=0.6, showfliers=False, patch_artist=True)
        for part in box["boxes"]:
            part.set(facecolor=colours[task], alpha=0.35)
        for part in box["medians"]:
            part.set(color=colours[task], linewidth=2)
        # Points are spread so that equal values stay apart; not at random, so that the figure is reproducible.
        across = place + 0.4 * ((np.arange(len(present)) * 0.618) % 1 - 0.5)
        axes.plot(across, present, ".", color=colours[task], alpha=0.6, markersize=4)
    axes.set_xticks(range(1, len(rows) + 1), [region for _, region, _ in rows], rotation=30, ha="right", fontsize=8)
    axes.set(ylim=(-0.02, 1.02), ylabel=label, xlim=(0.4, len(rows) + 0.6))
    plain(axes)
    return png(figure)


def bland_altman_figure(volumes: Mapping[str, tuple[Sequence[float], Sequence[float]]], unit: str = "ml") -> bytes:
    """Draw for every region the difference of predicted and reference volume over the mean of both volumes.

    The lines are the mean difference and its 95 % limits of agreement, mean +- 1.96 standard deviations (Bland and
    Altman, Lancet 1986).

    Args:
        volumes: Predicted and reference volumes of the same cases, by region.
        unit: Unit of the volumes.
    """
    columns = min(_COLUMNS, max(len(volumes), 1))
    rows = max(1, math.ceil(len(volumes) / columns))
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows), dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for number, (region, (predicted, reference)) in enumerate(volumes.items()):
        axes = panels[number]
        first, second = np.asarray(predicted, dtype=float), np.asarray(reference, dtype=float)
        difference = first - second
        axes.plot((first + second) / 2, difference, "o", color=line_colour(number), alpha=0.7, markersize=4)
        centre, spread = float(difference.mean()), float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
        for height, dash in ((centre, "-"), (centre - _LIMITS * spread, "--"), (centre + _LIMITS * spread, "--")):
            axes.axhline(height, color="grey", linewidth=0.9, linestyle=dash)
        axes.set_title(region, fontsize=9)
        axes.set_xlabel(f"mean volume ({unit})", fontsize=8)
        axes.set_ylabel(f"predicted - reference ({unit})", fontsize=8)
        plain(axes)
    for axes in panels[len(volumes) :]:
        axes.set_axis_off()
    return png(figure)


def reliability_figure(curves: Sequence[Curve]) -> bytes:
    """Draw reliability diagrams: observed frequency over predicted probability; larger points stand for more cases."""
    figure, axes = _square()
    for number, curve in enumerate(curves):
        counts = np.ones(len(curve.x)) if curve.counts is None else np.asarray(curve.counts, dtype=float)
        axes.plot(curve.x, curve.y, "-", color=line_colour(number), label=curve.name)
        axes.scatter(curve.x, curve.y, 12 + 120 * counts / max(counts.sum(), 1), color=line_colour(number), alpha=0.6)
    return _finished(figure, axes, "predicted probability", "observed frequency")


def roc_figure(curves: Sequence[Curve]) -> bytes:
    """Draw ROC curves: sensitivity over 1 - specificity."""
    figure, axes = _square()
    for number, curve in enumerate(curves):
        axes.plot(curve.x, curve.y, color=line_colour(number), label=curve.name)
    return _finished(figure, axes, "1 - specificity", "sensitivity")


def _square() -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.6, 4.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="grey", linewidth=0.8, linestyle="--")
    return figure, axes


def _finished(figure: Figure, axes: Any, x: str, y: str) -> bytes:
    axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    plain(axes)
    return png(figure)
