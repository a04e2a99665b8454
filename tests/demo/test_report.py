import math

import pytest

from nnunet_mtl.demo.report import dice_by_kind, headline
from nnunet_mtl.evaluation.scores import Scores


@pytest.fixture
def scores() -> Scores:
    return Scores(
        cases={"a": {"liver": 0.5, "tumour": 0.25, "left": 0.75}, "b": {"liver": 1.0, "tumour": math.nan}},
        tasks={"liver": ("liver", "tumour"), "kidney": ("left",)},
        slots={"organ": ("liver",), "tumour": ("tumour",), "left": ("left",)},
    )


def test_kinds_of_structures(scores: Scores) -> None:
    assert dice_by_kind(scores) == {"organs": 0.75, "tumours": 0.25}


def test_the_gap_to_stock_is_part_of_the_headline(scores: Scores) -> None:
    assert headline(scores, None) == {"Dice of organs": "0.75", "Dice of tumours": "0.25"}
    stock = Scores({"a": {"liver": 0.25, "tumour": 0.0, "left": 0.0}}, scores.tasks, scores.slots)
    assert headline(scores, stock)["gap in mean Dice"] == f"{(0.75 + 0.25 + 0.75) / 3 - 0.25 / 3:.2f}"


def test_what_was_not_measured_is_said_so(scores: Scores) -> None:
    empty = Scores({}, scores.tasks, scores.slots)
    assert headline(empty, None)["Dice of tumours"] == "not available"
