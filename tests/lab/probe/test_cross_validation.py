"""What is scored is honest: descriptors made by hand, so that it is known what there is to find."""

from typing import Any

import numpy as np
import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.evaluation.answers.point_metrics import point_metrics
from nnunet_mtl.lab.probe.cross_validation import Labelled, final_probes, labelled_cases, out_of_fold
from nnunet_mtl.lab.probe.features import Described
from nnunet_mtl.tasks import TaskSet

N_CASES, N_FOLDS = 60, 3
CLASSES = ("benign", "malignant")


def task_set(labels: Any, patients: Any = None, question: Any = None) -> TaskSet:
    cases = {
        f"case_{index:02d}": {"annotated": [], "classes": {"malignancy": label}}
        | ({} if patients is None else {"patient": f"p{patients[index]}"})
        for index, label in enumerate(labels)
    }
    block = {
        "version": 1,
        "tasks": {"liver": {"regions": ["liver", "tumour"]}},
        "classification": {
            "malignancy": question or {"kind": "nominal", "classes": list(CLASSES), "evidence": "tumour"},
            "other": {"kind": "nominal", "classes": ["yes", "no"]},
        },
        "cases": {"unlabelled": {"annotated": ["liver"]}, **cases},
    }
    labels_json = {"background": 0, "liver": [1, 2], "tumour": [2]}
    return TaskSet.from_dataset_json({"labels": labels_json, "regions_class_order": [1, 2], "nnunet_mtl": block})


def splits(n_cases: int = N_CASES) -> list[dict[str, list[str]]]:
    names = [f"case_{index:02d}" for index in range(n_cases)] + ["unlabelled"]
    parts = [names[fold::N_FOLDS] for fold in range(N_FOLDS)]
    return [{"train": [name for name in names if name not in part], "val": part} for part in parts]


def collected(tasks: TaskSet) -> tuple[Any, Labelled]:
    question = tasks.classification[0]
    return question, labelled_cases(tasks, [question], splits())


def described(*descriptors: Any, evidence: Any = None) -> Any:
    return {fold: {"malignancy": Described(values, evidence)} for fold, values in enumerate(descriptors)}


def auc(answers: Any) -> float:
    value = point_metrics(answers.probabilities, answers.targets, answers.question.kind).metrics["auc"]
    assert value is not None
    return value


def random_labels(seed: int) -> Any:
    return np.random.default_rng(seed).permutation(np.arange(N_CASES) % 2)


def noise(seed: int, size: int = 40) -> Any:
    return np.random.default_rng(100 + seed).normal(size=(N_CASES, size))


def named(labels: Any) -> list[str]:
    return [CLASSES[label] for label in labels]


def test_a_planted_signal_is_told_out_of_fold_for_every_case() -> None:
    labels = random_labels(0)
    question, labelled = collected(task_set(named(labels)))
    answers = out_of_fold(question, labelled, described(*[noise(0) + 3 * labels[:, None]] * N_FOLDS))
    assert auc(answers) == 1.0
    assert sorted(answers.cases) == sorted(labelled.cases)
    assert "unlabelled" not in answers.cases
    assert not answers.seen.any()
    of_case = dict(zip(labelled.cases, labels, strict=True))
    assert answers.targets.argmax(1).tolist() == [of_case[case] for case in answers.cases]
    assert answers.probabilities.argmax(1).tolist() == [of_case[case] for case in answers.cases]


def test_what_does_not_tell_the_class_tells_nothing_of_shuffled_labels() -> None:
    areas = []
    for seed in range(4):
        question, labelled = collected(task_set(named(random_labels(seed))))
        areas.append(auc(out_of_fold(question, labelled, described(*[noise(seed)] * N_FOLDS))))
    assert 0.4 < np.mean(areas) < 0.6


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_value_that_names_the_case_does_not_help(one_hot: bool) -> None:
    index = np.eye(N_CASES) if one_hot else np.arange(N_CASES, dtype=float)[:, None]
    areas = []
    for seed in range(4):
        question, labelled = collected(task_set(named(random_labels(seed))))
        areas.append(auc(out_of_fold(question, labelled, described(*[index] * N_FOLDS))))
    assert np.mean(areas) < 0.6


def test_a_value_that_names_the_patient_does_not_help_where_the_folds_part_the_patients() -> None:
    patients = np.arange(N_CASES) // 2  # the folds take every third case
    areas = []
    for seed in range(3):
        labels = np.random.default_rng(seed).permutation(np.arange(30) % 2)[patients]
        question, labelled = collected(task_set(named(labels), patients))
        areas.append(auc(out_of_fold(question, labelled, described(*[np.eye(30)[patients]] * N_FOLDS))))
        question, apart = collected(task_set(named(labels)))
        assert auc(out_of_fold(question, apart, described(*[np.eye(30)[patients]] * N_FOLDS))) > 0.95
    assert np.mean(areas) < 0.6


def test_each_network_is_read_by_a_probe_of_its_own() -> None:
    """Networks do not share their channels: here every one says the opposite of the one before."""
    labels = random_labels(0)
    signal = noise(0) + 3 * labels[:, None]
    question, labelled = collected(task_set(named(labels)))
    assert auc(out_of_fold(question, labelled, described(*[signal * (-1) ** fold for fold in range(N_FOLDS)]))) == 1.0


def test_a_case_is_described_by_the_network_that_was_not_trained_on_it() -> None:
    """A network that remembers the labels of its training cases does not help."""
    labels = random_labels(3)
    question, labelled = collected(task_set(named(labels)))
    of_networks = []
    for split in splits():
        remembers = np.array([[case in split["train"]] for case in labelled.cases])
        of_networks.append(noise(3) + 5 * np.where(remembers, labels[:, None] * 2 - 1, 0))
    assert auc(out_of_fold(question, labelled, described(*of_networks))) < 0.75
    alone = out_of_fold(question, labelled, described(of_networks[0]))
    assert auc(alone) > 0.8  # too good, and said so:
    assert alone.seen.sum() == 40
    assert {case for case, seen in zip(alone.cases, alone.seen, strict=True) if not seen} == set(splits()[0]["val"]) - {
        "unlabelled"
    }


def test_cases_without_a_voxel_of_evidence_are_named() -> None:
    labels = random_labels(0)
    question, labelled = collected(task_set(named(labels)))
    evidence = np.arange(N_CASES) / 10
    answers = out_of_fold(question, labelled, described(*[noise(0)] * N_FOLDS, evidence=evidence))
    assert {case for case, found in zip(answers.cases, answers.found, strict=True) if not found} == set(
        labelled.cases[:10]
    )


def test_the_final_probe_has_seen_every_case() -> None:
    labels = random_labels(0)
    question, labelled = collected(task_set(named(labels)))
    values = noise(0, 200)
    probe = final_probes([question], labelled, described(values)[0])["malignancy"]
    np.testing.assert_allclose(probe.mean, values.mean(0))


def test_only_cases_with_an_answer_to_the_question_count() -> None:
    tasks = task_set(named(random_labels(0)))
    cases = dict(tasks.cases)
    for name in list(cases)[1:5]:
        cases[name] = type(cases[name])((), {"other": "yes"}, None, None)
    for name in list(cases)[5:8]:
        cases[name] = type(cases[name])((), {**cases[name].classes, "other": "no"}, None, None)
    both = TaskSet(**{**vars(tasks), "cases": cases})
    labelled = labelled_cases(both, both.classification, splits())
    assert len(labelled.cases) == N_CASES
    malignancy, other = both.classification
    values = noise(0)
    answers = out_of_fold(malignancy, labelled, described(*[values] * N_FOLDS))
    assert len(answers.cases) == N_CASES - 4
    of_other: Any = {fold: {"other": Described(values, None)} for fold in range(N_FOLDS)}
    assert sorted(out_of_fold(other, labelled, of_other).cases) == list(cases)[1:8]
    assert final_probes([other], labelled, of_other[0])["other"].mean == pytest.approx(values[:7].mean(0))


@pytest.mark.parametrize(
    ("labels", "question", "named_so"),
    [
        (["benign"] * 5 + ["malignant"], None, "1 labelled case"),
        (["benign"] * 5, None, "0 labelled case.*with malignant"),
        ([["fat"]] * 4 + [[]], {"kind": "multilabel", "classes": ["fat"]}, "without fat"),
        (["I", "I", "II", "II"], {"kind": "ordinal", "classes": ["I", "II", "III"]}, "with III"),
    ],
)
def test_too_few_cases_of_a_class_are_one_line(labels: Any, question: Any, named_so: str) -> None:
    with pytest.raises(UserError, match=named_so) as raised:
        collected(task_set(labels, question=question))
    assert "malignancy" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_folds_without_labelled_cases_on_both_sides_are_refused() -> None:
    question, labelled = collected(task_set(named(random_labels(0))))
    lost = Labelled(
        labelled.cases, labelled.targets, labelled.known, type(labelled.folds)([], labelled.folds.patient_of)
    )
    with pytest.raises(UserError, match="make-splits"):
        out_of_fold(question, lost, described(noise(0)))
