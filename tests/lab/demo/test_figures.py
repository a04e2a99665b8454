import io
import math

import matplotlib.image
import numpy as np
import pytest

from nnunet_mtl.lab.demo.figures import answers_figure, bars_figure, curves_figure


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def holds_colour(png, colour):
    return bool((np.abs(pixels(png) - np.array(colour)).max(axis=-1) < 0.02).any())


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_curves_with_gaps_are_drawn(epochs):
    gaps = [None, 0.2, math.nan, 0.4, 0.5][:epochs]
    losses = {"training": [1.0] * epochs, "validation": [0.5] * epochs}
    png = curves_figure(losses, {"liver": gaps, "spleen": [0.3] * epochs})
    assert (pixels(png) < 0.9).any()


def test_curves_change_the_picture():
    flat = curves_figure({"training": [1.0, 1.0, 1.0]}, {})
    falling = curves_figure({"training": [1.0, 0.5, 0.2]}, {})
    assert flat != falling


def test_bars_grow_with_their_values():
    def blue(value):
        picture = pixels(bars_figure(["liver"], {"ours": [value], "stock": [0.5]}))
        return (np.abs(picture - np.array([0, 0x72 / 255, 0xB2 / 255])).max(axis=-1) < 0.02).sum()

    assert blue(None) < blue(0.3) < blue(0.9)
    assert blue(math.nan) == blue(None)


def test_a_missing_value_is_refused_rather_than_shifted():
    with pytest.raises(ValueError, match="shorter"):
        bars_figure(["liver", "spleen"], {"ours": [0.5]})


def test_answers_are_drawn_in_the_colours_of_their_classes_with_or_without_both():
    probability, classes = np.array([0.1, 0.4, 0.8]), ("benign", "malignant")
    both = answers_figure(probability, np.array([False, False, True]), classes)
    one = answers_figure(probability, np.array([False, False, False]), classes)
    assert pixels(both).shape == pixels(one).shape
    assert not np.array_equal(pixels(both), pixels(one))
