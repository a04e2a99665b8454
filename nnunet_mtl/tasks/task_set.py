"""Which structures a data set holds, which were annotated in which case, and what is known of the image as a whole.

This is the only code that reads or writes the `nnunet_mtl` block of `dataset.json`. The order of its keys is kept
wherever it is written: nnU-Net's region order is the order of `labels`, and the order of `tasks` numbers the tasks.
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

    A data set without the block is one task named "all" that holds every region, and every case is annotated.

    Attributes:
        regions: Name of each of the R output channels of nnU-Net: the labels in the order of `dataset.json` without
            background and ignore label, or without regions (softmax) every label but the ignore label by its integer.
        region_labels: Label values of each region, ascending.
        regions_class_order: The value nnU-Net paints for each region; empty without regions.
        ignore_label: nnU-Net's ignore label, if there is one.
        has_regions: Whether nnU-Net trains regions (sigmoid) rather than classes (softmax).
        tasks: The segmentation tasks in their order, which numbers them.
        classification: The classification tasks in their order.
        cases: What is known of each training case; empty where `has_cases` is false.
        has_block: Whether the data set carries the block.
        has_cases: Whether the block lists its cases; the copies kept beside trained models do not.
        regressions: The voxel-wise regression tasks in their order.
        source: The file, for messages; not compared.
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
        """Read the labels and the block of a `dataset.json`; other keys are nnU-Net's and not looked at.

        Args:
            dataset_json: The whole content of the file.
            source: The file's name, for messages.

        Raises:
            TaskSetError: If anything is not as it must be; the message is one line with file, key path and remedy.
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
        """Index of the task each region belongs to, (R,)."""
        owner = {region: i for i, task in enumerate(self.tasks) for region in task.regions}
        return tuple(owner[region] for region in self.regions)

    @cached_property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the shared output channels, in the order in which the tasks first name them."""
        return tuple(dict.fromkeys(slot for task in self.tasks for slot in task.slots))

    @cached_property
    def slot_of_region(self) -> tuple[int, ...]:
        """Index into `slot_names` of each region, (R,)."""
        slots = {r: slot for task in self.tasks for r, slot in zip(task.regions, task.slots, strict=True)}
        number = {slot: i for i, slot in enumerate(self.slot_names)}
        return tuple(number[slots[region]] for region in self.regions)

    @cached_property
    def _annotatable(self) -> dict[str, tuple[str, ...]]:
        return annotatable(self.tasks, self.regressions)

    def annotated(self, case: str) -> tuple[bool, ...]:
        """Return which regions were annotated in a case, (R,).

        Raises:
            TaskSetError: If there is a block and the case is not in it.
        """
        if not self.has_block:
            return (True,) * len(self.regions)
        self.require_cases([case])
        done = {region for name in self.cases[case].annotated for region in self._annotatable[name]}
        return tuple(region in done for region in self.regions)

    def annotated_tasks(self, case: str) -> tuple[int, ...]:
        """Return the indices of the tasks of which at least one region was annotated in a case, ascending."""
        done = zip(self.task_of_region, self.annotated(case), strict=True)
        return tuple(sorted({task for task, annotated in done if annotated}))

    def regressed(self, case: str) -> tuple[bool, ...]:
        """Return which regression targets a case has, one for each of `regressions`.

        Raises:
            TaskSetError: If there is a block and the case is not in it.
        """
        if not self.regressions:
            return ()
        self.require_cases([case])
        return tuple(task.name in self.cases[case].annotated for task in self.regressions)

    def require_cases(self, cases: Iterable[str]) -> None:
        """Refuse cases that are not in the block: what was annotated in them is never assumed.

        Raises:
            TaskSetError: If there is a block and a case is not in it; every such case is counted, the first are named.
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
        """Refuse label values that contradict what a case says was annotated.

        Args:
            case: The case.
            leaves: The values in its label file.

        Raises:
            TaskSetError: If a value lies in no region of a task annotated (wholly or in part) in this case; background
                and nnU-Net's ignore label are always allowed.
        """
        tasks = self.annotated_tasks(case)
        allowed = {0, self.ignore_label}
        for task, values in zip(self.task_of_region, self.region_labels, strict=True):
            allowed.update(values if task in tasks else ())
        strange = [leaf for leaf in leaves if leaf not in allowed]
        if strange:
            done = listed(self.tasks[i].name for i in tasks) or "none"
            place = key_path(f"{_BLOCK}.cases", case) if self.has_block else "labels"
            raise self._error(
                place,
                f"the label file of {shown(case)} holds {', '.join(str(leaf) for leaf in strange[:12])}, which no "
                f"region of its annotated tasks ({done}) contains; list the task or correct the label file",
            )

    def compact(self) -> dict[str, Any]:
        """Return the block without its cases, defaults filled in: what a network and its outputs are built from."""
        regressions = {task.name: task.to_json() for task in self.regressions}
        return {
            "version": VERSION,
            "tasks": {task.name: task.to_json() for task in self.tasks} | regressions,
            "classification": {question.name: question.to_json() for question in self.classification},
        }

    def to_block(self) -> dict[str, Any]:
        """Return the whole block; where there was one, reading it beside the same labels gives an equal task set."""
        if not self.has_cases:
            return self.compact()
        return self.compact() | {"cases": {name: case.to_json() for name, case in self.cases.items()}}

    def fingerprint(self) -> str:
        """Return the SHA-256 hash (hexadecimal) of labels and block.

        Equal for two files that mean the same: the order of cases, and of the names a case lists, does not count.
        The order of labels, tasks, classification tasks and classes does.
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
    """Return a copy whose block lists no cases; every other key, and the order of keys, is kept."""
    copy = dict(dataset_json)
    if isinstance(copy.get(_BLOCK), Mapping):
        copy[_BLOCK] = {key: value for key, value in copy[_BLOCK].items() if key != "cases"}
    return copy
