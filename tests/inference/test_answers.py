import csv
import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_mtl.inference.answers import (
    CaseAnswer,
    forget_answers,
    read_case_answers,
    write_case_answers,
    write_tables,
)
from nnunet_mtl.tasks import ClassificationTask

QUESTIONS = (
    ClassificationTask("malignancy", "nominal", ("benign", "malignant"), "tumour"),
    ClassificationTask("findings, other", "multilabel", ("cyst",)),
)
ANSWERS = {
    "malignancy": CaseAnswer({"benign": 0.25, "malignant": 0.75}, ("malignant",), 12.5),
    "findings, other": CaseAnswer({"cyst": 1e-9}, ()),
}


def done(folder: Path, case: str) -> None:
    write_case_answers(folder, case, ANSWERS)
    (folder / f"{case}.nii.gz").write_bytes(b"map")


def rows(folder: Path) -> list[list[str]]:
    with (folder / "classification.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_one_row_per_class(tmp_path: Path) -> None:
    done(tmp_path, "b")
    done(tmp_path, "a")
    assert write_tables(tmp_path, QUESTIONS, {"folds": [0]}, ".nii.gz") == 2
    assert rows(tmp_path) == [
        ["case", "task", "class", "probability", "evidence_volume_mm3"],
        ["a", "malignancy", "benign", "0.25", "12.5"],
        ["a", "malignancy", "malignant", "0.75", "12.5"],
        ["a", "findings, other", "cyst", "1e-09", ""],
        ["b", "malignancy", "benign", "0.25", "12.5"],
        ["b", "malignancy", "malignant", "0.75", "12.5"],
        ["b", "findings, other", "cyst", "1e-09", ""],
    ]
    details = json.loads((tmp_path / "classification.json").read_text())
    assert details["folds"] == [0]
    assert details["cases"]["a"]["malignancy"] == {
        "probabilities": {"benign": 0.25, "malignant": 0.75},
        "answer": ["malignant"],
        "evidence_volume_mm3": 12.5,
    }


def test_a_case_without_its_map_is_not_done(tmp_path: Path) -> None:
    done(tmp_path, "a")
    write_case_answers(tmp_path, "b", ANSWERS)
    assert write_tables(tmp_path, QUESTIONS, {}, ".nii.gz") == 1
    assert {row[0] for row in rows(tmp_path)[1:]} == {"a"}


def test_no_case_leaves_the_header(tmp_path: Path) -> None:
    assert write_tables(tmp_path, QUESTIONS, {}, ".nii.gz") == 0
    assert len(rows(tmp_path)) == 1


def test_stored_answers_come_back(tmp_path: Path) -> None:
    done(tmp_path, "a")
    assert read_case_answers(tmp_path, "a", QUESTIONS) == ANSWERS
    assert read_case_answers(tmp_path, "a", QUESTIONS[:1]) == {"malignancy": ANSWERS["malignancy"]}


@pytest.mark.parametrize(
    "question",
    [
        ClassificationTask("another", "nominal", ("benign", "malignant")),
        ClassificationTask("malignancy", "nominal", ("benign", "borderline", "malignant")),
        ClassificationTask("malignancy", "multilabel", ("benign",)),
    ],
)
def test_answers_to_another_question_do_not_count(tmp_path: Path, question: Any) -> None:
    done(tmp_path, "a")
    assert read_case_answers(tmp_path, "a", (question,)) is None


def test_answers_that_are_not_there_or_no_json_do_not_count(tmp_path: Path) -> None:
    assert read_case_answers(tmp_path, "a", QUESTIONS) is None
    done(tmp_path, "a")
    for content in ("{", "[]", '{"malignancy": 3}'):
        (tmp_path / ".classification" / "a.json").write_text(content)
        assert read_case_answers(tmp_path, "a", QUESTIONS) is None


def test_what_is_forgotten_is_gone(tmp_path: Path) -> None:
    done(tmp_path, "a")
    write_tables(tmp_path, QUESTIONS, {}, ".nii.gz")
    forget_answers(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.nii.gz"]
    forget_answers(tmp_path)


def test_answers_that_are_not_available_are_read_again(tmp_path: Path) -> None:
    answers = {question.name: CaseAnswer.not_available(question) for question in QUESTIONS}
    write_case_answers(tmp_path, "a", answers)
    assert read_case_answers(tmp_path, "a", QUESTIONS) == answers
