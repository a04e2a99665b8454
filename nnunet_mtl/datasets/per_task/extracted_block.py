"""The `nnunet_mtl` block of an extract: the chosen tasks and questions, and the cases annotated for any of them."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nnunet_mtl.common.messages import did_you_mean, listed, shown
from nnunet_mtl.datasets.described_regions import NOTHING
from nnunet_mtl.datasets.per_task.extracted_labels import regions_of
from nnunet_mtl.datasets.raw_dataset import RawDatasetError
from nnunet_mtl.tasks import Case, Task, TaskSet


@dataclass(frozen=True)
class Chosen:
    """The tasks and questions of an extract, in the order of the data set.

    Attributes:
        segmentations: Names of segmentation tasks.
        regressions: Names of voxel-wise regression tasks.
        questions: Names of questions about the whole image.
    """

    segmentations: tuple[str, ...]
    regressions: tuple[str, ...]
    questions: tuple[str, ...]

    @classmethod
    def from_names(cls, taskset: TaskSet, tasks: Collection[str], questions: Collection[str], source: str) -> "Chosen":
        """Look up the names of a command line.

        Args:
            taskset: Task set of the data set.
            tasks: Names given with `-t`.
            questions: Names given with `-q`.
            source: Name of the data set, for messages.

        Raises:
            RawDatasetError: If a name is unknown, or no name is given.
        """
        all_tasks = [task.name for task in taskset.tasks] + [task.name for task in taskset.regressions]
        known = {
            "-t": ("task", all_tasks, tasks),
            "-q": ("question", [question.name for question in taskset.classification], questions),
        }
        for option, (what, names, given) in known.items():
            for name in given:
                if name not in names:
                    raise RawDatasetError(
                        f"{option} {shown(name)}: no such {what} in {source}{did_you_mean(name, names)}; "
                        f"it has {listed(names) or 'none'}"
                    )
        if not tasks and not questions:
            raise RawDatasetError(
                f"name at least one task with -t (there are {listed(all_tasks)}), or a question with -q"
            )
        return cls(
            tuple(task.name for task in taskset.tasks if task.name in tasks),
            tuple(task.name for task in taskset.regressions if task.name in tasks),
            tuple(name for name in known["-q"][1] if name in questions),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all chosen tasks and questions."""
        return (*self.segmentations, *self.regressions, *self.questions)


def restricted(taskset: TaskSet, chosen: Chosen) -> TaskSet:
    """Return the task set of an extract, whose block `TaskSet.to_block` writes.

    Regions and label values stay those of the data set; `TaskLabels` numbers the labels of the extract. References to
    a task or region that is not kept (parent, overlapping task, evidence, the region of a regression) are removed;
    `dropped` names them.

    Args:
        taskset: Task set of the data set, or of a folder of references.
        chosen: Tasks and questions that are kept.

    Returns:
        The task set without the cases that have neither an annotation nor an answer of what is chosen.
    """
    regions = {taskset.regions[region] for region in regions_of(taskset, chosen.segmentations)}
    tasks = tuple(_task(task, chosen) for task in taskset.tasks if task.name in chosen.segmentations)
    names = {
        name
        for task in tasks
        for name in (task.name, *task.regions, *(f"{task.name}/{region}" for region in task.regions))
    }
    names |= set(chosen.regressions)
    kept = [task for task in taskset.regressions if task.name in chosen.regressions]
    first = min((task.channel for task in taskset.regressions), default=0)
    questions = (question for question in taskset.classification if question.name in chosen.questions)
    cases = {name: _case(case, names, chosen.questions) for name, case in taskset.cases.items()}
    return replace(
        taskset,
        tasks=tasks or (Task(NOTHING, (NOTHING,), (NOTHING,)),),
        regressions=tuple(
            replace(task, channel=first + place, inside=task.inside if task.inside in regions else None)
            for place, task in enumerate(sorted(kept, key=lambda task: task.channel))
        ),
        classification=tuple(
            replace(question, evidence=question.evidence if question.evidence in regions else None)
            for question in questions
        ),
        cases={name: case for name, case in cases.items() if case.annotated or case.classes},
    )


def _task(task: Task, chosen: Chosen) -> Task:
    return replace(
        task,
        parent=task.parent if task.parent in chosen.segmentations else None,
        overlaps=tuple(other for other in task.overlaps if other in chosen.segmentations),
    )


def _case(case: Case, names: Collection[str], questions: Collection[str]) -> Case:
    return replace(
        case,
        annotated=tuple(name for name in case.annotated if name in names),
        classes={question: answer for question, answer in case.classes.items() if question in questions},
    )


def dropped(before: TaskSet, after: TaskSet) -> Iterator[str]:
    """Yield a line for every reference to a task or region that `restricted` removed."""
    old_tasks = {task.name: task for task in before.tasks}
    for task in after.tasks:
        old = old_tasks.get(task.name, task)
        if old.parent != task.parent:
            yield f"{task.name}: its parent {old.parent} is not kept; it is learnt everywhere"
        gone = [other for other in old.overlaps if other not in task.overlaps]
        if gone:
            yield f"{task.name}: {listed(gone)}, which it overlaps, not kept"
    inside = {task.name: task.inside for task in before.regressions}
    for regression in after.regressions:
        region = inside[regression.name]
        if region != regression.inside:
            yield f"{regression.name}: counts everywhere: {region}, inside which it counts, is not kept (-t adds it)"
    evidence = {question.name: question.evidence for question in before.classification}
    for question in after.classification:
        region = evidence[question.name]
        if region != question.evidence:
            yield f"{question.name}: its evidence {region} is not kept; the head looks at the whole patch"


def channels_kept(taskset: TaskSet, chosen: Chosen | None) -> list[int] | None:
    """Return the numbers of the channels of an extract: all images, and the targets of the chosen regressions.

    Args:
        taskset: Task set of the data set.
        chosen: Tasks and questions that are kept; None for the images alone.

    Returns:
        Numbers in ascending order; None if every channel of the data set is an image.
    """
    if not taskset.regressions:
        return None
    kept = chosen.regressions if chosen is not None else ()
    targets = {task.channel: task.name for task in taskset.regressions}
    images = range(min(targets))
    return [*images, *(channel for channel in sorted(targets) if targets[channel] in kept)]


def channel_names(dataset_json: Mapping[str, Any], kept: Iterable[int] | None) -> dict[str, Any]:
    """Return the key of `dataset.json` with the names of the kept channels; empty if `kept` is None."""
    if kept is None:
        return {}
    key = "channel_names" if "channel_names" in dataset_json else "modality"
    return {key: {str(new): dataset_json[key][str(old)] for new, old in enumerate(kept)}}
