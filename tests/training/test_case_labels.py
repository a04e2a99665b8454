from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.losses.classification import CaseTargets
from nnunet_mtl.tasks import TaskSet, TaskSetError
from nnunet_mtl.training.case_labels import CaseLabels

CLASSES: dict[str, dict[str, Any]] = {
    "p1": {"type": "benign", "findings": ["cyst", "stone"]},
    "p2": {"type": "malignant", "findings": []},
    "p3": {"findings": ["stone"], "stage": "II"},
    "p4": {},
    "p5": {"type": "benign", "stage": "I"},
    "p6": {"type": "benign"},
}
LABELS = {"background": 0, "organ": [1, 2], "tumour": [2]}


@pytest.fixture
def labels() -> CaseLabels:
    block: dict[str, Any] = {
        "version": 1,
        "tasks": {"organ": {"regions": ["organ", "tumour"]}},
        "classification": {
            "type": {"kind": "nominal", "classes": ["benign", "malignant", "other"]},
            "stage": {"kind": "ordinal", "classes": ["0", "I", "II"]},
            "findings": {"kind": "multilabel", "classes": ["stone", "cyst"]},
        },
        "cases": {case: {"annotated": [], "classes": classes} for case, classes in CLASSES.items()},
    }
    return CaseLabels(TaskSet.from_dataset_json({"labels": LABELS, "regions_class_order": [1, 2], "nnunet_mtl": block}))


def listed(targets: CaseTargets) -> list[list[float] | None]:
    """Targets as lists, None where unknown."""
    return [row if known else None for row, known in zip(*(part.tolist() for part in targets), strict=True)]


def test_what_is_known_of_each_sample(labels: CaseLabels) -> None:
    assert [question.name for question in labels.questions] == ["type", "stage", "findings"]
    targets = labels.targets(np.array(["p2", "p1", "p3", "p4", "p1"]))
    assert list(targets) == ["type", "stage", "findings"]
    assert listed(targets["type"]) == [[0, 1, 0], [1, 0, 0], None, None, [1, 0, 0]]
    assert listed(targets["stage"]) == [None, None, [0, 0, 1], None, None]
    # none of the findings is an answer; no answer is none
    assert listed(targets["findings"]) == [[0, 0], [1, 1], [1, 0], None, [1, 1]]
    assert targets["type"].target.dtype == torch.float32
    assert targets["type"].known.dtype == torch.bool


def test_no_samples_have_no_answers(labels: CaseLabels) -> None:
    assert labels.targets([])["stage"].target.shape == (0, 3)


def test_a_case_nobody_listed_is_refused(labels: CaseLabels) -> None:
    with pytest.raises(TaskSetError, match=r"1 case.* missing: p7;"):
        labels.targets(np.array(["p1", "p7"]))


def test_a_data_set_without_questions_asks_none() -> None:
    labels = CaseLabels(TaskSet.from_dataset_json({"labels": {"background": 0, "a": 1}}))
    assert labels.targets(["whatever"]) == {}
    assert labels.class_weights(["whatever"], "inverse") == {}


def test_without_balance_every_class_weighs_one(labels: CaseLabels) -> None:
    weights = labels.class_weights(list(CLASSES), "none")
    assert {name: values.tolist() for name, values in weights.items()} == {
        "type": [1, 1, 1],
        "stage": [1, 1, 1],
        "findings": [1, 1],
    }


def test_rare_classes_weigh_more_with_mean_one_over_those_that_occur(labels: CaseLabels) -> None:
    weights = labels.class_weights(list(CLASSES), "inverse")
    # 3 benign and 1 malignant: 1/3 and 1, divided by their mean; nobody is "other"
    torch.testing.assert_close(weights["type"], torch.tensor([0.5, 1.5, 1.0]))
    torch.testing.assert_close(weights["stage"], torch.ones(3))


def test_labels_weigh_by_negatives_over_positives(labels: CaseLabels) -> None:
    # stone in 2 of 3 cases with an answer, cyst in 1
    torch.testing.assert_close(labels.class_weights(list(CLASSES), "inverse")["findings"], torch.tensor([1 / 2, 2 / 1]))


def test_only_the_cases_of_the_fold_count(labels: CaseLabels) -> None:
    weights = labels.class_weights(["p1", "p2", "p4"], "inverse")
    torch.testing.assert_close(weights["type"], torch.ones(3))
    torch.testing.assert_close(weights["findings"], torch.ones(2))
    unlabelled = labels.class_weights(["p4"], "inverse")
    assert all(values.tolist() == [1.0] * len(values) for values in unlabelled.values())


def test_the_weight_of_a_label_is_bounded(labels: CaseLabels) -> None:
    often = labels.class_weights(["p1"] * 30 + ["p2"], "inverse")["findings"]
    seldom = labels.class_weights(["p1"] + ["p2"] * 30, "inverse")["findings"]
    torch.testing.assert_close(torch.stack([often, seldom]), torch.tensor([[0.1, 0.1], [10.0, 10.0]]))


def test_its_text_names_no_case(labels: CaseLabels) -> None:
    assert str(labels) == "CaseLabels(6 cases, 3 questions)"
