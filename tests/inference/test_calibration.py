import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nnunet_mtl.inference.calibration import (
    Calibration,
    CalibrationError,
    answer,
    best_threshold,
    fit_calibration,
    n_thresholds,
    read_calibrations,
    remarks,
    stored_calibrations,
)
from nnunet_mtl.losses.classification import n_outputs, probabilities
from nnunet_mtl.tasks import ClassificationTask

NOMINAL = ClassificationTask("malignancy", "nominal", ("benign", "malignant"))
GRADE = ClassificationTask("grade", "ordinal", ("low", "high"))
STAGE = ClassificationTask("stage", "ordinal", ("I", "II", "III"))
SUBTYPE = ClassificationTask("subtype", "nominal", ("clear", "papillary", "other"))
SIGNS = ClassificationTask("signs", "multilabel", ("fat", "blood", "pus"))
QUESTIONS = (NOMINAL, GRADE, STAGE, SUBTYPE, SIGNS)
FINAL = "checkpoint_final.pth"


def labelled(question: ClassificationTask, n_cases: int, sureness: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits whose truth was drawn from their own probabilities, then multiplied: their best temperature."""
    generator = torch.Generator().manual_seed(seed)
    outputs = n_outputs(question.kind, len(question.classes))
    logits = 1.5 * torch.randn(n_cases, outputs, generator=generator)
    if question.kind == "ordinal":
        logits = logits.sort(-1, descending=True).values
    probability = probabilities(question.kind, logits)
    if question.kind == "multilabel":
        target = (torch.rand(probability.shape, generator=generator) < probability).float()
    else:
        drawn = torch.multinomial(probability, 1, generator=generator)[:, 0]
        target = torch.nn.functional.one_hot(drawn, len(question.classes)).float()
    return sureness * logits, target


def nll(question: ClassificationTask, logits: Tensor, target: Tensor) -> float:
    probability = probabilities(question.kind, logits).double().clamp(1e-12, 1 - 1e-12)
    terms = target * probability.log()
    if question.kind == "multilabel":
        terms = terms + (1 - target) * (1 - probability).log()
    return float(-terms.sum(1).mean())


# ---- temperature


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(question: ClassificationTask, temperature: float) -> None:
    logits, target = labelled(question, 4000, temperature)
    fitted = fit_calibration(question, logits, target)
    assert fitted.fitted
    assert fitted.n_cases == 4000
    assert fitted.temperature == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("question", QUESTIONS)
def test_tempering_makes_over_confident_answers_more_likely(question: ClassificationTask) -> None:
    logits, target = labelled(question, 60, 4.0)
    temperature = fit_calibration(question, logits, target).temperature
    assert temperature > 1.5
    assert nll(question, logits / temperature, target) < 0.8 * nll(question, logits, target)


def test_the_temperature_is_the_best_of_all_temperatures_for_smoothed_labels() -> None:
    logits, target = labelled(NOMINAL, 40, 2.0, seed=3)
    malignant = target[:, 1].bool()
    n, m = int(malignant.sum()), int((~malignant).sum())
    smoothed = torch.where(malignant, (n + 1) / (n + 2), 1 / (m + 2)).double()

    def loss(temperature: float) -> float:
        margin = (logits[:, 1] - logits[:, 0]).double() / temperature
        return float(torch.nn.functional.binary_cross_entropy_with_logits(margin, smoothed))

    grid = np.exp(np.linspace(math.log(0.05), math.log(20), 4001))
    best = grid[int(np.argmin([loss(value) for value in grid]))]
    assert fit_calibration(NOMINAL, logits, target).temperature == pytest.approx(best, rel=2e-3)


def test_smoothing_of_more_classes_and_of_labels() -> None:
    # equal logits but for their scale: the best temperature is where the probability is that of the smoothed labels
    target = torch.eye(3).repeat(4, 1)
    fitted = fit_calibration(SUBTYPE, 10 * target, target)
    margin = 10 / fitted.temperature
    assert math.exp(margin) / (math.exp(margin) + 2) == pytest.approx((4 + 1) / (4 + 3), abs=1e-3)
    target = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).repeat(4, 1)
    fitted = fit_calibration(SIGNS, 10 * (2 * target - 1), target)
    assert 1 / (1 + math.exp(-10 / fitted.temperature)) == pytest.approx((4 + 1) / (4 + 2), abs=1e-3)


def test_a_few_cases_that_are_all_told_apart_do_not_make_the_answers_boundless() -> None:
    target = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2)
    logits = 3 * target
    assert fit_calibration(NOMINAL, logits, target).temperature > 1


# ---- thresholds


def balanced_accuracy(probability: Any, holds: Any, threshold: float) -> float:
    above = probability >= threshold
    return (float(np.mean(above[holds])) + float(np.mean(~above[~holds]))) / 2


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=30))
def test_the_threshold_is_the_best_of_all(cases: list[tuple[int, bool]]) -> None:
    probability = np.array([value / 20 for value, _ in cases])
    holds = np.array([truth for _, truth in cases])
    assume(holds.any() and not holds.all() and len(set(probability)) > 1)
    values = sorted(set(probability))
    midpoints = [(low + high) / 2 for low, high in pairwise(values)]
    scores = [balanced_accuracy(probability, holds, midpoint) for midpoint in midpoints]
    best = [midpoint for midpoint, score in zip(midpoints, scores, strict=True) if score > max(scores) - 1e-12]
    found = best_threshold(probability, holds)
    assert found in best
    assert abs(found - 0.5) == min(abs(midpoint - 0.5) for midpoint in best)
    assert found == min(midpoint for midpoint in best if abs(midpoint - 0.5) == abs(found - 0.5))


def test_equal_probabilities_have_no_midpoint() -> None:
    assert best_threshold(np.array([0.3, 0.3]), np.array([True, False])) == 0.5


@pytest.mark.parametrize(("question", "expected"), [(NOMINAL, 1), (GRADE, 1), (STAGE, 0), (SUBTYPE, 0), (SIGNS, 3)])
def test_how_many_thresholds_a_question_has(question: ClassificationTask, expected: int) -> None:
    assert n_thresholds(question) == expected
    assert len(fit_calibration(question, *labelled(question, 100, 1.0)).thresholds) == expected
    assert Calibration.default(question).thresholds == (0.5,) * expected


@pytest.mark.parametrize("question", [NOMINAL, GRADE, SIGNS])
def test_thresholds_are_of_the_tempered_probability_of_what_they_decide(question: ClassificationTask) -> None:
    logits, target = labelled(question, 60, 3.0)
    fitted = fit_calibration(question, logits, target)
    tempered = probabilities(question.kind, logits / fitted.temperature).double().numpy()
    columns = range(3) if question.kind == "multilabel" else [1]
    expected = [best_threshold(tempered[:, i], target[:, i].numpy() > 0.5) for i in columns]
    assert list(fitted.thresholds) == pytest.approx(expected)


def test_the_answer() -> None:
    assert answer((0.7,), NOMINAL, torch.tensor([0.35, 0.65])) == ("benign",)
    assert answer((0.5,), NOMINAL, torch.tensor([0.5, 0.5])) == ("malignant",)
    assert answer((), STAGE, torch.tensor([0.2, 0.5, 0.3])) == ("II",)
    assert answer((0.5, 0.1, 0.9), SIGNS, torch.tensor([0.4, 0.4, 0.95])) == ("blood", "pus")
    assert answer((0.5, 0.5, 0.5), SIGNS, torch.zeros(3)) == ()


# ---- too little to fit on


@pytest.mark.parametrize(
    ("question", "target"),
    [
        (NOMINAL, [[1, 0], [1, 0], [1, 0]]),
        (NOMINAL, [[1, 0], [1, 0], [0, 1]]),
        (SUBTYPE, [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]),
        (SIGNS, [[1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 1]]),
        (SIGNS, [[1, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]]),
        (NOMINAL, torch.zeros(0, 2).tolist()),
    ],
)
def test_too_few_cases_of_a_class_leave_the_defaults(question: ClassificationTask, target: list[list[float]]) -> None:
    targets = torch.tensor(target, dtype=torch.float32).reshape(-1, len(question.classes))
    logits = torch.randn(len(targets), n_outputs(question.kind, len(question.classes)))
    found = fit_calibration(question, logits, targets)
    assert found == Calibration(1.0, (0.5,) * n_thresholds(question), len(targets), fitted=False)


def test_two_cases_of_each_class_are_enough() -> None:
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(2, 1)
    assert fit_calibration(NOMINAL, target, target).fitted
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]).repeat(2, 1)
    assert fit_calibration(SIGNS, labels, labels).fitted


def test_logits_that_are_not_finite_leave_the_defaults() -> None:
    logits, target = labelled(NOMINAL, 20, 1.0)
    logits[3, 0] = float("nan")
    assert fit_calibration(NOMINAL, logits, target) == Calibration.default(NOMINAL, 20)


def test_targets_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 3\), expected \(4, 2\)"):
        fit_calibration(NOMINAL, torch.zeros(4, 2), torch.zeros(4, 3))


# ---- inside a checkpoint

SOURCE = "fold_0/checkpoint_final.pth"


@pytest.fixture
def fitted() -> dict[str, Calibration]:
    return {question.name: fit_calibration(question, *labelled(question, 50, 2.0)) for question in QUESTIONS}


@pytest.fixture
def content(fitted: dict[str, Calibration]) -> dict[str, Any]:
    return {"taught": [question.name for question in QUESTIONS], **stored_calibrations(fitted)}


def test_what_is_stored_is_read_again(fitted: dict[str, Calibration], content: dict[str, Any]) -> None:
    assert read_calibrations(content, QUESTIONS, SOURCE) == fitted
    assert json.loads(json.dumps(content)) == content


def test_a_checkpoint_without_calibration_gives_the_defaults(content: dict[str, Any]) -> None:
    defaults = {question.name: Calibration.default(question) for question in QUESTIONS}
    assert read_calibrations({"taught": content["taught"]}, QUESTIONS, SOURCE) == defaults
    assert read_calibrations({}, QUESTIONS, SOURCE) == defaults
    assert read_calibrations({}, (), SOURCE) == {}


def test_a_question_that_was_never_taught_is_absent(fitted: dict[str, Calibration], content: dict[str, Any]) -> None:
    content["taught"].remove("stage")
    expected = {name: one for name, one in fitted.items() if name != "stage"}
    assert read_calibrations(content, QUESTIONS, SOURCE) == expected
    assert read_calibrations({"taught": []}, QUESTIONS, SOURCE) == {}


def test_each_fault_of_the_folds_is_one_remark() -> None:
    names = [NOMINAL.name, STAGE.name]
    raw, good = Calibration.default(NOMINAL, 1), Calibration(2.0, (0.2,), 9, fitted=True)
    folds = [{names[0]: good}, {names[0]: raw}]
    lines = list(remarks((NOMINAL, STAGE), (0, 1), folds, "checkpoint_best.pth"))
    assert [line.split(":")[0] for line in lines] == names
    assert "checkpoint_best.pth of fold 1 has no calibration" in lines[0]
    assert "not available: fold 0, fold 1 had no labels" in lines[1]
    (line,) = remarks((NOMINAL,), (0, 1), [{names[0]: good}, {}], "checkpoint_final.pth")
    assert "fold 1 had no labels to learn it from; only the other folds answer" in line
    assert list(remarks((NOMINAL,), (0,), [{names[0]: good}], "checkpoint_final.pth")) == []


def test_what_calibrates_is_said_with_what_it_needs() -> None:
    """`--val` alone is no remedy where a class has too few validation cases, nor where every case was trained on."""
    (line,) = remarks((NOMINAL,), ("all",), [{NOMINAL.name: Calibration.default(NOMINAL)}], "checkpoint_final.pth")
    assert "fold all has no calibration" in line
    assert "from two validation cases of each class on; fold all has none" in line


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("taught",), "malignancy", "taught: must be a list of questions, is 'malignancy'"),
        (("taught",), [3], "taught: must be a list of questions"),
        (("taught",), ["other"], "the model has no such question"),
        (("calibrations",), [], "calibrations: must be an object, is an empty list"),
        (("calibrations", "other"), {}, "the model has no such question"),
        (("calibrations", "malignancy"), 3, "must be an object of temperature, thresholds, n_cases, fitted, is 3"),
        (("calibrations", "malignancy", "more"), 3, "must be an object of temperature"),
        (("calibrations", "malignancy", "temperature"), 0, "must lie between 0.05 and 20.0, is 0"),
        (("calibrations", "malignancy", "temperature"), float("nan"), "must lie between 0.05 and 20.0, is nan"),
        (("calibrations", "malignancy", "temperature"), True, "must lie between 0.05 and 20.0, is true"),
        (("calibrations", "malignancy", "thresholds"), [], r"must be 1 number\(s\) from 0 to 1, is an empty list"),
        (("calibrations", "malignancy", "thresholds"), [1.5], r"must be 1 number\(s\) from 0 to 1, is a list of 1"),
        (("calibrations", "malignancy", "thresholds"), 0.5, r"must be 1 number\(s\) from 0 to 1, is 0.5"),
        (("calibrations", "signs", "thresholds"), [0.5], r"must be 3 number\(s\)"),
        (("calibrations", "malignancy", "n_cases"), -1, "n_cases must be"),
        (("calibrations", "malignancy", "fitted"), 1, "fitted true or false"),
    ],
)
def test_content_that_is_not_as_written_is_refused_in_one_line(
    content: dict[str, Any], keys: tuple[str, ...], value: Any, message: str
) -> None:
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(CalibrationError, match=message) as error:
        read_calibrations(content, QUESTIONS, SOURCE)
    assert str(error.value).startswith(f"{SOURCE}: nnunet_mtl.{keys[0]}")
    assert "\n" not in str(error.value)
