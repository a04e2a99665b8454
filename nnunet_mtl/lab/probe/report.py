"""The report of a probe, for people and for programs: the text, `probe.json` and `probe.csv`."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_mtl.common.files import write_json
from nnunet_mtl.evaluation.answers.discrimination import auc_interval
from nnunet_mtl.evaluation.answers.point_metrics import point_metrics
from nnunet_mtl.tasks import ClassificationTask

JSON_NAME, CSV_NAME = "probe.json", "probe.csv"
_COLUMNS = ("case", "question", "class", "probability", "seen_in_training")

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Answers:
    """Out-of-fold predictions for one question.

    Attributes:
        question: The question.
        cases: Names of the N cases.
        probabilities: Probability of every class, (N, C).
        targets: True classes, (N, C).
        seen: Whether the network that described the case was trained on its patient, (N,) bool.
        found: Whether this network finds at least one voxel of evidence in a patch of the case, (N,) bool.
    """

    question: ClassificationTask
    cases: tuple[str, ...]
    probabilities: Array
    targets: Array
    seen: npt.NDArray[np.bool_]
    found: npt.NDArray[np.bool_]

    @cached_property
    def content(self) -> dict[str, Any]:
        """The question's entry in `probe.json`: scores of all cases, and of the unseen cases if some were seen."""
        every = np.ones(len(self.cases), dtype=bool)
        return {
            **self.question.to_json(),
            **self._scores(every),
            "cases_without_predicted_evidence": int((~self.found).sum()),
            "cases_seen_in_training": int(self.seen.sum()),
            "unseen_in_training": self._scores(~self.seen) if self.seen.any() else None,
        }

    def _scores(self, rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
        question, predicted, targets = self.question, self.probabilities[rows], self.targets[rows] > 0.5
        scores = point_metrics(predicted, targets, question.kind)
        columns = range(len(question.classes))
        if question.kind != "multilabel" and len(question.classes) == 2:
            columns = range(1, 2)
        return {
            "n_cases": int(rows.sum()),
            "cases": {name: int(targets[:, column].sum()) for column, name in enumerate(question.classes)},
            "auc": scores.metrics["auc"],
            "balanced_accuracy": scores.metrics["balanced_accuracy"],
            "auc_of_class": {
                question.classes[column]: {
                    "auc": point_metrics(
                        _against_rest(predicted[:, column]), _against_rest(targets[:, column])
                    ).metrics["auc"],
                    "interval": auc_interval(predicted[:, column], targets[:, column]),
                }
                for column in columns
            },
        }


def _against_rest(values: Array) -> Array:
    return np.stack([1 - values.astype(float), values], axis=1)


def describe(answers: Answers) -> list[str]:
    """Return the lines of the text report about one question."""
    content = answers.content
    lines = [f"{answers.question.name}: {_line(content)}"]
    if answers.question.evidence is not None and content["cases_without_predicted_evidence"]:
        missing = content["cases_without_predicted_evidence"]
        lines.append(f"  in {missing} of {len(answers.cases)} cases the network finds no {answers.question.evidence}")
    seen = content["cases_seen_in_training"]
    if seen:
        lines.append(
            f"  {seen} of {len(answers.cases)} cases were described by a network that was trained on their images: the "
            "scores may be too good, above all if it was trained on the answers too; train the other folds"
        )
    if content["unseen_in_training"] is not None and seen < len(answers.cases):
        lines.append(f"  the others alone: {_line(content['unseen_in_training'])}")
    return lines


def headline(answers: Sequence[Answers]) -> str:
    """Return the AUC of each question, in short."""
    parts = []
    for answer in answers:
        content = answer.content
        note = " (images seen in training)" if content["cases_seen_in_training"] else ""
        parts.append(f"{answer.question.name} {_auc(content)}{note}")
    return ", ".join(parts)


def _line(content: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{number} {name}" for name, number in content["cases"].items())
    text = f"{_auc(content)}, balanced accuracy {_number(content['balanced_accuracy'])}"
    text += f"; {content['n_cases']} case(s): {counts}"
    if len(content["auc_of_class"]) > 1:
        aucs = (f"{name} {_with_interval(values)}" for name, values in content["auc_of_class"].items())
        text += f"; each class against the others: {', '.join(aucs)}"
    return text


def _auc(content: Mapping[str, Any]) -> str:
    if len(content["auc_of_class"]) > 1:
        return f"mean AUC {_number(content['auc'])}"
    (values,) = content["auc_of_class"].values()
    return f"AUC {_with_interval(values)}"


def _with_interval(values: Mapping[str, Any]) -> str:
    if values["interval"] is None:
        return _number(values["auc"])
    low, high = values["interval"]
    return f"{_number(values['auc'])} (95 % interval {low:.2f} to {high:.2f})"


def _number(value: float | None) -> str:
    return "not available" if value is None else f"{value:.2f}"


def write_report(folder: Path, about: Mapping[str, Any], answers: Sequence[Answers]) -> None:
    """Write `probe.json` and `probe.csv`.

    Args:
        folder: Folder of the report; made if missing.
        about: Entries of `probe.json` about the model.
        answers: Out-of-fold predictions for every question.

    Raises:
        OSError: If the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    questions = {answer.question.name: answer.content for answer in answers}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for answer in answers:
        for row, case in enumerate(answer.cases):
            seen = str(bool(answer.seen[row])).lower()
            for name, probability in zip(answer.question.classes, answer.probabilities[row], strict=True):
                writer.writerow((case, answer.question.name, name, f"{probability:.9g}", seen))
    aside = folder / f".{CSV_NAME}.{os.getpid()}"
    try:
        aside.write_text(table.getvalue(), encoding="utf-8")
        aside.replace(folder / CSV_NAME)
    finally:
        aside.unlink(missing_ok=True)
    write_json(folder / JSON_NAME, {**about, "questions": questions})
