import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_mtl.datasets.classification_table import AnswersError
from nnunet_mtl.evaluation.answers.labelled_answers import read_labelled_answers
from nnunet_mtl.evaluation.answers.question_evaluation import evaluate_table
from nnunet_mtl.inference.answers import CSV_NAME, JSON_NAME, CaseAnswer, write_case_answers, write_tables
from nnunet_mtl.tasks import TaskSet

QUESTIONS = {
    "malignancy": {"kind": "nominal", "classes": ["benign", "malignant"]},
    "stage": {"kind": "ordinal", "classes": ["low", "middle", "high"]},
    "findings": {"kind": "multilabel", "classes": ["cyst", "fat"]},
}
LABELS: dict[str, dict[str, Any]] = {
    "a": {"malignancy": "malignant", "stage": "high", "findings": ["cyst"]},
    "b": {"malignancy": "benign", "stage": "low", "findings": []},
    "c": {"malignancy": "benign"},
}
# 1/3 has more digits than the table
ANSWERS = {
    "a": {
        "malignancy": CaseAnswer({"benign": 2 / 3, "malignant": 1 / 3}, ("malignant",), 12.0),
        "stage": CaseAnswer({"low": 0.2, "middle": 0.5, "high": 0.3}, ("middle",)),
        "findings": CaseAnswer({"cyst": 0.3, "fat": 0.4}, ("cyst",)),
    },
    "b": {
        "malignancy": CaseAnswer({"benign": 0.9, "malignant": 0.1}, ("benign",), 0.0),
        "stage": CaseAnswer({"low": 0.6, "middle": 0.3, "high": 0.1}, ("low",)),
        "findings": CaseAnswer({"cyst": 0.1, "fat": 0.8}, ()),
    },
}
THRESHOLDS = {"malignancy": [0.3], "stage": [], "findings": [0.2, 0.9]}


@pytest.fixture
def taskset() -> TaskSet:
    return TaskSet.from_dataset_json(
        {
            "labels": {"background": 0, "liver": [1, 2], "tumour": [2]},
            "regions_class_order": [1, 2],
            "nnunet_mtl": {
                "version": 1,
                "tasks": {"liver": {"regions": ["liver", "tumour"]}},
                "classification": QUESTIONS,
                "cases": {name: {"annotated": [], "classes": classes} for name, classes in LABELS.items()},
            },
        }
    )


@pytest.fixture
def predicted(tmp_path: Path, taskset: TaskSet) -> Path:
    """A folder as `nnunet_mtl predict` leaves it."""
    for case, answers in ANSWERS.items():
        write_case_answers(tmp_path, case, answers)
        (tmp_path / f"{case}.nii.gz").touch()
    about = {"tasks": {name: {**QUESTIONS[name], "thresholds": THRESHOLDS[name]} for name in QUESTIONS}}
    write_tables(tmp_path, taskset.classification, about, ".nii.gz")
    return tmp_path


def edit(folder: Path, change: Any) -> None:
    content = json.loads((folder / JSON_NAME).read_text())
    change(content)
    (folder / JSON_NAME).write_text(json.dumps(content))


def test_stored_answers_are_joined_with_table_and_labels(predicted: Path, taskset: TaskSet) -> None:
    found = read_labelled_answers(predicted / CSV_NAME, taskset)
    assert list(found) == list(QUESTIONS)
    one = found["malignancy"]
    assert one.cases == ("a", "b")
    assert one.unanswered == ("c",)
    np.testing.assert_allclose(one.probabilities, [[2 / 3, 1 / 3], [0.9, 0.1]], atol=1e-8)
    assert one.targets.tolist() == [[False, True], [True, False]]
    assert one.answers.tolist() == [[False, True], [True, False]]  # a third is enough here
    assert (one.thresholds, one.stored) == ((0.3,), True)
    assert found["stage"].answers.tolist() == [[False, True, False], [True, False, False]]
    assert found["stage"].thresholds == ()
    assert found["findings"].answers.tolist() == [[True, False], [False, False]]
    assert found["findings"].targets.tolist() == [[True, False], [False, False]]
    assert found["findings"].unanswered == ()


def test_the_table_suffices(predicted: Path, taskset: TaskSet) -> None:
    (predicted / JSON_NAME).unlink()
    found = read_labelled_answers(predicted / CSV_NAME, taskset)
    assert found["malignancy"].answers.tolist() == [[True, False], [True, False]]
    assert found["findings"].answers.tolist() == [[False, False], [False, True]]
    assert found["stage"].answers.tolist() == [[False, True, False], [True, False, False]]
    assert [one.thresholds for one in found.values()] == [(0.5,), (), (0.5, 0.5)]
    assert not any(one.stored for one in found.values())


def test_the_threshold_itself_is_a_yes(tmp_path: Path, taskset: TaskSet) -> None:
    table = "case,task,class,probability\na,malignancy,benign,0.5\na,malignancy,malignant,0.5\n"
    (tmp_path / "mine.csv").write_text(table)
    found = read_labelled_answers(tmp_path / "mine.csv", taskset)
    assert found["malignancy"].answers.tolist() == [[False, True]]
    assert found["stage"].probabilities.shape == found["stage"].answers.shape == (0, 3)
    assert found["findings"].unanswered == ("a", "b")


def test_only_chosen_cases_count(predicted: Path, taskset: TaskSet) -> None:
    found = read_labelled_answers(predicted / CSV_NAME, taskset, (case for case in ("b", "nobody")))
    assert [one.cases for one in found.values()] == [("b",)] * 3
    assert found["malignancy"].unanswered == ()


def test_a_question_the_model_was_not_asked_is_not_answered(predicted: Path, taskset: TaskSet) -> None:
    rows = [row for row in (predicted / CSV_NAME).read_text().splitlines() if ",stage," not in row]
    (predicted / CSV_NAME).write_text("\n".join(rows))
    edit(predicted, lambda content: content["tasks"].pop("stage"))
    found = read_labelled_answers(predicted / CSV_NAME, taskset)
    assert (found["stage"].cases, found["stage"].stored) == ((), False)
    assert found["malignancy"].stored


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda content: content["cases"].pop("a"), "case 'a', task 'malignancy': has no answer in the file"),
        (
            lambda content: content["cases"].clear(),
            "case 'a', .*case 'b', task 'malignancy': has no answer in the file",
        ),
        (lambda content: content.pop("tasks"), "is not what nnunet_mtl predict writes"),
        (lambda content: content["tasks"].pop("stage"), "is not what nnunet_mtl predict writes"),
        (lambda content: content.update(cases=[]), "is not what nnunet_mtl predict writes"),
        (lambda content: content["tasks"]["stage"].update(thresholds=[0.5]), "stage: needs 0 thresholds"),
        (lambda content: content["tasks"]["malignancy"].update(thresholds=[2]), "malignancy: needs 1 thresholds"),
        (lambda content: content["tasks"]["findings"].update(thresholds=[0.1]), "findings: needs 2 thresholds"),
        (lambda content: content["cases"]["a"]["stage"].update(answer=["fat"]), "'stage': fat is no answer"),
        (lambda content: content["cases"]["a"]["stage"].update(answer=[]), "'stage': nothing is no answer"),
        (lambda content: content["cases"]["b"]["stage"].update(answer=["low", "high"]), "low, high is no answer"),
        (
            lambda content: content["cases"]["b"]["findings"]["probabilities"].update(fat=0.79999),
            "case 'b', task 'findings': the probabilities differ from those in the table",
        ),
        (
            lambda content: content["cases"]["b"]["findings"]["probabilities"].update(fat=float("nan")),
            "case 'b', task 'findings': the probabilities differ from those in the table",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_table_is_refused(
    predicted: Path, taskset: TaskSet, change: Any, pattern: str
) -> None:
    edit(predicted, change)
    with pytest.raises(AnswersError, match=pattern) as caught:
        read_labelled_answers(predicted / CSV_NAME, taskset)
    assert str(caught.value).startswith(str(predicted / JSON_NAME))
    assert "predict again, or remove the file" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_is_refused(predicted: Path, taskset: TaskSet, content: bytes) -> None:
    (predicted / JSON_NAME).write_bytes(content)
    with pytest.raises(AnswersError, match=r"cannot be read \(.*remove the file"):
        read_labelled_answers(predicted / CSV_NAME, taskset)


def test_answers_that_are_not_available_are_no_answers(tmp_path: Path, taskset: TaskSet) -> None:
    questions = {question.name: question for question in taskset.classification}
    for case, answers in ANSWERS.items():
        write_case_answers(tmp_path, case, answers | {"stage": CaseAnswer.not_available(questions["stage"])})
        (tmp_path / f"{case}.nii.gz").touch()
    about = {"tasks": {name: {**QUESTIONS[name], "thresholds": THRESHOLDS[name]} for name in QUESTIONS}}
    write_tables(tmp_path, taskset.classification, about, ".nii.gz")
    assert "a,stage,low,not available,\n" in (tmp_path / CSV_NAME).read_text()
    found = read_labelled_answers(tmp_path / CSV_NAME, taskset)
    assert (found["stage"].cases, found["stage"].unanswered) == ((), ("a", "b"))
    assert found["malignancy"].cases == ("a", "b")
    evaluated = evaluate_table(tmp_path / CSV_NAME, taskset, n_resamples=10)["stage"]
    assert all(value is None for value in evaluated.metrics.values())
