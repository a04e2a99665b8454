"""Figures of a run as PNG bytes: training curves, bars side by side, answers.

The figures are drawn on new `Figure` objects, so no function reads or changes pyplot's state or needs a display.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from nnunet_mtl.evaluation.report.plot_style import DPI, line_colour, plain, png

Mask = npt.NDArray[np.bool_]

_DASHES = ("-", "--", ":", "-.")
_COLOURS_BEFORE_A_DASH = 7


def curves_figure(losses: Mapping[str, Sequence[float]], dice: Mapping[str, Sequence[float | None]]) -> bytes:
    """Draw losses and pseudo Dice over the epochs, side by side.

    Args:
        losses: Loss per epoch by the name of the curve (`training`, `validation`).
        dice: Pseudo Dice per epoch by task or region; None or NaN where an epoch has none.
    """
    figure = Figure(figsize=(10, 3.8), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, curves, label in ((left, losses, "loss"), (right, dice, "pseudo Dice (validation patches)")):
        for number, (name, values) in enumerate(curves.items()):
            numbers = np.array(values, dtype=float)
            dash = _DASHES[number // _COLOURS_BEFORE_A_DASH % len(_DASHES)]
            # A lone epoch is a point, which a line would not show.
            marker = "o" if len(numbers) == 1 else ""
            axes.plot(range(1, len(numbers) + 1), numbers, dash, marker=marker, color=line_colour(number), label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        if curves:
            axes.legend(fontsize=8, frameon=False)
        plain(axes)
    right.set_ylim(0, 1)
    return png(figure)


def bars_figure(groups: Sequence[str], series: Mapping[str, Sequence[float | None]], *, label: str = "Dice") -> bytes:
    """Draw horizontal bars side by side, one group per region and one bar per series, with their values.

    Args:
        groups: Names of the groups, from top to bottom.
        series: One value per group by the name of the series; None or NaN for a missing value.
        label: Name of the values' axis, which runs from 0 to 1.
    """
    thickness = 0.8 / max(len(series), 1)
    figure = Figure(figsize=(8, 0.9 + 0.26 * len(groups) * (len(series) + 0.5)), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(series.items()):
        numbers = np.array(values, dtype=float)
        heights = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * thickness
        axes.barh(heights, np.nan_to_num(numbers), thickness * 0.92, color=line_colour(number), label=name)
        for height, value in zip(heights, numbers, strict=True):
            text = "none" if math.isnan(value) else f"{value:.2f}"
            axes.text(np.nan_to_num(value) + 0.01, height, text, va="center", fontsize=8)
    axes.set_yticks(np.arange(len(groups)), groups)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xlabel(label)
    plain(axes)
    figure.legend(loc="outside upper left", ncols=len(series), frameon=False, fontsize=9)
    return png(figure)


def answers_figure(probability: npt.NDArray[np.floating[Any]], positive: Mask, classes: Sequence[str]) -> bytes:
    """Draw the probability of every case, in a row for each true class, and the ROC curve if both classes occur.

    Args:
        probability: Probability of the second class, (N,).
        positive: Whether the second class is true, (N,).
        classes: Names of the two classes.
    """
    figure = Figure(figsize=(10, 3.8), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for row, (name, is_class) in enumerate(zip(classes, (~positive, positive), strict=True)):
        values = np.sort(probability[is_class])
        # spread over the height of a row, so that equal values stay apart
        heights = row + 0.5 * ((np.arange(len(values)) * 0.618) % 1 - 0.5)
        left.plot(values, heights, "o", color=line_colour(row), alpha=0.7, label=f"{name} ({len(values)})")
    left.axvline(0.5, color="grey", linewidth=0.8, linestyle="--")
    left.set_yticks(range(len(classes)), list(classes))
    left.set(xlim=(-0.02, 1.02), ylim=(-0.5, len(classes) - 0.5), xlabel=f"probability of {classes[1]}")
    left.legend(fontsize=8, frameon=False)
    if positive.any() and not positive.all():
        false_positive, true_positive, _ = roc_curve(positive, probability)
        right.plot(false_positive, true_positive, color=line_colour(0))
    right.plot((0, 1), (0, 1), color="grey", linewidth=0.8, linestyle="--")
    right.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    for axes in (left, right):
        plain(axes)
    return png(figure)
