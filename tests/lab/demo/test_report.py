import math

import numpy as np
import pytest

from nnunet_mtl.evaluation.classification import QuestionScores
from nnunet_mtl.evaluation.classification import scores as classification_scores
from nnunet_mtl.evaluation.scores import Scores
from nnunet_mtl.lab.demo.answer_scores import Answers
from nnunet_mtl.lab.demo.report import dice_by_kind, headline


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


def test_the_auc_is_part_of_the_headline(scores: Scores) -> None:
    probability, positive = np.array([0.1, 0.6, 0.4, 0.9]), np.array([False, False, True, True])
    hot = np.stack([~positive, positive], 1)
    of_question = classification_scores(np.stack([1 - probability, probability], 1), hot)
    answers = Answers(
        "malignancy", ("benign", "malignant"), tuple("abcd"), probability, positive, of_question, (0.5, 1.0)
    )
    assert headline(scores, None, answers)["AUC of malignancy"] == "0.75"
    assert answers.to_mapping()["cases"] == {"benign": 2, "malignant": 2}
    unknown = QuestionScores(0, {"auc": None}, collapsed=False)
    nothing = Answers("malignancy", ("benign", "malignant"), (), probability[:0], positive[:0], unknown, None)
    assert headline(scores, None, nothing)["AUC of malignancy"] == "not available"
