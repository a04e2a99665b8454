"""Image-level answers on disk: one small file for every finished case, and the two tables made from these files.

Because of the files a stopped prediction can go on, and several processes can predict into one folder.
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
        probabilities: Probability by class, in the order of the question; all values are None without an answer.
        answer: The classes that reach the stored thresholds; None without an answer.
        evidence_volume_mm3: Volume of the predicted evidence region; None for a question without evidence region.
    """

    probabilities: Mapping[str, float | None]
    answer: tuple[str, ...] | None
    evidence_volume_mm3: float | None = None

    @classmethod
    def not_available(cls, question: ClassificationTask) -> "CaseAnswer":
        """Return the answer of networks that were never taught a question."""
        return cls(dict.fromkeys(question.classes), None)


def write_case_answers(folder: Path, case: str, answers: Mapping[str, CaseAnswer]) -> None:
    """Store the answers for one case by question; a reader finds all answers or no file."""
    (folder / _CASES).mkdir(exist_ok=True)
    write_json(folder / _CASES / f"{case}.json", {name: asdict(answer) for name, answer in answers.items()})


def read_case_answers(
    folder: Path, case: str, questions: tuple[ClassificationTask, ...]
) -> dict[str, CaseAnswer] | None:
    """Return the stored answers by question; None if one is missing or damaged, or its classes are other ones."""
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
        questions: The questions that the model answers.
        about: Keys and values about the model, for the JSON file.
        file_ending: File ending of the label maps; a case without label map is left out.

    Returns:
        The number of cases in the tables.
    """
    answers, before = _gathered(folder, questions, file_ending), None
    # Another process may finish a case meanwhile: the process that writes last has read all cases.
    while answers != before:
        _write_csv(folder / CSV_NAME, answers)
        cases = {case: {name: asdict(answer) for name, answer in by_name.items()} for case, by_name in answers.items()}
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
