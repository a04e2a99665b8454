from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.losses.classification import patch_weight
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.batch_annotation import BatchAnnotation
from nnunet_mtl.training.image_level import (
    LOSS_TERM,
    PROBABILITIES,
    TARGETS,
    ImageLevelTraining,
    questions_of,
)

SETTINGS = Settings(epochs=100, class_warmup=0.1, class_weight=0.5, half_evidence=20.0, class_balance="none")
KEYS = ["liver_0", "kidney_0", "spleen_0"]
ANNOTATED = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])


def block(**changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "tasks": {"liver": {"regions": ["liver", "tumour"]}, "kidney": {"regions": ["kidney"]}},
        "classification": {
            "malignant": {"kind": "nominal", "classes": ["no", "yes"], "evidence": "tumour"},
            "stage": {"kind": "ordinal", "classes": ["low", "middle", "high"]},
        },
        "cases": {
            "liver_0": {"annotated": ["liver"], "classes": {"malignant": "yes", "stage": "high"}},
            "kidney_0": {"annotated": ["kidney"], "classes": {"malignant": "no"}},
            "spleen_0": {"annotated": [], "patient": "secretpatient"},
        },
        **changes,
    }


def task_set(**changes: Any) -> TaskSet:
    labels = {"background": 0, "liver": [1, 2], "tumour": [2], "kidney": [3]}
    content = {"labels": labels, "regions_class_order": [1, 2, 3], "nnunet_mtl": block(**changes)}
    return TaskSet.from_dataset_json(content)


@pytest.fixture
def training() -> ImageLevelTraining:
    return ImageLevelTraining(task_set(), SETTINGS)


def batch(task: list[int]) -> BatchAnnotation:
    return BatchAnnotation(KEYS, ANNOTATED, torch.tensor(task))


def output(requires_grad: bool = False) -> MultiTaskOutput:
    rng = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(3, 2, generator=rng).requires_grad_(requires_grad) for name in ("malignant", "stage")}
    return MultiTaskOutput(torch.zeros(()), logits, {"malignant": torch.tensor([60.0, 5.0, 0.0])})


def expected_malignant(logits: torch.Tensor, sample: int, label: int) -> torch.Tensor:
    weight = patch_weight(output().evidence["malignant"], 20.0)[sample]
    return weight * torch.nn.functional.cross_entropy(logits[sample], torch.tensor(label))


def test_what_a_network_is_told_of_the_questions() -> None:
    assert questions_of(task_set()) == [
        {"name": "malignant", "outputs": 2, "evidence": 1, "task": 0},
        {"name": "stage", "outputs": 2, "evidence": -1, "task": -1},
    ]
    assert [question["evidence"] for question in questions_of(task_set(), with_evidence=False)] == [-1, -1]


def test_without_questions_there_is_nothing_to_do() -> None:
    nothing = ImageLevelTraining(task_set(classification={}, cases={key: {"annotated": []} for key in KEYS}), SETTINGS)
    assert nothing.loss_terms() == nothing.loss_terms(per_question=True) == ()
    assert nothing.present(batch([0, 0, 0]), conditioned=True, epoch=50, per_question=True) == {}
    assert nothing.known_evidence(torch.zeros(3, 3, 4, 4, dtype=torch.bool), ANNOTATED, epoch=0, training=True) is None
    assert nothing.losses(output(), batch([0, 0, 0]), conditioned=True, epoch=50) == {}
    assert nothing.numbers(output(), batch([0, 0, 0]), conditioned=True) == {}
    nothing.use_training_cases(KEYS)


def test_evidence_is_known_where_its_region_was_annotated(training: ImageLevelTraining) -> None:
    target = torch.zeros(3, 3, 4, 4, dtype=torch.bool)
    target[0, 1, 2, 2] = True
    for epoch, in_training in ((0, True), (9, True), (50, False)):
        evidence = training.known_evidence(target, ANNOTATED, epoch=epoch, training=in_training)
        assert evidence is not None
        assert torch.equal(evidence.mask[:, 0], target[:, 1])
        assert evidence.known.tolist() == [[True, False], [False, False], [False, False]]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_after_the_warm_up_a_share_of_the_annotated_evidence_is_hidden_in_training(share: float) -> None:
    training = ImageLevelTraining(task_set(), replace(SETTINGS, own_evidence=share))
    evidence = training.known_evidence(
        torch.zeros(4000, 3, 2, 2, dtype=torch.bool), torch.ones(4000, 3, dtype=torch.bool), epoch=10, training=True
    )
    assert evidence is not None
    assert float(evidence.known[:, 0].float().mean()) == pytest.approx(1 - share, abs=0.03)


def test_a_conditioned_network_answers_only_for_the_task_of_the_evidence(training: ImageLevelTraining) -> None:
    logits = output().classification["malignant"]
    stage = training.losses(output(), batch([1, 1, 0]), conditioned=True, epoch=50)[LOSS_TERM]
    both = training.losses(output(), batch([0, 0, 0]), conditioned=True, epoch=50)[LOSS_TERM]
    # one answered pair against three; the loss is the mean over the pairs that count
    expected = stage + 0.5 * (expected_malignant(logits, 0, 1) + expected_malignant(logits, 1, 0))
    torch.testing.assert_close(3 * both, expected)
    unconditioned = training.losses(output(), batch([1, 1, 1]), conditioned=False, epoch=50)[LOSS_TERM]
    assert torch.equal(unconditioned, both)


def test_every_question_can_have_a_term_of_its_own(training: ImageLevelTraining) -> None:
    logits = output().classification["malignant"]
    terms = training.losses(output(), batch([0, 0, 0]), conditioned=True, epoch=50, per_question=True)
    assert (
        tuple(terms) == training.loss_terms(per_question=True) == ("classification/malignant", "classification/stage")
    )
    expected = 0.5 * (expected_malignant(logits, 0, 1) + expected_malignant(logits, 1, 0)) / 2  # class_weight is 0.5
    torch.testing.assert_close(terms["classification/malignant"], expected)
    alone = training.losses(output(), batch([1, 1, 0]), conditioned=True, epoch=50)[LOSS_TERM]
    torch.testing.assert_close(terms["classification/stage"], alone)


def test_a_term_is_present_where_a_usable_answer_is_known(training: ImageLevelTraining) -> None:
    def present(task: list[int], *, per_question: bool) -> dict[str, bool]:
        return training.present(batch(task), conditioned=True, epoch=50, per_question=per_question)

    assert present([0, 0, 0], per_question=True) == {"classification/malignant": True, "classification/stage": True}
    assert present([1, 1, 0], per_question=True) == {"classification/malignant": False, "classification/stage": True}
    assert present([1, 1, 0], per_question=False) == {LOSS_TERM: True}


def test_before_the_end_of_the_warm_up_only_annotated_evidence_counts(training: ImageLevelTraining) -> None:
    def gradient(epoch: int) -> torch.Tensor:
        answers = output(requires_grad=True)
        training.losses(answers, batch([0, 0, 0]), conditioned=True, epoch=epoch)[LOSS_TERM].backward()
        grad = answers.classification["malignant"].grad
        assert grad is not None
        return grad.abs().sum(1) > 0

    assert gradient(9).tolist() == [True, False, False]
    assert gradient(10).tolist() == [True, True, False]


def test_the_weight_rises_during_the_warm_up(training: ImageLevelTraining) -> None:
    # in the first ten of a hundred epochs; the pairs that count change only at its end
    values = [float(training.losses(output(), batch([0] * 3), conditioned=True, epoch=e)[LOSS_TERM]) for e in range(10)]
    np.testing.assert_allclose(np.array(values) / values[0], np.arange(1, 11), rtol=1e-5)
    full = ImageLevelTraining(task_set(), replace(SETTINGS, class_warmup=0.0))
    again = full.losses(output(), batch([0, 0, 0]), conditioned=True, epoch=0)[LOSS_TERM]
    later = training.losses(output(), batch([0, 0, 0]), conditioned=True, epoch=10)[LOSS_TERM]
    assert torch.equal(again, later)


def test_classes_are_balanced_by_the_training_cases() -> None:
    training = ImageLevelTraining(task_set(), replace(SETTINGS, class_balance="inverse"))
    before = training.losses(output(), batch([0, 0, 0]), conditioned=True, epoch=50)[LOSS_TERM]
    training.use_training_cases(["liver_0", "liver_0", "liver_0", "kidney_0"])
    after = training.losses(output(), batch([0, 0, 0]), conditioned=True, epoch=50)[LOSS_TERM]
    logits = output().classification["malignant"]
    change = (0.5 - 1) * expected_malignant(logits, 0, 1) + (1.5 - 1) * expected_malignant(logits, 1, 0)
    torch.testing.assert_close(3 * (after - before), 0.5 * change)


def test_numbers_are_fixed_in_shape_and_nan_where_nothing_is_said(training: ImageLevelTraining) -> None:
    numbers = training.numbers(output(), batch([0, 1, 0]), conditioned=True)
    answered, wanted = numbers[PROBABILITIES], numbers[TARGETS]
    assert answered.shape == wanted.shape == (3, 2, 3)
    assert np.isnan(answered).all(2).tolist() == [[False, False], [True, True], [True, True]]
    np.testing.assert_allclose(answered[0, 0, :2].sum(), 1, rtol=1e-6)
    assert np.isnan(answered[0, 0, 2])
    assert wanted[0, 0, :2].tolist() == [0, 1]
    assert wanted[0, 1].tolist() == [0, 0, 1]


def test_scores_of_patches_and_of_cases(training: ImageLevelTraining) -> None:
    answered, wanted = np.full((4, 2, 3), np.nan), np.full((4, 2, 3), np.nan)
    for row, (probability, label) in enumerate([(0.1, 0), (0.7, 0), (0.9, 1)]):
        answered[row, 0, :2] = 1 - probability, probability
        wanted[row, 0, :2] = 1 - label, label
    scored = training.patch_scores(answered, wanted)
    assert scored["malignant"].n_cases == 3
    assert scored["malignant"].metrics["auc"] == 1.0
    assert scored["malignant"].metrics["balanced_accuracy"] == 0.75
    assert scored["stage"].metrics["auc"] is None
    answers = {key: {"malignant": [0.2, 0.8], "stage": [0.1, 0.2, 0.7]} for key in KEYS}
    of_cases = training.case_scores(answers)
    assert of_cases["malignant"].n_cases == 2
    assert of_cases["malignant"].metrics["auc"] == 0.5
    assert of_cases["malignant"].collapsed
    assert of_cases["stage"].n_cases == 1


def test_the_text_names_no_case(training: ImageLevelTraining) -> None:
    assert "spleen_0" not in repr(training)
    assert "secretpatient" not in repr(training)
