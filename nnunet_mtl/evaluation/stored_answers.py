"""What was answered at the thresholds stored with a model: `classification.json` beside the `classification.csv`.

The table suffices for an evaluation; without the JSON file a label is answered from 0.5 on.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_mtl.common.messages import listed, shown, spelt
from nnunet_mtl.datasets.classification_table import (
    AnswersError,
    LabelledAnswers,
    hot,
    join_labels,
    n_thresholds,
    read_answers,
    refuse,
)
from nnunet_mtl.tasks import ClassificationTask, TaskSet

_AGREEMENT = 1e-6  # the table has nine digits
_REMEDY = "predict again, or remove the file to evaluate at 0.5"


@dataclass(frozen=True)
class _Stored:
    """What `classification.json` says of one question: thresholds, and answers and probabilities by case."""

    thresholds: tuple[float, ...]
    answers: Mapping[str, tuple[str, ...]]
    probabilities: Mapping[str, Mapping[str, float]]


def read_labelled_answers(
    path: Path, taskset: TaskSet, cases: Iterable[str] | None = None
) -> dict[str, LabelledAnswers]:
    """Read a `classification.csv`, and the JSON file of the same name beside it if there is one, with the labels.

    Args:
        path: The table.
        taskset: Names the questions and holds the labels.
        cases: Only these count; None is every case with a label.

    Returns:
        The answers to every question of the task set; what the table holds besides is not looked at.

    Raises:
        AnswersError: If either file cannot be read or is not as it must be, if the classes of a case are not those of
            the question, or if the two files are not of one prediction.
    """
    answers = read_answers(path)
    chosen = None if cases is None else tuple(cases)
    joined = {
        question.name: join_labels(path, answers, question, taskset, chosen) for question in taskset.classification
    }
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return joined
    stored = _read_stored(beside, [question for question in taskset.classification if question.name in answers])
    return {name: _with_stored(beside, one, stored[name]) if name in stored else one for name, one in joined.items()}


def _read_stored(path: Path, questions: Iterable[ClassificationTask]) -> dict[str, _Stored]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {question.name: _stored(question, content) for question in questions}
    except (OSError, ValueError, RecursionError) as error:
        raise AnswersError(f"{path}: cannot be read ({' '.join(str(error).split())}); {_REMEDY}") from None
    except (KeyError, TypeError, AttributeError):
        raise AnswersError(f"{path}: is not what nnunet_mtl predict writes for these questions; {_REMEDY}") from None


def _stored(question: ClassificationTask, content: Any) -> _Stored:
    thresholds = tuple(float(value) for value in content["tasks"][question.name]["thresholds"])
    if len(thresholds) != n_thresholds(question) or not all(0 <= value <= 1 for value in thresholds):
        raise ValueError(f"{spelt(question.name)}: needs {n_thresholds(question)} thresholds from 0 to 1")
    of_cases = {case: of_case[question.name] for case, of_case in content["cases"].items()}
    return _Stored(
        thresholds,
        {case: tuple(value["answer"]) for case, value in of_cases.items()},
        {
            case: {name: float(value["probabilities"][name]) for name in question.classes}
            for case, value in of_cases.items()
        },
    )


def _with_stored(path: Path, joined: LabelledAnswers, stored: _Stored) -> LabelledAnswers:
    classes = joined.question.classes
    problems = []
    for case, row in zip(joined.cases, joined.probabilities, strict=True):
        place = f"case {shown(case)}, task {shown(joined.question.name)}"
        answer = stored.answers.get(case)
        if answer is None:
            problems.append(f"{place}: is not there")
        elif not set(answer) <= set(classes) or (joined.question.kind != "multilabel" and len(answer) != 1):
            problems.append(f"{place}: {listed(answer) or 'nothing'} is no answer")
        elif not np.allclose(row, [stored.probabilities[case][name] for name in classes], rtol=0, atol=_AGREEMENT):
            problems.append(f"{place}: other probabilities than in the table")
    refuse(path, problems, _REMEDY)
    shape = joined.answers.shape
    answers = np.reshape(np.array([hot(classes, stored.answers[case]) for case in joined.cases], dtype=bool), shape)
    return replace(joined, answers=answers, thresholds=stored.thresholds, stored=True)
