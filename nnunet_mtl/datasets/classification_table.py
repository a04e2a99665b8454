"""The probabilities of a `classification.csv`, as `nnunet_mtl predict` writes it, joined with a data set's labels."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed, shown, spelt
from nnunet_mtl.datasets.csv_tables import read_rows, unmatched
from nnunet_mtl.tasks import ClassificationTask, TaskSet

COLUMNS = ("case", "task", "class", "probability", "evidence_volume_mm3")
_NUMBERS = COLUMNS[3:]
NOT_AVAILABLE = "not available"  # in place of a probability, if no network was trained on the question
_SUM_TOLERANCE = 0.02  # probabilities written by hand have two digits
_MOST_PROBLEMS = 12

# Probabilities by question, then case, then class.
Probabilities = Mapping[str, Mapping[str, Mapping[str, float]]]


class AnswersError(UserError):
    """A table of image-level answers cannot be read, or does not fit the questions of the data set."""


@dataclass(frozen=True)
class LabelledAnswers:
    """The answers to one question in the N cases that have an answer and a label.

    Attributes:
        question: The question, with C classes.
        cases: Names of the N cases.
        probabilities: Probability of every class, (N, C).
        targets: True classes, one-hot or (multilabel) multi-hot, (N, C) bool.
        answers: Answered classes, one-hot or (multilabel) multi-hot, (N, C) bool.
        thresholds: Probability from which on the second of two classes, or a label, is answered; empty for more than
            two classes, where the likeliest class is the answer.
        stored: Whether thresholds and answers were stored with the prediction; otherwise thresholds are 0.5.
        unanswered: Names of cases with a label but without an answer.
        unknown: Names of answered cases that do not count; their answers are left out.
    """

    question: ClassificationTask
    cases: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    targets: npt.NDArray[np.bool_]
    answers: npt.NDArray[np.bool_]
    thresholds: tuple[float, ...]
    stored: bool
    unanswered: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    @property
    def n_labelled(self) -> int:
        """Number of cases with a label, answered or not."""
        return len(self.cases) + len(self.unanswered)

    def notes(self, path: Path) -> list[str]:
        """Return one line of text for every group of cases that is left out.

        Args:
            path: File of the answers, for the text.
        """
        start = f"{path}: question {spelt(self.question.name)}"
        if not self.n_labelled:
            return [f"{start}: no case has a label, so nothing is scored; list classes in the case table"]
        return unmatched(start, (*self.cases, *self.unknown), (*self.cases, *self.unanswered))


def read_answers(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Read the probabilities of a `classification.csv` by question, case and class; "not available" is left out.

    Raises:
        AnswersError: If the file cannot be read, or a line has no valid probability; every such line is named.
    """
    answers: dict[str, dict[str, dict[str, float]]] = {}
    problems = []
    for line, row in answer_rows(path):
        if row["probability"] == NOT_AVAILABLE:
            continue
        case_answers = answers.setdefault(row["task"], {}).setdefault(row["case"], {})
        problem = _problem(row["probability"])
        if row["class"] in case_answers:
            problem = "case, task and class a second time"
        if problem:
            problems.append(f"line {line}: {problem}")
        else:
            case_answers[row["class"]] = float(row["probability"])
    refuse(path, problems, "correct or remove these lines")
    return answers


def answer_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells of every line of a `classification.csv`; decimal commas become points.

    Raises:
        AnswersError: If the file cannot be read, or lacks a column.
    """
    yield from read_rows(path, COLUMNS[:4], AnswersError, _NUMBERS)


def _problem(probability: str) -> str:
    try:
        value = float(probability)
    except ValueError:
        value = math.nan
    return "" if 0 <= value <= 1 else f"probability {shown(probability)} must be a number from 0 to 1"


def join_labels(
    path: Path,
    answers: Probabilities,
    question: ClassificationTask,
    taskset: TaskSet,
    cases: Iterable[str] | None = None,
) -> LabelledAnswers:
    """Join the probabilities of one question with the labels of the cases; thresholds are 0.5.

    Args:
        path: File of the answers, for messages.
        answers: Probabilities by question, then case, then class.
        question: A question of the task set.
        taskset: Labels of the cases.
        cases: Names of the cases to use; None uses every case with a label.

    Raises:
        AnswersError: If a case lacks a class, has an unknown class, or has probabilities that do not add up to 1, which
            multilabel questions need not do; every such case is named.
    """
    chosen = None if cases is None else set(cases)
    labels = {
        name: case.classes[question.name]
        for name, case in taskset.cases.items()
        if question.name in case.classes and (chosen is None or name in chosen)
    }
    answered = answers.get(question.name, {})
    known = tuple(case for case in labels if case in answered)
    refuse(path, list(_misfits(question, {case: answered[case] for case in known})), "predict again with this data set")
    shape = (len(known), len(question.classes))
    rows = [[answered[case][name] for name in question.classes] for case in known]
    probabilities = np.reshape(np.array(rows, dtype=float), shape)
    targets = np.reshape(np.array([hot(question.classes, labels[case]) for case in known], dtype=bool), shape)
    thresholds = (0.5,) * n_thresholds(question)
    chosen_classes = _answered(question, probabilities, thresholds)
    unanswered = tuple(case for case in labels if case not in answered)
    counting = taskset.cases if chosen is None else chosen
    unknown = tuple(case for case in answered if case not in counting)
    return LabelledAnswers(
        question, known, probabilities, targets, chosen_classes, thresholds, False, unanswered, unknown
    )


def n_thresholds(question: ClassificationTask) -> int:
    """Return the number of thresholds of a question: 1 for two classes, 1 for every label, 0 for more classes."""
    if question.kind == "multilabel":
        return len(question.classes)
    return 1 if len(question.classes) == 2 else 0


def _answered(
    question: ClassificationTask, probabilities: npt.NDArray[np.float64], thresholds: Sequence[float]
) -> npt.NDArray[np.bool_]:
    if question.kind == "multilabel":
        return np.asarray(probabilities >= np.array(thresholds))
    answers = (probabilities[:, 1] >= thresholds[0]).astype(int) if thresholds else probabilities.argmax(1)
    one_hot: npt.NDArray[np.bool_] = np.eye(len(question.classes), dtype=bool)[answers]
    return one_hot


def _misfits(question: ClassificationTask, answered: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for case, probabilities in answered.items():
        place = f"case {shown(case)}, task {shown(question.name)}"
        if set(probabilities) != set(question.classes):
            classes = listed(question.classes)
            yield f"{place}: holds the classes {listed(probabilities)}, the data set asks for {classes}"
        elif question.kind != "multilabel" and abs(sum(probabilities.values()) - 1) > _SUM_TOLERANCE:
            yield f"{place}: the probabilities add up to {sum(probabilities.values()):.3g} and not to 1"


def hot(classes: Sequence[str], label: str | tuple[str, ...]) -> list[bool]:
    """Return which of the classes a label names, (C,)."""
    true = (label,) if isinstance(label, str) else label
    return [name in true for name in classes]


def refuse(path: Path, problems: Sequence[str], remedy: str) -> None:
    """Raise an `AnswersError` that names the problems, at most a dozen; do nothing if there is none."""
    if problems:
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise AnswersError(f"{path}: {'; '.join(problems[:_MOST_PROBLEMS])}{more}; {remedy}")
