from typing import Any

import numpy as np
import pytest

from nnunet_mtl.datasets.classification_table import LabelledAnswers
from nnunet_mtl.evaluation.answers.answer_comparison import (
    AnswerComparisonError,
    AnsweredCases,
    compare_answers,
    require_same_answers,
)
from nnunet_mtl.evaluation.answers.discrimination import auc_difference_interval
from nnunet_mtl.tasks import ClassificationTask

POSITIVE = np.array([True, True, True, False, False, False])
GOOD, POOR = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1]), np.array([0.9, 0.2, 0.7, 0.8, 0.5, 0.1])


def answers(probabilities: Any, targets: Any, kind: str = "nominal", cases: Any = range(6)) -> LabelledAnswers:
    question = ClassificationTask("q", kind, tuple("abc"[: probabilities.shape[1]]))
    decided = np.asarray(probabilities) >= 0.5
    return LabelledAnswers(
        question, tuple(f"case{n}" for n in cases), probabilities, targets, decided, (), stored=False, unanswered=()
    )


def two(chance: Any) -> Any:
    return np.stack([1 - chance, chance], 1)


def of_two(chance: Any, positive: Any = POSITIVE, **more: Any) -> dict[str, LabelledAnswers]:
    return {"q": answers(two(chance), two(positive) == 1, **more)}


def test_every_pair_of_runs_by_hand() -> None:
    found = compare_answers({"good": of_two(GOOD), "poor": of_two(POOR), "silent": {}})
    (one,) = found
    assert (one["question"], one["class"], one["first"], one["second"]) == ("q", "b", "good", "poor")
    # of the nine pairs of a positive and a negative case the poor run has 0.9 above 3, 0.2 above 1, 0.7 above 2
    assert one["auc"] == pytest.approx([1.0, 6 / 9])
    assert one["n_cases"] == 6
    assert one["difference_95"] == auc_difference_interval(GOOD, POOR, POSITIVE)


def test_cases_are_matched_by_name_and_not_by_place() -> None:
    order = [5, 0, 3, 1, 4, 2]
    moved = of_two(POOR[order], POSITIVE[order], cases=order)
    assert compare_answers({"a": of_two(GOOD), "b": moved}) == compare_answers({"a": of_two(GOOD), "b": of_two(POOR)})


def test_each_label_is_a_comparison_of_its_own_and_one_without_a_no_is_not_available() -> None:
    targets = np.stack([POSITIVE, np.ones(6, dtype=bool)], 1)
    runs = {
        name: {"q": answers(np.stack([c, c], 1), targets, "multilabel")} for name, c in {"a": GOOD, "b": POOR}.items()
    }
    first, second = compare_answers(runs)
    assert (first["class"], first["auc"][0]) == ("a", 1.0)
    assert (second["class"], second["auc"], second["difference_95"]) == ("b", [None, None], None)


def test_answers_about_other_cases_are_refused() -> None:
    with pytest.raises(AnswerComparisonError, match="q: a and b answer it about different cases"):
        compare_answers({"a": of_two(GOOD), "b": of_two(POOR, cases=range(1, 7))})


def test_figures_of_other_cases_are_refused_and_named() -> None:
    every, fewer = AnsweredCases(6, frozenset()), AnsweredCases(4, frozenset({"005", "003"}))
    require_same_answers({"a": {"q": every}, "b": {"q": every}, "c": {"other": fewer}})
    with pytest.raises(AnswerComparisonError, match="q: a answers 6 cases, b 4 cases without 003, 005; predict"):
        require_same_answers({"a": {"q": every}, "b": {"q": fewer}})


def test_a_run_that_answers_nowhere_is_compared_with_none() -> None:
    silent = of_two(GOOD[:0], POSITIVE[:0], cases=())
    assert compare_answers({"a": of_two(GOOD), "b": silent}) == []
    require_same_answers({"a": {"q": AnsweredCases(6, frozenset())}, "b": {"q": AnsweredCases(0, frozenset("xy"))}})
