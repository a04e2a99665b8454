from typing import Any

import numpy as np
import pytest

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.sampling import sampling_probabilities


@pytest.fixture
def tasks() -> TaskSet:
    annotated: dict[str, list[str]] = {f"a{i}": ["a"] for i in range(9)}
    annotated |= {"b0": ["b"], "both": ["a", "b"], "neither": []}
    block: dict[str, Any] = {
        "version": 1,
        "tasks": {"a": {"regions": ["a"]}, "b": {"regions": ["b"]}},
        "cases": {case: {"annotated": names} for case, names in annotated.items()},
    }
    labels = {"background": 0, "a": [1, 1], "b": [2]}
    return TaskSet.from_dataset_json({"labels": labels, "regions_class_order": [1, 2], "nnunet_mtl": block})


def probability(tasks: TaskSet, rule: str) -> dict[str, float]:
    cases = list(tasks.cases)
    probabilities = sampling_probabilities(tasks, cases, rule)
    assert probabilities is not None
    assert np.isclose(probabilities.sum(), 1)
    return dict(zip(cases, probabilities, strict=True))


def test_uniform_over_cases_is_left_to_nnunet(tasks: TaskSet) -> None:
    assert sampling_probabilities(tasks, list(tasks.cases), "cases") is None


def test_uniform_over_tasks(tasks: TaskSet) -> None:
    drawn = probability(tasks, "tasks")
    # a has 10 cases, b has 2, a group of its own has the one without annotation: each weighs one
    np.testing.assert_allclose(drawn["a0"], 1 / 10 / 3)
    np.testing.assert_allclose(drawn["b0"], 1 / 2 / 3)
    np.testing.assert_allclose(drawn["both"], (1 / 10 + 1 / 2) / 3)
    np.testing.assert_allclose(drawn["neither"], 1 / 3)


def test_inverse_square_root(tasks: TaskSet) -> None:
    drawn = probability(tasks, "sqrt")
    np.testing.assert_allclose(drawn["b0"] / drawn["a0"], np.sqrt(10 / 2))
    np.testing.assert_allclose(drawn["neither"] / drawn["a0"], np.sqrt(10))


def test_only_the_cases_of_the_fold_count(tasks: TaskSet) -> None:
    probabilities = sampling_probabilities(tasks, ["a0", "a1", "b0"], "tasks")
    np.testing.assert_allclose(probabilities, [0.25, 0.25, 0.5])


QUESTIONS = {
    "type": {"kind": "nominal", "classes": ["x", "y", "z"]},
    "stage": {"kind": "ordinal", "classes": ["1", "2"]},
    "findings": {"kind": "multilabel", "classes": ["f", "g"]},
}


def labelled(classes: dict[str, dict[str, Any]], *questions: str) -> TaskSet:
    """Cases with those labels; the first is annotated for b, the others for a."""
    annotated = {case: ["b" if index == 0 else "a"] for index, case in enumerate(classes)}
    block: dict[str, Any] = {
        "version": 1,
        "tasks": {"a": {"regions": ["a"]}, "b": {"regions": ["b"]}},
        "classification": {name: QUESTIONS[name] for name in questions},
        "cases": {case: {"annotated": annotated[case], "classes": answers} for case, answers in classes.items()},
    }
    labels = {"background": 0, "a": [1, 1], "b": [2]}
    return TaskSet.from_dataset_json({"labels": labels, "regions_class_order": [1, 2], "nnunet_mtl": block})


def balanced(tasks: TaskSet, rule: str = "cases") -> list[float]:
    probabilities = sampling_probabilities(tasks, list(tasks.cases), rule, "balanced")
    assert probabilities is not None
    assert np.isclose(probabilities.sum(), 1)
    return list(probabilities)


def answers(question: str, *given: Any) -> dict[str, dict[str, Any]]:
    return {f"c{index}": {} if answer is None else {question: answer} for index, answer in enumerate(given)}


def test_classes_are_drawn_equally_often_and_the_unlabelled_as_before() -> None:
    tasks = labelled(answers("type", "x", "x", "x", "y", None, None), "type")
    # four of six cases have a label: each of the two classes that occur gets a third
    np.testing.assert_allclose(balanced(tasks), [1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 6, 1 / 6])


def test_classes_are_balanced_on_top_of_tasks() -> None:
    tasks = labelled(answers("stage", "1", "1", "2", None), "stage")
    # by task: b 1/2 for its one case, a 1/6 for each of three; labelled: 1/2 + 1/6 against 1/6
    np.testing.assert_allclose(balanced(tasks, "tasks"), np.array([3 / 4, 1 / 4, 1, 2 / 5]) * 5 / 12)
    tasks = labelled(answers("stage", None, "1", "1", "2"), "stage")
    np.testing.assert_allclose(balanced(tasks, "tasks"), [1 / 2, 1 / 8, 1 / 8, 1 / 4])


def test_without_balancing_labels_do_not_count() -> None:
    tasks = labelled(answers("stage", "1", "1", "2", None), "stage")
    assert sampling_probabilities(tasks, list(tasks.cases), "cases", "none") is None
    expected = [1 / 2, 1 / 6, 1 / 6, 1 / 6]
    np.testing.assert_allclose(sampling_probabilities(tasks, list(tasks.cases), "tasks", "none"), expected)


def test_yes_and_no_of_a_label_are_drawn_equally_often() -> None:
    tasks = labelled(answers("findings", ["f", "g"], ["g"], ["g"], ["g"], []), "findings")
    # f: 1 of 5, factors 5/2 and 5/8; g: 4 of 5, factors 5/8 and 5/2; each case takes the mean of its two
    expected = np.array([(20 + 5) / 16, 10 / 16, 10 / 16, 10 / 16, (5 + 20) / 16])
    np.testing.assert_allclose(balanced(tasks), expected / expected.sum())


def test_a_case_takes_the_mean_of_what_its_labels_ask_for() -> None:
    classes: dict[str, dict[str, Any]] = {
        "c0": {"type": "x", "stage": "1"},
        "c1": {"type": "x", "stage": "2"},
        "c2": {"type": "x"},
        "c3": {"type": "y", "stage": "2"},
        "c4": {},
        "c5": {"stage": "2"},
    }
    tasks = labelled(classes, "type", "stage", "findings")
    # type: 3 x and 1 y, factors 2/3 and 2; stage: 1 and 3, factors 2 and 2/3; nobody has findings
    expected = np.array([(2 / 3 + 2) / 2, 2 / 3, 2 / 3, (2 + 2 / 3) / 2, 1, 2 / 3])
    np.testing.assert_allclose(balanced(tasks), expected / expected.sum())


def test_only_the_labels_of_the_fold_count() -> None:
    tasks = labelled(answers("type", "x", "x", "x", "y"), "type")
    np.testing.assert_allclose(sampling_probabilities(tasks, ["c0", "c3"], "cases", "balanced"), [0.5, 0.5])


def test_without_labels_balancing_is_uniform(tasks: TaskSet) -> None:
    np.testing.assert_allclose(balanced(tasks), 1 / len(tasks.cases))
