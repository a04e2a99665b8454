"""Image-level answers on disk: one small file per case as soon as it is done, and the two tables made from them.

The files of single cases are what lets a prediction go on where it was stopped, and several processes share a folder.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_mtl.common.files import write_json
from nnunet_mtl.datasets.classification_table import COLUMNS, NOT_AVAILABLE
from nnunet_mtl.tasks import ClassificationTask

CSV_NAME, JSON_NAME = "classification.csv", "classification.json"
_CASES = ".classification"


@dataclass(frozen=True)
class CaseAnswer:
    """The answer to one question for one case.

    Attributes:
        probabilities: By class, in the order of the question; None for each where the answer is not available.
        answer: The class or classes that are answered, by the stored thresholds; None where it is not available.
        evidence_volume_mm3: Of the predicted evidence region; None for a question without one.
    """

    probabilities: Mapping[str, float | None]
    answer: tuple[str, ...] | None
    evidence_volume_mm3: float | None = None

    @classmethod
    def not_available(cls, question: ClassificationTask) -> "CaseAnswer":
        """Return the answer of networks that were never taught a question."""
        return cls(dict.fromkeys(question.classes), None)


def write_case_answers(folder: Path, case: str, answers: Mapping[str, CaseAnswer]) -> None:
    """Store the answers for one case, by question, whole or not at all."""
    (folder / _CASES).mkdir(exist_ok=True)
    write_json(folder / _CASES / f"{case}.json", {name: asdict(answer) for name, answer in answers.items()})


def read_case_answers(
    folder: Path, case: str, questions: tuple[ClassificationTask, ...]
) -> dict[str, CaseAnswer] | None:
    """Return the stored answers to these questions; None if any is not there, or was given with other classes."""
    try:
        stored = json.loads((folder / _CASES / f"{case}.json").read_text(encoding="utf-8"))
        answers = {
            question.name: CaseAnswer(
                {name: _optional(float, stored[question.name]["probabilities"][name]) for name in question.classes},
                _optional(tuple, stored[question.name]["answer"]),
                stored[question.name]["evidence_volume_mm3"],
            )
            for question in questions
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    same = all(set(stored[question.name]["probabilities"]) == set(question.classes) for question in questions)
    return answers if same else None


def _optional(kind: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else kind(value)


def forget_answers(folder: Path) -> None:
    """Remove the answers and tables of earlier predictions into a folder."""
    for path in (*(folder / _CASES).glob("*.json"), folder / CSV_NAME, folder / JSON_NAME):
        path.unlink(missing_ok=True)


def write_tables(
    folder: Path, questions: tuple[ClassificationTask, ...], about: Mapping[str, Any], file_ending: str
) -> int:
    """Write `classification.csv` and `classification.json` with every case that is done.

    Args:
        folder: The output folder.
        questions: What was asked.
        about: What the JSON file says of the model, by key.
        file_ending: Of label maps; a case whose map is gone is left out.

    Returns:
        The number of cases in the tables.
    """
    answers, before = _gathered(folder, questions, file_ending), None
    # Another process may finish its part meanwhile: whoever writes last has seen everything.
    while answers != before:
        _write_csv(folder / CSV_NAME, answers)
        cases = {case: {name: asdict(answer) for name, answer in of_case.items()} for case, of_case in answers.items()}
        write_json(folder / JSON_NAME, {**about, "cases": cases})
        answers, before = _gathered(folder, questions, file_ending), answers
    return len(answers)


def _gathered(
    folder: Path, questions: tuple[ClassificationTask, ...], file_ending: str
) -> dict[str, dict[str, CaseAnswer]]:
    names = sorted(path.name.removesuffix(".json") for path in (folder / _CASES).glob("[!.]*.json"))
    done = {name: read_case_answers(folder, name, questions) for name in names}
    return {
        name: answers
        for name, answers in done.items()
        if answers is not None and (folder / f"{name}{file_ending}").is_file()
    }


def _write_csv(path: Path, cases: Mapping[str, Mapping[str, CaseAnswer]]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for case, answers in cases.items():
        for task, answer in answers.items():
            volume = "" if answer.evidence_volume_mm3 is None else f"{answer.evidence_volume_mm3:.9g}"
            for name, probability in answer.probabilities.items():
                written = NOT_AVAILABLE if probability is None else f"{probability:.9g}"
                writer.writerow((case, task, name, written, volume))
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(table.getvalue(), encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
