import io

import matplotlib.image
import numpy as np
import pytest

from nnunet_mtl.evaluation.report.overlay import region_colour
from nnunet_mtl.lab.demo.picture import CaseAnswer, outlines_figure

REGIONS = {"liver": (1, 2), "tumour": (2,), "spleen": (3,)}


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def count(png, colour):
    return int((np.abs(pixels(png) - np.array(colour)).max(axis=-1) < 0.03).sum())


@pytest.fixture
def labels():
    labels = np.zeros((4, 30, 40), np.int64)
    labels[2, 5:25, 0:20] = 1  # reaches the edge of the image
    labels[2, 10:16, 8:14] = 2
    labels[2, 10:20, 28:36] = 3
    return labels


def draw(truth, prediction, answer=None):
    image = np.random.default_rng(0).normal(size=truth.shape)
    return outlines_figure(image, truth, prediction, REGIONS, spacing_mm=(3.0, 1.0, 1.0), answer=answer)


def test_every_region_of_the_truth_and_of_the_prediction_is_outlined_in_its_colour(labels):
    without_spleen = np.where(labels == 3, 0, labels)
    both, once, never = draw(labels, labels), draw(labels, without_spleen), draw(without_spleen, without_spleen)
    for number in range(len(REGIONS)):
        assert count(both, region_colour(number)) > 100
    spleen = region_colour(2)
    assert count(both, spleen) > count(once, spleen) > count(never, spleen) == 0


def test_a_region_is_outlined_and_its_inside_left_as_the_scan_is(labels):
    """A painted liver would have several times as many pixels of its colour as a line around the same liver."""
    whole = np.where(labels > 0, 1, 0)
    whole[2] = 1
    small = np.zeros_like(labels)
    small[2, 14:16, 19:21] = 1
    assert count(draw(whole, whole), region_colour(0)) < 25 * count(draw(small, small), region_colour(0))


def test_the_answer_has_a_panel_with_the_probability_and_the_truth(labels):
    answers = {
        (probability, positive): draw(
            labels, labels, CaseAnswer("malignancy", ("benign", "malignant"), probability, positive)
        )
        for probability in (0.2, 0.9)
        for positive in (False, True)
    }
    assert len(set(answers.values())) == 4
    orange = (0xD5 / 255, 0x5E / 255, 0)
    assert count(answers[0.9, True], orange) > count(answers[0.2, True], orange) + 1000
    assert pixels(draw(labels, labels)).shape[1] < pixels(answers[0.9, True]).shape[1]
