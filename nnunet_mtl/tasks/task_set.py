"""The task set of a data set: its regions, tasks and questions, and the annotated regions and answers of every case.

This module is the only code that reads or writes the `nnunet_mtl` block of `dataset.json`. It keeps the order of keys,
because nnU-Net orders regions as in `labels`, and tasks are numbered as in `tasks`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nnunet_mtl.common.messages import key_path, listed, shown
from nnunet_mtl.tasks.entries import (
    VERSION,
    Case,
    ClassificationTask,
    Task,
    annotatable,
    default_slots,
    parse_cases,
    parse_classification,
    parse_tasks,
)
from nnunet_mtl.tasks.json_nodes import Node, TaskSetError
from nnunet_mtl.tasks.labels import parse_labels
from nnunet_mtl.tasks.regression_entries import RegressionTask, parse_regressions

_BLOCK = "nnunet_mtl"


@dataclass(frozen=True)
class TaskSet:
    """The regions, tasks, classification tasks and cases of one data set.

    A data set without the block has one task, "all", which holds every region and is annotated in every case.

    Attributes:
        regions: Names of nnU-Net's R output channels. With regions (sigmoid) these are the labels in the order of
            `dataset.json` without background and ignore label; without regions (softmax) they are all labels but the
            ignore label in the order of their integers.
        region_labels: Label values of every region, ascending.
        regions_class_order: The value that nnU-Net paints for every region; empty without regions.
        ignore_label: nnU-Net's ignore label, or None.
        has_regions: Whether nnU-Net trains regions (sigmoid) rather than classes (softmax).
        tasks: The segmentation tasks; a task's index is its number.
        classification: The classification tasks in the order of the block.
        cases: Annotated tasks and answers of every training case; empty if `has_cases` is false.
        has_block: Whether `dataset.json` holds the block.
        has_cases: Whether the block lists cases; the copies saved with trained models do not.
        regressions: The voxel-wise regression tasks in the order of the block.
        source: Name of the file, for messages; not compared.
    """

    regions: tuple[str, ...]
    region_labels: tuple[tuple[int, ...], ...]
    regions_class_order: tuple[int, ...]
    ignore_label: int | None
    has_regions: bool
    tasks: tuple[Task, ...]
    classification: tuple[ClassificationTask, ...] = ()
    cases: Mapping[str, Case] = field(default_factory=dict)
    has_block: bool = True
    has_cases: bool = True
    regressions: tuple[RegressionTask, ...] = ()
    source: str = field(default="dataset.json", compare=False)

    @classmethod
    def from_dataset_json(cls, dataset_json: Mapping[str, Any], source: str = "dataset.json") -> "TaskSet":
        """Read the labels and the block of a `dataset.json`; nnU-Net's other keys are not checked.

        Args:
            dataset_json: The whole content of the file.
            source: Name of the file, for messages.

        Raises:
            TaskSetError: If labels or block are invalid; the message is one line with file, key path and remedy.
        """
        dataset = Node(source, "", dataset_json)
        block = dataset.members("nnU-Net's names").get(_BLOCK)
        labels = vars(parse_labels(dataset, has_block=block is not None))
        if block is None:
            regions = labels["regions"]
            everything = Task("all", regions, default_slots(len(regions)))
            return cls(**labels, tasks=(everything,), has_block=False, has_cases=False, source=source)
        fields = block.fields(("version", "tasks"), ("classification", "cases"))
        if fields["version"].integer(f"the integer {VERSION}") != VERSION:
            raise fields["version"].error(
                f"is {shown(fields['version'].value)}; this nnunet_mtl reads version {VERSION}, install the other one"
            )
        regressions = parse_regressions(
            fields["tasks"].members("task names"), labels["regions"], dataset, may_be_cut="cases" not in fields
        )
        tasks = parse_tasks(fields["tasks"], labels["regions"])
        questions: tuple[ClassificationTask, ...] = ()
        if "classification" in fields:
            questions = parse_classification(fields["classification"], labels["regions"])
        cases = parse_cases(fields["cases"], tasks, questions, regressions) if "cases" in fields else {}
        return cls(
            **labels,
            tasks=tasks,
            classification=questions,
            cases=cases,
            has_cases="cases" in fields,
            regressions=regressions,
            source=source,
        )

    @cached_property
    def task_of_region(self) -> tuple[int, ...]:
        """Index of the task that holds the region, (R,)."""
        owner = {region: i for i, task in enumerate(self.tasks) for region in task.regions}
        return tuple(owner[region] for region in self.regions)

    @cached_property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the shared output channels, in the order of their first use by the tasks."""
        return tuple(dict.fromkeys(slot for task in self.tasks for slot in task.slots))

    @cached_property
    def slot_of_region(self) -> tuple[int, ...]:
        """Index into `slot_names` by region, (R,)."""
        slots = {region: slot for task in self.tasks for region, slot in zip(task.regions, task.slots, strict=True)}
        number = {slot: i for i, slot in enumerate(self.slot_names)}
        return tuple(number[slots[region]] for region in self.regions)

    @cached_property
    def _annotatable(self) -> dict[str, tuple[str, ...]]:
        return annotatable(self.tasks, self.regressions)

    def annotated(self, case: str) -> tuple[bool, ...]:
        """Return which regions were annotated in a case, (R,).

        Raises:
            TaskSetError: If there is a block that does not list the case.
        """
        if not self.has_block:
            return (True,) * len(self.regions)
        self.require_cases([case])
        annotated = {region for name in self.cases[case].annotated for region in self._annotatable[name]}
        return tuple(region in annotated for region in self.regions)

    def annotated_tasks(self, case: str) -> tuple[int, ...]:
        """Return the indices, ascending, of the tasks with at least one annotated region in a case."""
        pairs = zip(self.task_of_region, self.annotated(case), strict=True)
        return tuple(sorted({task for task, annotated in pairs if annotated}))

    def regressed(self, case: str) -> tuple[bool, ...]:
        """Return for every task of `regressions` whether a case has its target.

        Raises:
            TaskSetError: If there is a block that does not list the case.
        """
        if not self.regressions:
            return ()
        self.require_cases([case])
        return tuple(task.name in self.cases[case].annotated for task in self.regressions)

    def require_cases(self, cases: Iterable[str]) -> None:
        """Refuse cases that the block does not list, because nobody knows what was annotated in them.

        Raises:
            TaskSetError: If there is a block that lacks a case; the message counts the cases and names the first.
        """
        missing = [case for case in cases if case not in self.cases] if self.has_block else []
        if missing and not self.has_cases:
            raise self._error(
                f"{_BLOCK}.cases",
                "is missing, so nothing is known of "
                f"{listed(missing)}; use the dataset.json of nnUNet_raw, or run `nnunet_mtl sync`",
            )
        if missing:
            raise self._error(
                f"{_BLOCK}.cases",
                f"{len(missing)} case(s) missing: {listed(missing)}; add each with the tasks "
                'annotated in it ("annotated": [] for none) and run `nnunet_mtl sync`',
            )

    def check_leaves(self, case: str, leaves: Iterable[int]) -> None:
        """Refuse label values of tasks that were not annotated in a case.

        Args:
            case: Identifier of the case.
            leaves: The values in the label file of the case.

        Raises:
            TaskSetError: If a value lies in no region of a task that is annotated, wholly or in part, in the case.
                Background and nnU-Net's ignore label are always allowed.
        """
        tasks = self.annotated_tasks(case)
        allowed = {0, self.ignore_label}
        for task, values in zip(self.task_of_region, self.region_labels, strict=True):
            allowed.update(values if task in tasks else ())
        strange = [leaf for leaf in leaves if leaf not in allowed]
        if strange:
            names = listed(self.tasks[i].name for i in tasks) or "none"
            place = key_path(f"{_BLOCK}.cases", case) if self.has_block else "labels"
            raise self._error(
                place,
                f"the label file of {shown(case)} holds {', '.join(str(leaf) for leaf in strange[:12])}, which no "
                f"region of its annotated tasks ({names}) contains; list the task or correct the label file",
            )

    def compact(self) -> dict[str, Any]:
        """Return the block without its cases and with all defaults; networks are built from this block."""
        regressions = {task.name: task.to_json() for task in self.regressions}
        return {
            "version": VERSION,
            "tasks": {task.name: task.to_json() for task in self.tasks} | regressions,
            "classification": {question.name: question.to_json() for question in self.classification},
        }

    def to_block(self) -> dict[str, Any]:
        """Return the whole block; reading the result together with the same labels gives an equal task set."""
        if not self.has_cases:
            return self.compact()
        return self.compact() | {"cases": {name: case.to_json() for name, case in self.cases.items()}}

    def fingerprint(self) -> str:
        """Return the SHA-256 hash (hexadecimal) of labels and block.

        The order of labels, tasks, classification tasks and classes changes the hash. The order of cases, and of the
        names that a case lists, does not.
        """
        labels = (self.regions, self.region_labels, self.regions_class_order, self.ignore_label, self.has_regions)
        cases = [(name, list(_sorted_json(case))) for name, case in sorted(self.cases.items())]
        content = [labels, self.compact(), cases, self.has_block, self.has_cases]
        return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()

    def _error(self, path: str, problem: str) -> TaskSetError:
        return Node(self.source, path, None).error(problem)


def _sorted_json(case: Case) -> Iterator[Any]:
    yield sorted(case.annotated)
    yield sorted((name, answer if isinstance(answer, str) else sorted(answer)) for name, answer in case.classes.items())
    yield [case.patient, case.source]


def without_cases(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `dataset.json` whose block lists no cases; other keys and the order of keys stay."""
    copy = dict(dataset_json)
    if isinstance(copy.get(_BLOCK), Mapping):
        copy[_BLOCK] = {key: value for key, value in copy[_BLOCK].items() if key != "cases"}
    return copy
