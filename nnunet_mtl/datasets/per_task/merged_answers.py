"""Merges the image-level answers of several networks into one `classification.csv` and `classification.json`."""

import csv
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from nnunet_mtl.common.files import write_json
from nnunet_mtl.common.messages import spelt
from nnunet_mtl.datasets.classification_table import COLUMNS, answer_rows, read_answers
from nnunet_mtl.datasets.csv_tables import unmatched
from nnunet_mtl.datasets.raw_dataset import RawDatasetError

CSV_NAME, JSON_NAME = "classification.csv", "classification.json"


def merge_answers(
    folders: Sequence[Path], questions: Collection[str], cases: Collection[str], output: Path
) -> tuple[tuple[str, ...], list[str]]:
    """Write the answers of several folders of predictions into one table and one JSON file.

    Args:
        folders: Folders of predictions; some hold a `classification.csv` of `nnunet_mtl predict`.
        questions: Names of the data set's questions; answers to others are left out.
        cases: Names of the merged cases.
        output: Gets `classification.csv` if a question is answered, and `classification.json` if every folder with
            answers has one.

    Returns:
        The answered questions, and a line for every question whose answered cases are not the merged cases.

    Raises:
        UserError: If a table cannot be read, or two folders answer the same question.
    """
    answered: dict[str, Path] = {}
    notes: list[str] = []
    for folder in folders:
        path = folder / CSV_NAME
        for question, answers in (read_answers(path) if path.is_file() else {}).items():
            if question in answered:
                raise RawDatasetError(f"question {question}: answered by {answered[question]} and {folder}; give one")
            if question in questions:
                answered[question] = folder
                notes += unmatched(f"{path}: question {spelt(question)}", answers, cases)
    if answered:
        (output / CSV_NAME).write_text(_table(answered), encoding="utf-8")
    if answered and all((folder / JSON_NAME).is_file() for folder in answered.values()):
        write_json(output / JSON_NAME, _stored(answered))
    return tuple(answered), notes


def _table(answered: dict[str, Path]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for question, folder in answered.items():
        rows = (row for _, row in answer_rows(folder / CSV_NAME) if row["task"] == question)
        writer.writerows([row.get(column, "") for column in COLUMNS] for row in rows)
    return table.getvalue()


def _stored(answered: dict[str, Path]) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    cases: dict[str, dict[str, Any]] = {}
    for question, folder in answered.items():
        path = folder / JSON_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tasks[question] = content["tasks"][question]
            for case, answers in content["cases"].items():
                cases.setdefault(case, {})[question] = answers[question]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RawDatasetError(
                f"{path}: is not what nnunet_mtl predict writes; predict again, or remove it"
            ) from None
    return {"tasks": tasks, "cases": cases}
