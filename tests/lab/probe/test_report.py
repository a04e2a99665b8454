import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_mtl.evaluation.answers.discrimination import auc_interval
from nnunet_mtl.lab.probe.report import Answers, describe, headline, write_report
from nnunet_mtl.tasks import ClassificationTask

TWO = ClassificationTask("malignancy", "nominal", ("benign", "malignant"), "tumour")
THREE = ClassificationTask("stage", "ordinal", ("I", "II", "III"))
LABELS = ClassificationTask("signs", "multilabel", ("fat", "blood"))


def answers(question: ClassificationTask, n_cases: int = 20, seen: Any = (), found: Any = None) -> Answers:
    rng = np.random.default_rng(0)
    n_classes = len(question.classes)
    targets = np.eye(n_classes)[np.arange(n_cases) % n_classes]
    if question.kind == "multilabel":
        targets = (rng.random((n_cases, n_classes)) < 0.5).astype(float)
    probabilities = rng.random((n_cases, n_classes)) + 0.3 * targets
    if question.kind != "multilabel":
        probabilities /= probabilities.sum(1, keepdims=True)
    else:
        probabilities /= 2
    return Answers(
        question,
        tuple(f"case_{index}" for index in range(n_cases)),
        probabilities,
        targets,
        np.isin(np.arange(n_cases), list(seen)),
        np.ones(n_cases, dtype=bool) if found is None else np.asarray(found),
    )


def test_two_classes_have_the_area_and_interval_of_the_second() -> None:
    of_question = answers(TWO)
    content = of_question.content
    assert content["cases"] == {"benign": 10, "malignant": 10}
    second = content["auc_of_class"]["malignant"]
    assert list(content["auc_of_class"]) == ["malignant"]
    assert second["auc"] == content["auc"]
    assert second["interval"] == auc_interval(of_question.probabilities[:, 1], of_question.targets[:, 1] > 0)
    assert second["interval"][0] < content["auc"] <= second["interval"][1]
    assert content["unseen_in_training"] is None
    (line,) = describe(of_question)
    assert line.startswith(f"malignancy: AUC {content['auc']:.2f} (95 % interval ")
    assert line.endswith("; 20 case(s): 10 benign, 10 malignant")
    assert f"balanced accuracy {content['balanced_accuracy']:.2f}" in line


@pytest.mark.parametrize("question", [THREE, LABELS])
def test_other_questions_have_one_of_each_class(question: ClassificationTask) -> None:
    content = answers(question).content
    areas = [values["auc"] for values in content["auc_of_class"].values()]
    assert list(content["auc_of_class"]) == list(question.classes)
    assert content["auc"] == pytest.approx(np.mean(areas))
    (line,) = describe(answers(question))
    assert "mean AUC" in line
    assert all(name in line for name in question.classes)


def test_what_was_seen_in_training_is_told_and_the_rest_scored_alone() -> None:
    of_question = answers(TWO, seen=range(12))
    _, caution, rest = describe(of_question)
    assert "12 of 20 cases" in caution
    assert "the others alone" in rest
    assert "8 case(s): 4 benign, 4 malignant" in rest
    unseen = of_question.content["unseen_in_training"]
    assert unseen["n_cases"] == 8
    assert unseen["auc"] != of_question.content["auc"]
    assert "seen in training" in headline([of_question])
    assert "seen in training" not in headline([answers(TWO)])
    assert len(describe(answers(TWO, seen=range(20)))) == 2


def test_a_subset_without_a_class_has_no_score_and_says_so() -> None:
    of_question = answers(TWO, seen=range(1, 20))
    assert of_question.content["unseen_in_training"]["auc"] is None
    assert "AUC not available" in describe(of_question)[-1]


def test_cases_in_which_the_network_finds_nothing_are_told() -> None:
    lines = describe(answers(TWO, found=[False] * 3 + [True] * 17))
    assert "in 3 of 20 cases the network finds no tumour" in lines[1]


def test_the_headline_has_every_question() -> None:
    text = headline([answers(TWO), answers(THREE)])
    assert text.startswith("malignancy AUC 0.")
    assert ", stage mean AUC 0." in text


def test_files_hold_the_scores_and_every_probability(tmp_path: Path) -> None:
    both = [answers(TWO, seen=[0]), answers(LABELS)]
    folder = tmp_path / "new" / "folder"
    write_report(folder, {"model": "somewhere"}, both)
    content = json.loads((folder / "probe.json").read_text())
    assert content["model"] == "somewhere"
    assert list(content["questions"]) == ["malignancy", "signs"]
    assert content["questions"]["malignancy"]["auc"] == both[0].content["auc"]
    assert content["questions"]["malignancy"]["kind"] == "nominal"
    with (folder / "probe.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (20 * 2)
    assert list(rows[0]) == ["case", "question", "class", "probability", "seen_in_training"]
    first, second = rows[:2]
    assert (first["case"], first["question"], first["class"]) == ("case_0", "malignancy", "benign")
    assert (first["seen_in_training"], rows[2]["seen_in_training"]) == ("true", "false")
    assert float(second["probability"]) == pytest.approx(both[0].probabilities[0, 1])
    assert sorted(path.name for path in folder.iterdir()) == ["probe.csv", "probe.json"]
    write_report(folder, {}, both[:1])
    assert list(json.loads((folder / "probe.json").read_text())["questions"]) == ["malignancy"]
