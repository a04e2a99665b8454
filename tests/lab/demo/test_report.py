import json
import math

import numpy as np
import pytest

from nnunet_mtl.evaluation.answers.point_metrics import PointMetrics, point_metrics
from nnunet_mtl.evaluation.metrics.overlap import Overlap
from nnunet_mtl.evaluation.runs.case_metrics import CaseMetrics
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics
from nnunet_mtl.lab.demo.answer_scores import Answers
from nnunet_mtl.lab.demo.report import dice_by_kind, dice_mapping, headline
from nnunet_mtl.tasks import TaskSet

TASKS = TaskSet.from_dataset_json(
    {
        "labels": {"background": 0, "liver": [1, 2], "tumour": [2], "left": [3]},
        "regions_class_order": [1, 2, 3],
        "nnunet_mtl": {
            "version": 1,
            "tasks": {
                "liver": {"regions": ["liver", "tumour"], "slots": ["organ", "tumour"]},
                "kidney": {"regions": ["left"], "slots": ["left"]},
            },
        },
    }
)


def run_of(cases: dict[str, dict[str, float]]) -> RunMetrics:
    """A run with these Dice by case and region."""
    rows = [
        CaseMetrics(case, "liver", region, {"dice": value}, Overlap(0, 0, 0))
        for case, regions in cases.items()
        for region, value in regions.items()
    ]
    return RunMetrics(tuple(rows), TASKS)


@pytest.fixture
def scores() -> RunMetrics:
    return run_of({"a": {"liver": 0.5, "tumour": 0.25, "left": 0.75}, "b": {"liver": 1.0, "tumour": math.nan}})


def test_kinds_of_structures(scores: RunMetrics) -> None:
    assert dice_by_kind(scores) == {"organs": 0.75, "tumours": 0.25}


def test_the_gap_to_stock_is_part_of_the_headline(scores: RunMetrics) -> None:
    assert headline(scores, None) == {"Dice of organs": "0.75", "Dice of tumours": "0.25"}
    stock = run_of({"a": {"liver": 0.25, "tumour": 0.0, "left": 0.0}})
    assert headline(scores, stock)["gap in mean Dice"] == f"{(0.75 + 0.25 + 0.75) / 3 - 0.25 / 3:.2f}"


def test_what_was_not_measured_is_said_so(scores: RunMetrics) -> None:
    empty = run_of({})
    assert headline(empty, None)["Dice of tumours"] == "not available"


def test_the_auc_is_part_of_the_headline(scores: RunMetrics) -> None:
    probability, positive = np.array([0.1, 0.6, 0.4, 0.9]), np.array([False, False, True, True])
    hot = np.stack([~positive, positive], 1)
    of_question = point_metrics(np.stack([1 - probability, probability], 1), hot)
    answers = Answers(
        "malignancy", ("benign", "malignant"), tuple("abcd"), probability, positive, of_question, (0.5, 1.0)
    )
    assert headline(scores, None, answers)["AUC of malignancy"] == "0.75"
    assert answers.to_mapping()["cases"] == {"benign": 2, "malignant": 2}
    unknown = PointMetrics(0, {"auc": None}, collapsed=False)
    nothing = Answers("malignancy", ("benign", "malignant"), (), probability[:0], positive[:0], unknown, None)
    assert headline(scores, None, nothing)["AUC of malignancy"] == "not available"


def test_the_mapping_is_strict_json() -> None:
    run = run_of({"a": {"liver": 1.0, "tumour": math.nan, "left": math.nan}})
    mapping = json.loads(json.dumps(dice_mapping(run), allow_nan=False))
    assert mapping["mean"] == 1.0
    assert mapping["tasks"] == {"liver": 1.0, "kidney": None}
    assert mapping["slots"] == {"organ": 1.0, "tumour": None, "left": None}
    assert mapping["regions"]["liver"] == {"dice": 1.0, "cases": 1}
    assert mapping["regions"]["left"] == {"dice": None, "cases": 0}
    assert mapping["cases"] == {"a": {"liver": 1.0, "tumour": None, "left": None}}
