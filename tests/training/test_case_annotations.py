from typing import Any

import pytest
import torch

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.case_annotations import CaseAnnotations

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


ALL_REGIONS = {"liver": 0, "tumour": 0, "spleen": 1, "kidney": 2}  # name -> task


@pytest.fixture
def labelled() -> CaseAnnotations:
    """Questions about the liver's tumour, the kidney (two), and the whole image."""
    question = {"kind": "nominal", "classes": ["no", "yes"]}
    cases: dict[str, Any] = {
        "class only": {"annotated": [], "classes": {"malignant": "yes"}},
        "two labels": {"annotated": [], "classes": {"malignant": "no", "stones": "no", "chronic": "yes"}},
        "whole image": {"annotated": [], "classes": {"contrast": "yes"}},
        "other organ": {"annotated": ["spleen"], "classes": {"malignant": "yes", "contrast": "no"}},
        "other organs": {"annotated": ["liver", "spleen"], "classes": {"stones": "no"}},
        "own organ": {"annotated": ["liver", "spleen"], "classes": {"malignant": "yes"}},
        "no label": {"annotated": ["liver", "spleen"]},
        "part": {"annotated": ["tumour", "spleen"]},
    }
    block: dict[str, Any] = {
        "version": 1,
        "tasks": {
            "liver": {"regions": ["liver", "tumour"]},
            "spleen": {"regions": ["spleen"]},
            "kidney": {"regions": ["kidney"]},
        },
        "classification": {
            "malignant": question | {"evidence": "tumour"},
            "stones": question | {"evidence": "kidney"},
            "chronic": question | {"evidence": "kidney"},
            "contrast": question,
        },
        "cases": cases,
    }
    labels = {"background": 0, "liver": [1, 2], "tumour": [2], "spleen": [3], "kidney": [4]}
    dataset_json = {"labels": labels, "regions_class_order": [1, 2, 3, 4], "nnunet_mtl": block}
    return CaseAnnotations(TaskSet.from_dataset_json(dataset_json), seed=0)


def drawn(annotations: CaseAnnotations, case: str, *foreground: str, n: int = 400) -> dict[int, int]:
    """How often each task is drawn for a patch with foreground of those regions."""
    target = torch.zeros(1, len(ALL_REGIONS), 2, 2, dtype=torch.bool)
    for region in foreground:
        target[0, list(ALL_REGIONS).index(region), 0] = True
    tasks = [int(annotations.draw_tasks([case], target)) for _ in range(n)]
    return {task: tasks.count(task) for task in sorted(set(tasks))}


def test_tasks_that_labels_are_about(labelled: CaseAnnotations) -> None:
    found = {case: labelled.label_tasks(case) for case in labelled.tasks.cases}
    assert found == {
        "class only": (0,),
        "two labels": (0, 2),
        "whole image": (),
        "other organ": (0,),
        "other organs": (2,),
        "own organ": (0,),
        "no label": (),
        "part": (),
    }


def test_a_case_with_labels_only_takes_the_tasks_they_are_about(labelled: CaseAnnotations) -> None:
    assert drawn(labelled, "class only", "spleen") == {0: 400}
    assert drawn(labelled, "whole image", "spleen") == {0: 400}
    counts = drawn(labelled, "two labels", "liver")
    assert sorted(counts) == [0, 2]
    assert 140 < counts[2] < 260  # two questions about one task do not make it likelier


def test_a_task_that_is_not_annotated_is_drawn_for_its_label_now_and_then(labelled: CaseAnnotations) -> None:
    own = {"other organ": 1, "other organs": 1}
    for case, foreground in (("other organ", ()), ("other organ", ("spleen",)), ("other organs", ("spleen",))):
        counts = drawn(labelled, case, *foreground, n=1000)
        (other,) = set(counts) - {own[case]}
        assert other == (0 if case == "other organ" else 2)
        assert 60 < counts[other] < 145


def test_the_share_of_labels_is_a_choice(labelled: CaseAnnotations) -> None:
    shares = {share: CaseAnnotations(labelled.tasks, seed=0, label_share=share) for share in (0.0, 0.5, 1.0)}
    assert drawn(shares[0.0], "other organ") == {1: 400}
    assert drawn(shares[1.0], "other organ") == {0: 400}
    assert 160 < drawn(shares[0.5], "other organ")[0] < 240
    assert drawn(shares[0.0], "class only") == {0: 400}


def test_without_visible_foreground_every_annotated_task_is_drawn(labelled: CaseAnnotations) -> None:
    counts = drawn(labelled, "other organs", n=1000)
    assert sorted(counts) == [0, 1, 2]
    assert all(380 < counts[task] < 520 for task in (0, 1))


def test_a_label_about_an_annotated_task_does_not_make_it_win(labelled: CaseAnnotations) -> None:
    assert drawn(labelled, "own organ", "spleen") == {1: 400}
    assert drawn(labelled, "own organ", "tumour") == {0: 400}


@pytest.mark.parametrize("case", ["class only", "two labels", "other organ", "other organs", "own organ", "part"])
def test_what_is_drawn_does_not_depend_on_unannotated_labels(labelled: CaseAnnotations, case: str) -> None:
    target = torch.zeros(50, len(ALL_REGIONS), 2, 2, dtype=torch.bool)
    target[::2, 1:3] = True
    unknown = ~labelled.annotated([case])[0]
    scrambled = target.clone()
    scrambled[:, unknown] = ~target[:, unknown]
    results = [
        CaseAnnotations(labelled.tasks, seed=1).draw_tasks([case] * 50, values) for values in (target, scrambled)
    ]
    assert torch.equal(*results)


def test_a_data_set_without_block_has_one_task_and_no_labels() -> None:
    annotations = CaseAnnotations(TaskSet.from_dataset_json({"labels": {"background": 0, "a": 1}}))
    assert annotations.draw_tasks(["one", "two"], torch.ones(2, 2, 4, 4, dtype=torch.bool)).tolist() == [0, 0]


def test_labels_do_not_change_what_cases_without_any_are_drawn_for(
    labelled: CaseAnnotations, annotations: CaseAnnotations
) -> None:
    target = torch.zeros(50, len(ALL_REGIONS), 2, 2, dtype=torch.bool)
    first = labelled.draw_tasks(["no label"] * 50, target)
    assert torch.equal(first, annotations.draw_tasks(["both"] * 50, target[:, :3]))
