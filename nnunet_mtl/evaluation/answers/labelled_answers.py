"""Answers with labels, read from a `classification.csv` and, if present, from the `classification.json` beside it.

The table is enough for an evaluation. The JSON file holds the answers at the thresholds that are stored with the model;
without the file every threshold is 0.5.
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
    """The entry of one question in `classification.json`: thresholds, and answers and probabilities by case."""

    thresholds: tuple[float, ...]
    answers: Mapping[str, tuple[str, ...]]
    probabilities: Mapping[str, Mapping[str, float]]


def read_labelled_answers(
    path: Path, taskset: TaskSet, cases: Iterable[str] | None = None
) -> dict[str, LabelledAnswers]:
    """Read a `classification.csv`, and the JSON file of the same name beside it if there is one, and add the labels.

    Args:
        path: The table.
        taskset: Questions of the data set and labels of its cases.
        cases: Names of the cases to use; None uses every case with a label.

    Returns:
        The answers to every question of the task set; other questions of the table are not read.

    Raises:
        AnswersError: If a file cannot be read or has another format, if a case has other classes than the question, or
            if the two files come from different predictions.
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
    return {
        name: _with_stored(beside, labelled, stored[name]) if name in stored else labelled
        for name, labelled in joined.items()
    }


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
    entries = {case: questions[question.name] for case, questions in content["cases"].items()}
    return _Stored(
        thresholds,
        {case: tuple(entry["answer"]) for case, entry in entries.items()},
        {
            case: {name: float(entry["probabilities"][name]) for name in question.classes}
            for case, entry in entries.items()
        },
    )


def _with_stored(path: Path, joined: LabelledAnswers, stored: _Stored) -> LabelledAnswers:
    classes = joined.question.classes
    problems = []
    for case, row in zip(joined.cases, joined.probabilities, strict=True):
        place = f"case {shown(case)}, task {shown(joined.question.name)}"
        answer = stored.answers.get(case)
        if answer is None:
            problems.append(f"{place}: has no answer in the file")
        elif not set(answer) <= set(classes) or (joined.question.kind != "multilabel" and len(answer) != 1):
            problems.append(f"{place}: {listed(answer) or 'nothing'} is no answer to this question")
        elif not np.allclose(row, [stored.probabilities[case][name] for name in classes], rtol=0, atol=_AGREEMENT):
            problems.append(f"{place}: the probabilities differ from those in the table")
    refuse(path, problems, _REMEDY)
    shape = joined.answers.shape
    answers = np.reshape(np.array([hot(classes, stored.answers[case]) for case in joined.cases], dtype=bool), shape)
    return replace(joined, answers=answers, thresholds=stored.thresholds, stored=True)
