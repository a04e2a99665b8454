from typing import Any

import pytest
import torch

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.annotation import CaseAnnotations

CASES = {"liver_case": ["liver"], "both": ["liver", "spleen"], "part": ["tumour"], "none": []}


@pytest.fixture
def annotations() -> CaseAnnotations:
    block: dict[str, Any] = {
        "version": 1,
        "tasks": {"liver": {"regions": ["liver", "tumour"]}, "spleen": {"regions": ["spleen"]}},
        "cases": {case: {"annotated": names} for case, names in CASES.items()},
    }
    labels = {"background": 0, "liver": [1, 2], "tumour": [2], "spleen": [3]}
    dataset_json = {"labels": labels, "regions_class_order": [1, 2, 3], "nnunet_mtl": block}
    return CaseAnnotations(TaskSet.from_dataset_json(dataset_json), seed=0)


def test_regions_annotated_in_each_sample(annotations: CaseAnnotations) -> None:
    expected = [[True, True, False], [True, True, True], [False, True, False], [False, False, False]]
    assert annotations.annotated(CASES).tolist() == expected


def test_only_annotated_tasks_are_drawn_and_all_of_them(annotations: CaseAnnotations) -> None:
    target = torch.ones(4, 3, 2, 2, dtype=torch.bool)
    drawn = torch.stack([annotations.draw_tasks(list(CASES), target) for _ in range(60)])
    assert [set(column.tolist()) for column in drawn.T] == [{0}, {0, 1}, {0}, {0}]


def test_a_task_with_foreground_in_the_patch_is_preferred(annotations: CaseAnnotations) -> None:
    target = torch.zeros(1, 3, 2, 2, dtype=torch.bool)
    target[0, 2] = True
    assert {annotations.draw_tasks(["both"], target).item() for _ in range(30)} == {1}


def test_the_mask_keeps_the_drawn_task_only(annotations: CaseAnnotations) -> None:
    annotated = annotations.annotated(["both", "both"])
    restricted = annotations.restrict(annotated, torch.tensor([0, 1]))
    assert restricted.tolist() == [[True, True, False], [False, False, True]]


def test_its_text_names_no_case(annotations: CaseAnnotations) -> None:
    assert "liver_case" not in f"{annotations} {annotations!r}"
    assert "4 cases" in str(annotations)
