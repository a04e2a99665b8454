"""Honest probabilities and thresholds: fitted on the validation cases of a fold, stored inside its checkpoint.

A network trained to the end is too sure of itself. One temperature per question mends that without changing which
class is the likeliest; a threshold moves the cut between two classes to where both are found equally well.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import shown
from nnunet_mtl.losses.classification import probabilities
from nnunet_mtl.tasks import ClassificationTask

# Names under which a checkpoint holds what answers need.
TAUGHT, CALIBRATIONS = "taught", "calibrations"
_LEAST_CASES = 2  # of each class; with fewer nothing is fitted
_TEMPERATURES = (0.05, 20.0)

FloatArray = npt.NDArray[np.floating[Any]]


class CalibrationError(UserError):
    """The calibration inside a checkpoint is damaged or does not belong to its model."""


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


def stored_calibrations(calibrations: Mapping[str, Calibration]) -> dict[str, Any]:
    """Return calibrations, by question, as a checkpoint holds them."""
    stored = {name: asdict(one) | {"thresholds": list(one.thresholds)} for name, one in calibrations.items()}
    return {CALIBRATIONS: stored}


def read_calibrations(
    content: Mapping[str, Any], questions: Sequence[ClassificationTask], source: str
) -> dict[str, Calibration]:
    """Read what answers need from our content of a checkpoint.

    Args:
        content: As `TrainedModel.contents`; a checkpoint that does not say what its network was taught counts as
            taught every question.
        questions: Of the model.
        source: The checkpoint file, for messages.

    Returns:
        The calibration of each question, the default where none is stored. A question that the network was never
        taught is absent.

    Raises:
        CalibrationError: If the content is not what training and `stored_calibrations` write for these questions.
    """
    known = {question.name: question for question in questions}
    taught, stored = content.get(TAUGHT, list(known)), content.get(CALIBRATIONS, {})
    if not isinstance(taught, list) or not all(isinstance(name, str) for name in taught):
        raise _error(source, TAUGHT, f"must be a list of questions, is {shown(taught)}")
    if not isinstance(stored, dict):
        raise _error(source, CALIBRATIONS, f"must be an object, is {shown(stored)}")
    for key, names in ((TAUGHT, taught), (CALIBRATIONS, stored)):
        for name in names:
            if name not in known:
                raise _error(source, f"{key}[{shown(name)}]", "the model has no such question")
    fitted = {name: _parse(source, known[name], value) for name, value in stored.items()}
    return {name: fitted.get(name, Calibration.default(known[name])) for name in known if name in taught}


def remarks(
    questions: Sequence[ClassificationTask],
    folds: Sequence[int | str],
    calibrations: Sequence[Mapping[str, Calibration]],
    checkpoint: str,
) -> Iterator[str]:
    """Say in one line for each question and fault which folds were never taught it, and which are not calibrated.

    Args:
        questions: Those that are answered.
        folds: Names of the folds.
        calibrations: For each fold, as `read_calibrations` returns them.
        checkpoint: Name of the checkpoint file of every fold.
    """
    for question in questions:
        of_folds = [of_fold.get(question.name) for of_fold in calibrations]
        never = [f"fold {fold}" for fold, one in zip(folds, of_folds, strict=True) if one is None]
        raw = [f"fold {fold}" for fold, one in zip(folds, of_folds, strict=True) if one is not None and not one.fitted]
        if never and len(never) == len(folds):
            yield f"{question.name}: the answer is not available: {', '.join(never)} had no labels to learn it from"
        elif never:
            yield f"{question.name}: {', '.join(never)} had no labels to learn it from; only the other folds answer"
        if raw:
            yield (
                f"{question.name}: {checkpoint} of {', '.join(raw)} has no calibration: temperature 1, thresholds 0.5 "
                "(nnUNetv2_train --val calibrates checkpoint_final, with --val_best checkpoint_best, from two "
                "validation cases of each class on; fold all has none)"
            )


def _parse(source: str, question: ClassificationTask, value: Any) -> Calibration:
    place = f"{CALIBRATIONS}[{shown(question.name)}]"
    keys = ("temperature", "thresholds", "n_cases", "fitted")
    if not isinstance(value, dict) or set(value) != set(keys):
        raise _error(source, place, f"must be an object of {', '.join(keys)}, is {shown(value)}")
    temperature, thresholds, n_cases, fitted = (value[key] for key in keys)
    if not _is_number(temperature, *_TEMPERATURES):
        low, high = _TEMPERATURES
        raise _error(source, f"{place}.temperature", f"must lie between {low} and {high}, is {shown(temperature)}")
    expected = n_thresholds(question)
    if (
        not isinstance(thresholds, list)
        or len(thresholds) != expected
        or not all(_is_number(item, 0, 1) for item in thresholds)
    ):
        raise _error(source, f"{place}.thresholds", f"must be {expected} number(s) from 0 to 1, is {shown(thresholds)}")
    if type(n_cases) is not int or n_cases < 0 or type(fitted) is not bool:
        raise _error(source, place, "n_cases must be an integer of at least 0, and fitted true or false")
    return Calibration(float(temperature), tuple(map(float, thresholds)), n_cases, fitted)


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


def _error(source: str, place: str, problem: str) -> CalibrationError:
    return CalibrationError(
        f"{source}: nnunet_mtl.{place}: {problem}; copy the model again, or calibrate it anew (nnUNetv2_train --val)"
    )
