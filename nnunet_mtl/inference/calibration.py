"""Calibration of the answers: temperature and thresholds, fitted on validation cases and stored in the checkpoint.

The probabilities of a fully trained network are too extreme. One temperature for each question corrects them and keeps
the order of the classes; a threshold moves the cut between two classes to where both are found equally well.
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
        temperature: Divisor of the case's logits.
        thresholds: Smallest probabilities with which a class is answered: of the second of two classes, (1,), or of
            every label of a multilabel question, (C,). Empty for other questions, whose answer is the likeliest class.
        n_cases: Number of validation cases with a label.
        fitted: Whether these cases were enough; if not, temperature and thresholds are the defaults.
    """

    temperature: float
    thresholds: tuple[float, ...]
    n_cases: int
    fitted: bool

    @classmethod
    def default(cls, question: ClassificationTask, n_cases: int = 0) -> "Calibration":
        """Return the calibration of a question for which nothing could be fitted: temperature 1, thresholds 0.5."""
        return cls(1.0, (0.5,) * n_thresholds(question), n_cases, fitted=False)


def n_thresholds(question: ClassificationTask) -> int:
    """Return how many thresholds a question has: one for two classes, one for every label of multilabel, else none."""
    if question.kind == "multilabel":
        return len(question.classes)
    return 1 if len(question.classes) == 2 else 0


def answer(thresholds: tuple[float, ...], question: ClassificationTask, probability: Tensor) -> tuple[str, ...]:
    """Return the classes that answer a question, given their probabilities (C,): one, or for multilabel any number."""
    if question.kind == "multilabel":
        by_class = zip(question.classes, probability.tolist(), thresholds, strict=True)
        return tuple(name for name, value, threshold in by_class if value >= threshold)
    if thresholds:
        return (question.classes[int(float(probability[1]) >= thresholds[0])],)
    return (question.classes[int(probability.argmax())],)


def fit_calibration(question: ClassificationTask, case_logits: Tensor, targets: Tensor) -> Calibration:
    """Fit temperature and thresholds on validation cases; never on cases that the network was trained on.

    The temperature minimises the negative log-likelihood of labels smoothed as in Platt's scaling, (n + 1) / (n + C)
    for a class of n cases: a few cases that are all classified rightly do not make the probabilities extreme. A
    threshold maximises the balanced accuracy; of equally good thresholds the closest to 0.5 is taken.

    Args:
        question: The question that is calibrated.
        case_logits: Combined logits of every case by one fold's network, (N, outputs).
        targets: Labels of the cases, (N, C): one-hot, for multilabel 1 where the label holds.

    Returns:
        The fitted calibration; the default if a class (or either answer to a label) has fewer than two cases, or a
        logit is not finite.

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
    """Move the targets, (N, C), away from 0 and 1; the more cases a class has, the less."""
    counts = targets.sum(0)
    if kind == "multilabel":
        absent = len(targets) - counts
        return targets * (counts + 1) / (counts + 2) + (1 - targets) / (absent + 2)
    class_size = (targets * counts).sum(1, keepdim=True)  # of the class that is true of the case
    return (targets * class_size + 1) / (class_size + targets.shape[1])


def best_threshold(probability: FloatArray, holds: npt.NDArray[np.bool_]) -> float:
    """Return the threshold with the greatest balanced accuracy.

    Args:
        probability: Predicted probability of a class for every case, (N,).
        holds: Whether the class is true of the case, (N,); both values occur.

    Returns:
        A midpoint between two neighbouring probabilities. Of equally good midpoints the closest to 0.5 is returned, of
        two equally close midpoints the lower; 0.5 if all probabilities are equal.
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
    """Read the calibrations from this package's content of a checkpoint.

    Args:
        content: An item of `TrainedModel.contents`. Without the key `taught` every question counts as taught.
        questions: The questions of the model.
        source: Path of the checkpoint file, for messages.

    Returns:
        The calibration by question; the default calibration if the checkpoint has none. A question that the network was
        never taught is absent.

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
    """Yield lines that name, for every question, the folds that were never taught it and those without calibration.

    Args:
        questions: The questions that are answered.
        folds: Names of the folds.
        calibrations: The result of `read_calibrations` for every fold.
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
