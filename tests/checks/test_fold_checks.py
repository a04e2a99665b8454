import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_mtl.checks.findings import Finding
from nnunet_mtl.checks.fold_checks import check_folds
from nnunet_mtl.tasks import TaskSet

NAME = "Dataset900_Union"
LABELS = {"background": 0, "liver": [1, 1], "kidney": [2, 2]}
CASES = {
    "a": {"annotated": ["liver"], "classes": {"grade": "low"}},
    "b": {"annotated": ["liver"], "classes": {"grade": "high"}},
    "c": {"annotated": ["kidney"], "classes": {"grade": "low"}},
    "d": {"annotated": ["kidney"], "classes": {"grade": "high"}},
}


@pytest.fixture
def preprocessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    folder = tmp_path / NAME
    folder.mkdir()
    return folder


def check(cases: dict[str, Any], *, foreground: bool = True, not_in_block: str = "") -> list[Finding]:
    tasks = {name: {"regions": [name]} for name in ("liver", "kidney")}
    questions = {"grade": {"kind": "ordinal", "classes": ["low", "high"]}}
    block = {"version": 1, "tasks": tasks, "classification": questions, "cases": cases}
    taskset = TaskSet.from_dataset_json({"labels": LABELS, "regions_class_order": [1, 2], "nnunet_mtl": block})
    return list(check_folds(NAME, taskset, [*cases, *not_in_block], foreground=foreground))


def test_every_fold_of_the_splits_is_looked_at(preprocessed: Path) -> None:
    splits = [{"train": ["a", "b"], "val": ["c", "d"]}, {"train": ["a", "d"], "val": ["b", "c"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    findings = check(CASES)
    assert [finding.text.rpartition(" (")[0] for finding in findings] == [
        "fold 0: annotated in no training case: kidney",
        "fold 0: annotated in no validation case: liver",
    ]
    assert {finding.remedy for finding in findings} == {f"nnunet_mtl make-splits -d {NAME} --overwrite"}
    (preprocessed / "splits_final.json").write_text(json.dumps(splits[1:]))
    (finding,) = check(CASES)
    assert finding.level == "ok"


def test_cases_that_are_not_in_the_block_break_nothing(preprocessed: Path) -> None:
    splits = [{"train": ["a", "d", "x"], "val": ["b", "c", "y"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    assert [finding.level for finding in check(CASES, not_in_block="xy")] == ["ok"]


def test_cases_of_folds_that_are_not_there_are_a_problem(preprocessed: Path) -> None:
    splits = [{"train": ["a", "d", "x"], "val": ["b", "c"]}, {"train": ["a", "d"], "val": ["b", "c", "x"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    (finding,) = check(CASES)
    assert finding.level == "problem"
    assert "splits_final.json: names cases that are not in imagesTr: x" in finding.text
    assert finding.remedy == f"nnunet_mtl make-splits -d {NAME} --overwrite"


@pytest.mark.parametrize("content", ["", "{}", "[3]"])
def test_splits_that_cannot_be_read_are_one_problem(preprocessed: Path, content: str) -> None:
    (preprocessed / "splits_final.json").write_text(content)
    (finding,) = check(CASES)
    assert finding.level == "problem"
    assert "splits_final.json" in finding.text


def test_what_no_case_has_is_said_once(preprocessed: Path) -> None:
    cases = {name: {"annotated": ["liver"]} for name in "ab"}
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    texts = [finding.text.rpartition(" (")[0] for finding in check(cases) if finding.level == "warning"]
    assert texts == ["annotated in no case: kidney", "question grade: no case has a label"]


def test_a_data_set_without_any_foreground_needs_a_fingerprint(preprocessed: Path) -> None:
    problems = [finding for finding in check(CASES, foreground=False) if finding.level == "problem"]
    assert "index -1 is out of bounds" in problems[0].text
    assert "dataset_fingerprint.json" in problems[0].remedy
    (preprocessed / "dataset_fingerprint.json").write_text("{}")
    assert check(CASES, foreground=False) == []
