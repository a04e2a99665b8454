"""Honest probabilities and thresholds: fitted on the validation cases of a fold, stored beside its checkpoint.

A network trained to the end is too sure of itself. One temperature per question mends that without changing which
class is the likeliest; a threshold moves the cut between two classes to where both are found equally well.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from nnunet_mtl._messages import shown
from nnunet_mtl.errors import UserError
from nnunet_mtl.files import write_json
from nnunet_mtl.losses.classification import probabilities
from nnunet_mtl.tasks import ClassificationTask

FILE_NAME = "classification.json"
_VERSION = 1
_LEAST_CASES = 2  # of each class; with fewer nothing is fitted
_TEMPERATURES = (0.05, 20.0)

FloatArray = npt.NDArray[np.floating[Any]]


class CalibrationError(UserError):
    """The stored calibration of a fold cannot be read or does not belong to its model."""


@dataclass(frozen=True)
class Calibration:
    """How the combined logits of a case become probabilities and an answer, for one question of one fold.

    Attributes:
        temperature: The case's logits are divided by it.
        thresholds: Of the second of two classes, (1,); of each label of a multilabel question, (C,); else empty: the
            likeliest class is the answer. What is at least its threshold is answered.
        n_cases: Number of validation cases there were.
        fitted: Whether they were enough; if not, these are the defaults.
    """

    temperature: float
    thresholds: tuple[float, ...]
    n_cases: int
    fitted: bool

    @classmethod
    def default(cls, question: ClassificationTask, n_cases: int = 0) -> "Calibration":
        """Return what is used where nothing could be fitted: temperature 1 and thresholds of 0.5."""
        return cls(1.0, (0.5,) * n_thresholds(question), n_cases, fitted=False)


def n_thresholds(question: ClassificationTask) -> int:
    """Return how many thresholds a question has: one for two classes, one per label, else none."""
    if question.kind == "multilabel":
        return len(question.classes)
    return 1 if len(question.classes) == 2 else 0


def answer(thresholds: tuple[float, ...], question: ClassificationTask, probability: Tensor) -> tuple[str, ...]:
    """Name the classes that probabilities, (C,), answer a question with: one, or for multilabel any number."""
    if question.kind == "multilabel":
        found = zip(question.classes, probability.tolist(), thresholds, strict=True)
        return tuple(name for name, value, threshold in found if value >= threshold)
    if thresholds:
        return (question.classes[int(float(probability[1]) >= thresholds[0])],)
    return (question.classes[int(probability.argmax())],)


def fit_calibration(question: ClassificationTask, case_logits: Tensor, targets: Tensor) -> Calibration:
    """Fit temperature and thresholds on validation cases; never on cases that the network was trained on.

    The temperature minimises the negative log-likelihood of labels smoothed as in Platt's scaling, (n + 1) / (n + C)
    for a class of n cases: a few cases that are all told apart do not make the answers boundless. A threshold
    maximises the balanced accuracy; of equal ones, the closest to 0.5 is taken.

    Args:
        question: The question.
        case_logits: Combined logits of each case by one fold's network, (N, outputs).
        targets: What is known of each, (N, C): one-hot, for multilabel 1 where the label holds.

    Returns:
        The defaults if any class (or either answer to a label) has fewer than two cases, or a logit is not finite.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    n_cases, n_classes = len(case_logits), len(question.classes)
    if targets.shape != (n_cases, n_classes):
        raise ValueError(f"targets: shape {tuple(targets.shape)}, expected {(n_cases, n_classes)}")
    least = torch.minimum(targets.sum(0), (1 - targets).sum(0)).min()
    if least < _LEAST_CASES or not case_logits.isfinite().all():
        return Calibration.default(question, n_cases)
    temperature = _fit_temperature(question.kind, case_logits.double(), targets.double())
    tempered = probabilities(question.kind, case_logits / temperature).double().numpy()
    columns = range(n_classes) if question.kind == "multilabel" else range(1, 1 + n_thresholds(question))
    thresholds = tuple(best_threshold(tempered[:, i], targets[:, i].numpy() > 0.5) for i in columns)
    return Calibration(temperature, thresholds, n_cases, fitted=True)


def _fit_temperature(kind: str, logits: Tensor, targets: Tensor) -> float:
    smoothed = _smoothed(kind, targets)

    def loss(log_temperature: float) -> float:
        predicted = probabilities(kind, logits / math.exp(log_temperature)).double()
        terms = smoothed * predicted.clamp(min=1e-30).log()
        if kind == "multilabel":
            terms = terms + (1 - smoothed) * (1 - predicted).clamp(min=1e-30).log()
        return float(-terms.sum(1).mean())

    low, high = (math.log(bound) for bound in _TEMPERATURES)
    return math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def _smoothed(kind: str, targets: Tensor) -> Tensor:
    """Move each target away from certainty, the less the more cases its class has."""
    counts = targets.sum(0)
    if kind == "multilabel":
        absent = len(targets) - counts
        return targets * (counts + 1) / (counts + 2) + (1 - targets) / (absent + 2)
    of_case = (targets * counts).sum(1, keepdim=True)
    return (targets * of_case + 1) / (of_case + targets.shape[1])


def best_threshold(probability: FloatArray, holds: npt.NDArray[np.bool_]) -> float:
    """Return the threshold with the greatest balanced accuracy.

    Args:
        probability: Of each case, (N,).
        holds: Whether it is true of the case, (N,), both answers at least once.

    Returns:
        A midpoint between two neighbouring probabilities, of equally good ones the closest to 0.5 (of two, the lower);
        0.5 if all probabilities are equal.
    """
    values = np.unique(probability)
    if len(values) < 2:
        return 0.5
    candidates = (values[:-1] + values[1:]) / 2
    above = probability[None] >= candidates[:, None]
    # counts and not rates: equally good thresholds are exactly equal
    positives, negatives = int(holds.sum()), int((~holds).sum())
    score = (above & holds).sum(1) * negatives + (~above & ~holds).sum(1) * positives
    best = candidates[score == score.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def write_calibrations(fold_folder: Path, calibrations: Mapping[str, Calibration], checkpoint: str) -> None:
    """Store what was fitted with a fold's model, under the name of the question.

    Args:
        fold_folder: `fold_0` and so on, where the checkpoint lies.
        calibrations: By question.
        checkpoint: Name of the checkpoint file whose answers were used.

    Raises:
        OSError: If the file cannot be written; an old one is then unchanged.
    """
    questions = {name: asdict(calibration) for name, calibration in calibrations.items()}
    write_json(fold_folder / FILE_NAME, {"version": _VERSION, "checkpoint": checkpoint, "questions": questions})


def read_calibrations(
    fold_folder: Path, questions: tuple[ClassificationTask, ...], checkpoint: str
) -> dict[str, Calibration]:
    """Read what is stored with a fold's model; the defaults where nothing is, or it is of another checkpoint.

    Returns:
        The calibration of each question.

    Raises:
        CalibrationError: If the file is there but is not what `write_calibrations` writes for these questions.
    """
    path = fold_folder / FILE_NAME
    defaults = {question.name: Calibration.default(question) for question in questions}
    if not questions or not path.is_file():
        return defaults
    content = _read(path)
    if content["checkpoint"] != checkpoint:
        return defaults
    stored = content["questions"]
    known = {question.name: question for question in questions}
    for name in stored:
        if name not in known:
            raise _error(path, f"questions[{shown(name)}]", "the model has no such question")
    return defaults | {name: _parse(path, known[name], value) for name, value in stored.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _error(path, "", f"cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or set(content) != {"version", "checkpoint", "questions"}:
        raise _error(path, "", 'must be an object of "version", "checkpoint" and "questions"')
    if content["version"] != _VERSION:
        raise _error(path, "version", f"must be {_VERSION}, is {shown(content['version'])}")
    if not isinstance(content["questions"], dict):
        raise _error(path, "questions", f"must be an object, is {shown(content['questions'])}")
    return content


def _parse(path: Path, question: ClassificationTask, value: Any) -> Calibration:
    place = f"questions[{shown(question.name)}]"
    keys = ("temperature", "thresholds", "n_cases", "fitted")
    if not isinstance(value, dict) or set(value) != set(keys):
        raise _error(path, place, f"must be an object of {', '.join(keys)}, is {shown(value)}")
    temperature, thresholds, n_cases, fitted = (value[key] for key in keys)
    if not _is_number(temperature, *_TEMPERATURES):
        low, high = _TEMPERATURES
        raise _error(path, f"{place}.temperature", f"must lie between {low} and {high}, is {shown(temperature)}")
    expected = n_thresholds(question)
    if (
        not isinstance(thresholds, list)
        or len(thresholds) != expected
        or not all(_is_number(item, 0, 1) for item in thresholds)
    ):
        raise _error(path, f"{place}.thresholds", f"must be {expected} number(s) from 0 to 1, is {shown(thresholds)}")
    if type(n_cases) is not int or n_cases < 0 or type(fitted) is not bool:
        raise _error(path, place, "n_cases must be an integer of at least 0, and fitted true or false")
    return Calibration(float(temperature), tuple(map(float, thresholds)), n_cases, fitted)


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


def _error(path: Path, place: str, problem: str) -> CalibrationError:
    where = f"{path}: {place}" if place else str(path)
    return CalibrationError(f"{where}: {problem}; remove the file to predict uncalibrated, or validate the fold again")
