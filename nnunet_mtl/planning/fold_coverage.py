"""Regions and questions that a fold cannot teach or cannot validate: one line for each fault, with the remedy.

A region needs an annotated case in both parts of a fold. A question needs labels that differ: from labels of one class
a network learns to give that answer always, whatever the image.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nnunet_mtl.common.messages import listed, spelt
from nnunet_mtl.planning.splits import patients_of
from nnunet_mtl.tasks import ClassificationTask, TaskSet

_Label = str | tuple[str, ...]


class FoldFault(NamedTuple):
    """What a fold cannot teach or validate, and the remedy, each in one line."""

    text: str
    remedy: str


def taught_questions(tasks: TaskSet, cases: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the questions of which the training cases have different labels.

    Args:
        tasks: The task set with its case table.
        cases: The training cases of a fold.
    """
    return tuple(one.name for one in tasks.classification if len(set(_labels(tasks, one, cases).values())) > 1)


def annotated_cases(tasks: TaskSet, cases: Sequence[str]) -> dict[str, set[str]]:
    """Return for each region and each regression task the cases that are annotated for it.

    Args:
        tasks: The task set with its case table.
        cases: Names of cases in the table.
    """
    names = (*tasks.regions, *(task.name for task in tasks.regressions))
    annotated: dict[str, set[str]] = {name: set() for name in names}
    for case in cases:
        known = (*tasks.annotated(case), *tasks.regressed(case))
        for name in (name for name, is_known in zip(names, known, strict=True) if is_known):
            annotated[name].add(case)
    return annotated


def dataset_faults(tasks: TaskSet, cases: Sequence[str]) -> Iterator[FoldFault]:
    """Yield what no fold can teach: what is annotated in no case, and questions of which no two labels differ.

    Args:
        tasks: The task set with its case table.
        cases: Names of all cases; the table holds every one of them.
    """
    never = [name for name, of_name in annotated_cases(tasks, cases).items() if not of_name]
    if never:
        text = f"annotated in no case: {listed(never)} (no network learns it, and a mean Dice over all regions is nan)"
        yield FoldFault(text, "annotate it in some cases, or take it out of the block")
    for question in tasks.classification:
        labels = list(_labels(tasks, question, cases).values())
        if len(set(labels)) < 2:
            text = f"question {spelt(question.name)}: {_found(labels, '')} (it is not learnt; {_NO_ANSWER})"
            yield FoldFault(text, "label cases of at least two classes, or take the question out of the block")


def fold_faults(tasks: TaskSet, train: Sequence[str], validation: Sequence[str], dataset: str) -> Iterator[FoldFault]:
    """Yield what a fold cannot teach or validate, though another fold might; for no fold at all see `dataset_faults`.

    Args:
        tasks: The task set with its case table, which holds all cases.
        train: Names of the training cases of the fold.
        validation: Names of the validation cases of the fold.
        dataset: Name of the data set, for the remedy.
    """
    cases = sorted({*train, *validation})
    patients = dict(zip(cases, patients_of(tasks, cases), strict=True))
    make_splits = f"nnunet_mtl make-splits -d {dataset} --overwrite"
    annotated = {name: of_name for name, of_name in annotated_cases(tasks, cases).items() if of_name}
    for part, members, consequence in (
        ("training", train, "this network does not learn it"),
        ("validation", validation, "nothing measures it, and the mean Dice over all regions is nan"),
    ):
        missing = [name for name, of_name in annotated.items() if of_name.isdisjoint(members)]
        several = [name for name in missing if len({patients[case] for case in annotated[name]}) > 1]
        few = [name for name in missing if name not in several]
        for names, remedy in ((several, make_splits), (few, "annotate it in two patients or more")):
            if names:
                yield FoldFault(f"annotated in no {part} case: {listed(names)} ({consequence})", remedy)
    for question in tasks.classification:
        labels = _labels(tasks, question, cases)
        if len(set(labels.values())) < 2:
            continue
        remedy = make_splits if _can_be_split(labels, patients) else "label two patients or more of two classes"
        for part, members, consequence in (
            ("training", train, f"it is not learnt; {_NO_ANSWER}"),
            ("validation", validation, "its answers can be neither judged nor calibrated"),
        ):
            of_part = [labels[case] for case in members if case in labels]
            if len(set(of_part)) < 2:
                text = f"question {spelt(question.name)}: {_found(of_part, f'{part} ')} ({consequence})"
                yield FoldFault(text, remedy)


_NO_ANSWER = "its answer is written as not available"


def _found(labels: Sequence[_Label], part: str) -> str:
    return (
        f"all {len(labels)} labels of {part}cases are {_shown(labels[0])}" if labels else f"no {part}case has a label"
    )


def _labels(tasks: TaskSet, question: ClassificationTask, cases: Sequence[str]) -> dict[str, _Label]:
    """Return the label of every labelled case; multilabel classes are in the order of the question."""
    labels = {case: tasks.cases[case].classes[question.name] for case in cases if _is_labelled(tasks, question, case)}
    order = question.classes.index
    return {case: one if isinstance(one, str) else tuple(sorted(one, key=order)) for case, one in labels.items()}


def _is_labelled(tasks: TaskSet, question: ClassificationTask, case: str) -> bool:
    return question.name in tasks.cases[case].classes


def _can_be_split(labels: dict[str, _Label], patients: dict[str, str]) -> bool:
    """Return whether both parts of a fold can have two patients with different labels."""
    counts = Counter(label for label, _ in {(label, patients[case]) for case, label in labels.items()})
    return counts.total() >= 4 and counts.total() - max(counts.values()) >= 2


def _shown(label: _Label) -> str:
    return spelt(label) if isinstance(label, str) else listed(label) or "none of the classes"
