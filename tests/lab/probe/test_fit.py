import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from nnunet_mtl.evaluation.answers.point_metrics import point_metrics
from nnunet_mtl.lab.probe.fit import STRENGTHS, balanced_loss, case_probabilities, fit_probe, patient_folds
from nnunet_mtl.tasks import ClassificationTask

NOMINAL = ClassificationTask("malignancy", "nominal", ("benign", "malignant"))
THREE = ClassificationTask("origin", "nominal", ("a", "b", "c"))
ORDINAL = ClassificationTask("stage", "ordinal", ("I", "II", "III"))
MULTILABEL = ClassificationTask("signs", "multilabel", ("fat", "blood", "pus"))


def hot(labels: Any, n_classes: int) -> Any:
    return np.eye(n_classes)[np.asarray(labels)]


def planted(question: ClassificationTask, n_cases: int = 90, size: int = 150) -> tuple[Any, Any]:
    """More values than cases, each of which tells a little of the class, and targets."""
    rng = np.random.default_rng(0)
    n_classes = len(question.classes)
    if question.kind == "multilabel":
        targets = (rng.random((n_cases, n_classes)) < 0.4).astype(float)
    else:
        targets = hot(np.arange(n_cases) % n_classes, n_classes)
    signal = targets if question.kind != "ordinal" else targets.argmax(1)[:, None]
    descriptors = rng.normal(size=(n_cases, size)) + signal @ rng.normal(size=(signal.shape[1], size))
    return 3 + 5 * descriptors, targets


@pytest.mark.parametrize("question", [NOMINAL, THREE, ORDINAL, MULTILABEL], ids=lambda question: str(question.name))
def test_a_planted_signal_is_found_in_new_cases(question: ClassificationTask) -> None:
    descriptors, targets = planted(question)
    probe = fit_probe(question, descriptors[:60], targets[:60], list(range(60)))
    logits = probe.logits(descriptors[60:])
    outputs = 2 if question.kind == "ordinal" else len(question.classes)
    assert logits.shape == (30, outputs)
    found = point_metrics(case_probabilities(question, logits), targets[60:], question.kind).metrics
    assert found["auc"] is not None
    assert found["auc"] > 0.93


def test_the_same_input_gives_the_same_probe() -> None:
    descriptors, targets = planted(THREE, 30)
    first, second = (fit_probe(THREE, descriptors, targets, list(range(30))) for _ in range(2))
    assert np.array_equal(first.weight, second.weight)
    assert np.array_equal(first.bias, second.bias)
    assert first.strength == second.strength


@pytest.mark.parametrize(("size", "n_cases"), [(100, 30), (5, 60)])
def test_it_is_the_balanced_logistic_regression_of_the_standardised_descriptors(size: int, n_cases: int) -> None:
    """The rotation it is computed in must not show."""
    rng = np.random.default_rng(1)
    descriptors = rng.normal(size=(n_cases, size)) * rng.uniform(0.1, 30, size) + 5
    labels = (np.arange(n_cases) % 3 == 0).astype(int)
    descriptors[:, 0] += 20 * labels
    probe = fit_probe(NOMINAL, descriptors, hot(labels, 2), list(range(n_cases)))
    standardised = (descriptors - descriptors.mean(0)) / np.sqrt(descriptors.var(0) + 1e-6) / math.sqrt(size)
    model = LogisticRegression(C=probe.strength, class_weight="balanced", tol=1e-8, max_iter=100_000)
    expected = model.fit(standardised, labels).predict_proba(standardised)
    np.testing.assert_allclose(case_probabilities(NOMINAL, probe.logits(descriptors)), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["nominal", "ordinal"])
def test_more_than_two_classes_are_fitted_jointly_or_cumulatively(kind: str) -> None:
    """With one value that orders the classes, the answers follow the order."""
    question = ClassificationTask("q", kind, ("low", "middle", "high"))
    labels = np.arange(60) % 3
    descriptors = labels[:, None] + 0.05 * np.random.default_rng(0).normal(size=(60, 1))
    probe = fit_probe(question, descriptors, hot(labels, 3), list(range(60)))
    answers = case_probabilities(question, probe.logits(np.array([[0.0], [1.0], [2.0]])))
    assert answers.argmax(1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)


def test_rare_classes_weigh_as_much_as_others() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    probe = fit_probe(NOMINAL, np.ones((100, 3)), hot(labels, 2), list(range(100)))
    np.testing.assert_allclose(case_probabilities(NOMINAL, probe.logits(np.ones((1, 3)))), [[0.5, 0.5]], atol=1e-3)


def test_a_value_that_hardly_varies_is_not_blown_up() -> None:
    labels = np.arange(40) % 2
    descriptors = np.full((40, 2), 7.0) + 1e-9 * labels[:, None]
    probe = fit_probe(NOMINAL, descriptors, hot(labels, 2), list(range(40)))
    np.testing.assert_allclose(case_probabilities(NOMINAL, probe.logits(descriptors)), 0.5, atol=0.01)


@pytest.mark.parametrize("kind", ["nominal", "ordinal", "multilabel"])
def test_a_class_that_no_case_has_is_improbable_and_no_error(kind: str) -> None:
    question = ClassificationTask("q", kind, ("a", "b", "c"))
    labels = np.arange(40) % 2
    descriptors = labels[:, None] + 0.1 * np.random.default_rng(0).normal(size=(40, 1))
    answers = case_probabilities(
        question, fit_probe(question, descriptors, hot(labels, 3), list(range(40))).logits(descriptors)
    )
    assert answers[:, 2].max() < 0.1
    assert (answers[:, :2].argmax(1) == labels).all()


def test_one_case_alone_gives_an_answer() -> None:
    for question in (NOMINAL, THREE, ORDINAL, MULTILABEL):
        probe = fit_probe(question, np.ones((1, 4)), hot([1], len(question.classes)), ["a"])
        answers = case_probabilities(question, probe.logits(np.ones((1, 4))))
        assert np.isfinite(answers).all()
        assert answers.argmax(1).tolist() == [1]


def test_noise_is_penalised_more_than_a_signal() -> None:
    rng = np.random.default_rng(0)
    targets = hot(np.arange(60) % 2, 2)
    noise = fit_probe(NOMINAL, rng.normal(size=(60, 200)), targets, list(range(60)))
    signal = fit_probe(NOMINAL, targets + 0.01 * rng.normal(size=(60, 2)), targets, list(range(60)))
    assert noise.strength < signal.strength
    assert signal.strength == STRENGTHS[-1]


def test_the_strength_is_chosen_on_other_patients() -> None:
    """Values that name the patient predict other cases of the patient and nothing else."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 4)
    targets = hot(rng.permutation(np.arange(20) % 2)[patients], 2)
    descriptors = np.eye(20)[patients]
    together = fit_probe(NOMINAL, descriptors, targets, patients.tolist())
    apart = fit_probe(NOMINAL, descriptors, targets, list(range(80)))
    assert together.strength < apart.strength == STRENGTHS[-1]


def test_the_loss_is_the_mean_over_classes() -> None:
    logits = np.log(np.array([[0.8, 0.2]] * 3 + [[0.6, 0.4]]))
    targets = hot([0, 0, 0, 1], 2)
    assert balanced_loss(NOMINAL, logits, targets) == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2)
    label = ClassificationTask("sign", "multilabel", ("fat",))
    one = balanced_loss(label, np.zeros((4, 1)), np.array([[1.0], [0.0], [0.0], [0.0]]))
    assert one == pytest.approx(math.log(2))
    assert balanced_loss(NOMINAL, logits[:3], targets[:3]) == pytest.approx(-math.log(0.8))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 2)), min_size=5, max_size=60), st.integers(2, 5))
def test_folds_keep_patients_together_and_spread_the_classes(pairs: list[tuple[int, int]], n_folds: int) -> None:
    patients = [patient for patient, _ in pairs]
    label_of: dict[int, int] = dict(reversed(pairs))  # the first answer of a patient counts
    targets = hot([label_of[patient] for patient in patients], 3)
    fold_of = patient_folds(targets, patients, n_folds)
    places = {
        patient: {int(fold_of[i]) for i, other in enumerate(patients) if other == patient} for patient in patients
    }
    assert all(len(folds) == 1 for folds in places.values())
    assert set(fold_of.tolist()) <= set(range(n_folds))
    for label in range(3):
        counts = [sum(next(iter(places[p])) == fold for p in places if label_of[p] == label) for fold in range(n_folds)]
        assert max(counts) - min(counts) <= 1
