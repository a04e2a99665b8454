"""Cross-validates probes over the folds of `splits_final.json`: no probe is scored on cases it was fitted on."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_mtl.common.messages import shown
from nnunet_mtl.lab.probe.features import Described
from nnunet_mtl.lab.probe.fit import LinearProbe, case_probabilities, fit_probe
from nnunet_mtl.lab.probe.folds import Fold, Folds, ProbeError
from nnunet_mtl.lab.probe.report import Answers
from nnunet_mtl.tasks import ClassificationTask, TaskSet
from nnunet_mtl.training.case_labels import CaseLabels

_LEAST_CASES = 2  # of each class


@dataclass(frozen=True)
class Labelled:
    """The cases that have a label for one of the probed questions.

    Attributes:
        cases: Names of the N cases.
        targets: True classes of the cases by question, (N, C).
        known: Whether a case has a label, by question, (N,) bool.
        folds: Folds of the data set.
    """

    cases: tuple[str, ...]
    targets: Mapping[str, npt.NDArray[np.float64]]
    known: Mapping[str, npt.NDArray[np.bool_]]
    folds: Folds

    def patients(self, rows: npt.NDArray[np.int_]) -> list[Hashable]:
        """Return the patients of the cases in these rows."""
        return [self.folds.patient_of[self.cases[row]] for row in rows]


def labelled_cases(
    tasks: TaskSet, questions: Sequence[ClassificationTask], splits: Sequence[Mapping[str, Sequence[str]]]
) -> Labelled:
    """Collect the cases that have a label for any of the questions.

    Args:
        tasks: The data set.
        questions: The questions to probe.
        splits: Folds of the data set.

    Raises:
        ProbeError: If a class of a question has fewer than two cases, or the yes or the no of a multilabel class has.
    """
    cases = [name for name, case in tasks.cases.items() if any(question.name in case.classes for question in questions)]
    answers = CaseLabels(tasks).targets(cases)
    targets = {question.name: answers[question.name].target.double().numpy() for question in questions}
    known = {question.name: answers[question.name].known.numpy() for question in questions}
    for question in questions:
        _refuse_too_few(tasks.source, question, targets[question.name][known[question.name]])
    patient_of = {
        name: ("case", name) if case.patient is None else ("patient", case.patient)
        for name, case in tasks.cases.items()
    }
    return Labelled(tuple(cases), targets, known, Folds(splits, patient_of))


def _refuse_too_few(source: str, question: ClassificationTask, targets: npt.NDArray[np.float64]) -> None:
    for name, column in zip(question.classes, targets.T, strict=True):
        counts = {f"with {name}": int(column.sum())}
        if question.kind == "multilabel":
            counts[f"without {name}"] = len(column) - int(column.sum())
        for which, number in counts.items():
            if number < _LEAST_CASES:
                raise ProbeError(
                    f"{source}: question {shown(question.name)}: {number} labelled case(s) {which}, a probe needs "
                    f"{_LEAST_CASES}; label more, or name the other questions with --question"
                )


def out_of_fold(
    question: ClassificationTask, labelled: Labelled, described: Mapping[Fold, Mapping[str, Described]]
) -> Answers:
    """Predict every labelled case of a validation part by a probe that was fitted on other folds and other patients.

    Args:
        question: The question to answer.
        labelled: The cases.
        described: Descriptors of the cases, by the fold of the network and by question.

    Raises:
        ProbeError: If no fold has labelled cases in both its training and its validation part.
    """
    row_of = {case: row for row, case in enumerate(labelled.cases)}
    known, targets = labelled.known[question.name], labelled.targets[question.name]
    cases = [case for case in labelled.cases if known[row_of[case]]]
    parts = labelled.folds.parts(cases, list(described))
    if not parts:
        raise ProbeError(
            f"splits_final.json: question {shown(question.name)}: no fold has labelled cases on both sides; write the "
            "folds with `nnunet_mtl make-splits`"
        )
    probabilities, evidence_found = [], []
    for part in parts:
        features = described[part.network][question.name]
        fit, predict = (np.array([row_of[case] for case in names]) for names in (part.fit, part.predict))
        probe = fit_probe(question, features.descriptors[fit], targets[fit], labelled.patients(fit))
        probabilities.append(case_probabilities(question, probe.logits(features.descriptors[predict])))
        evidence = np.ones(len(predict)) if features.evidence is None else features.evidence[predict]
        evidence_found.append(evidence >= 1)
    predicted = [case for part in parts for case in part.predict]
    return Answers(
        question,
        tuple(predicted),
        np.concatenate(probabilities),
        targets[[row_of[case] for case in predicted]],
        np.array([labelled.folds.seen(part.network, case) for part in parts for case in part.predict], dtype=bool),
        np.concatenate(evidence_found),
    )


def final_probes(
    questions: Sequence[ClassificationTask], labelled: Labelled, described: Mapping[str, Described]
) -> dict[str, LinearProbe]:
    """Fit the probe of every question on all labelled cases, with the descriptors of one network."""
    probes = {}
    for question in questions:
        rows = np.flatnonzero(labelled.known[question.name])
        descriptors, targets = described[question.name].descriptors[rows], labelled.targets[question.name][rows]
        probes[question.name] = fit_probe(question, descriptors, targets, labelled.patients(rows))
    return probes
