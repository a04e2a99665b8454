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
