import io
import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from nnunet_mtl.evaluation.report.metric_plots import (
    Curve,
    bland_altman_figure,
    boxes_figure,
    reliability_figure,
    roc_figure,
)
from nnunet_mtl.evaluation.report.plot_style import line_colour

UNIT = np.linspace(0, 1, 5)


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def amount(png, colour):
    return int((np.abs(pixels(png) - np.array(to_rgb(colour))).max(axis=-1) < 0.02).sum())


def test_boxes_have_the_colour_of_their_task_and_leave_out_missing_values():
    values = {"liver": {"liver": [0.8, 0.9, math.nan], "tumour": [math.nan]}, "vessel": {"vessel": [0.1, 0.3]}}
    png = boxes_figure(values)
    assert amount(png, line_colour(0)) > 0
    assert amount(png, line_colour(1)) > 0
    without = {"liver": {"liver": [0.8, 0.9], "tumour": [math.nan]}, "vessel": {"vessel": [0.1, 0.3]}}
    assert np.array_equal(pixels(png), pixels(boxes_figure(without)))
    other = {**without, "vessel": {"vessel": [0.1, 0.9]}}
    assert not np.array_equal(pixels(png), pixels(boxes_figure(other)))


@pytest.mark.parametrize("number", [1, 4])
def test_a_panel_for_each_region_shows_the_differences(number):
    volumes = {f"region {index}": ([10.0, 20.0, 35.0], [11.0, 20.0, 30.0]) for index in range(number)}
    png = bland_altman_figure(volumes)
    assert pixels(png).shape[0] > (400 if number > 3 else 200)
    equal = {name: (reference, reference) for name, (_, reference) in volumes.items()}
    assert not np.array_equal(pixels(png), pixels(bland_altman_figure(equal)))


def test_a_single_case_and_no_region_at_all_can_be_drawn():
    assert bland_altman_figure({"liver": ([3.0], [4.0])})
    assert bland_altman_figure({})


@pytest.mark.parametrize("figure", [reliability_figure, roc_figure])
def test_curves_are_drawn_where_they_lie(figure):
    high = figure([Curve("a", UNIT, np.sqrt(UNIT), np.array([1, 2, 3, 4, 5]))])
    low = figure([Curve("a", UNIT, UNIT**2)])
    blue = [(np.abs(pixels(png) - np.array(to_rgb(line_colour(0)))).max(-1) < 0.02).nonzero()[0] for png in (high, low)]
    assert blue[0].mean() < blue[1].mean()  # rows are counted from the top
    assert figure([])
