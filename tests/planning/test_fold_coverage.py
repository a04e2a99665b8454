from typing import Any

import pytest

from nnunet_mtl.planning.fold_coverage import annotated_cases, dataset_faults, fold_faults, taught_questions
from nnunet_mtl.tasks import TaskSet

LABELS = {"background": 0, "liver": [1, 2], "tumour": [2], "kidney": [3, 3]}
QUESTIONS = {
    "malignancy": {"kind": "nominal", "classes": ["benign", "malignant"], "evidence": "tumour"},
    "findings": {"kind": "multilabel", "classes": ["cyst", "fat"]},
}
SPLITS = "nnunet_mtl make-splits -d Dataset900_Union --overwrite"


def taskset(cases: dict[str, Any], questions: dict[str, Any] = QUESTIONS) -> TaskSet:
    return TaskSet.from_dataset_json(
        {
            "labels": LABELS,
            "regions_class_order": [1, 2, 3],
            "nnunet_mtl": {
                "version": 1,
                "tasks": {"liver": {"regions": ["liver", "tumour"]}, "kidney": {"regions": ["kidney"]}},
                "classification": questions,
                "cases": cases,
            },
        }
    )


def case(annotated: str = "", malignancy: str = "", findings: Any = None, patient: str = "") -> dict[str, Any]:
    value: dict[str, Any] = {"annotated": annotated.split()}
    classes = {"malignancy": malignancy} if malignancy else {}
    classes |= {"findings": findings} if findings is not None else {}
    if classes:
        value["classes"] = classes
    return value | ({"patient": patient} if patient else {})


EVERYTHING = {
    "a": case("liver kidney", "benign", ["cyst"]),
    "b": case("liver kidney", "malignant", []),
    "c": case("liver", "malignant", ["fat", "cyst"]),
    "d": case("kidney", "benign", ["cyst", "fat"]),
}


def faults(cases: dict[str, Any], train: str, validation: str) -> list[tuple[str, str]]:
    found = fold_faults(taskset(cases), train.split(), validation.split(), "Dataset900_Union")
    return [(fault.text.rpartition(" (")[0], fault.remedy) for fault in found]


def test_a_fold_with_everything_in_both_parts_has_no_fault() -> None:
    assert faults(EVERYTHING, "a c", "b d") == [] == list(dataset_faults(taskset(EVERYTHING), list(EVERYTHING)))


def test_regions_that_a_part_does_not_have_are_named_with_the_remedy() -> None:
    assert faults(EVERYTHING | {"e": case("kidney")}, "d e", "a b c") == [
        ("annotated in no training case: liver, tumour", SPLITS),
        ("question malignancy: all 1 labels of training cases are benign", SPLITS),
        ("question findings: all 1 labels of training cases are cyst, fat", SPLITS),
    ]
    texts = [text for text, _ in faults(EVERYTHING, "a b d", "c")]
    assert texts[0] == "annotated in no validation case: kidney"


def test_other_folds_are_no_remedy_where_one_patient_has_everything() -> None:
    cases = EVERYTHING | {"a": case("liver", "benign", patient="P"), "b": case("liver", "malignant", patient="Q")}
    cases |= {"d": case("kidney", "benign", [], patient="P"), "e": case("kidney", patient="P")}
    found = dict(faults(cases, "b c", "a d e"))
    assert found["annotated in no training case: kidney"] == "annotate it in two patients or more"
    assert found["question malignancy: all 2 labels of training cases are malignant"].startswith("label two patients")


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("a b", ("malignancy", "findings")),
        ("a d", ("findings",)),
        ("c d", ("malignancy",)),  # the same findings in another order
        ("e", ()),
        ("", ()),
    ],
)
def test_a_question_is_taught_by_labels_that_differ(train: str, expected: tuple[str, ...]) -> None:
    assert taught_questions(taskset(EVERYTHING | {"e": case("liver")}), train.split()) == expected


def test_what_no_case_has_is_a_fault_of_the_data_set_and_not_of_its_folds() -> None:
    cases = {"a": case("liver", "benign"), "b": case("liver", "benign"), "c": case("tumour")}
    found = [fault.text for fault in dataset_faults(taskset(cases), list(cases))]
    assert [text.rpartition(" (")[0] for text in found] == [
        "annotated in no case: kidney",
        "question malignancy: all 2 labels of cases are benign",
        "question findings: no case has a label",
    ]
    assert faults(cases, "a", "b c") == []


def test_a_data_set_without_a_block_is_annotated_everywhere() -> None:
    tasks = TaskSet.from_dataset_json({"labels": {"background": 0, "liver": 1}})
    assert annotated_cases(tasks, ["a", "b"])["liver"] == {"a", "b"}
    assert list(fold_faults(tasks, ["a"], ["b"], "Dataset001_Liver")) == []
