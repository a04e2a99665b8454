"""Tasks, questions and cases of the `nnunet_mtl` block; a reader of each takes a `Node` and raises `TaskSetError`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunet_mtl.common.messages import listed, shown
from nnunet_mtl.tasks.json_nodes import Node, require_file_names
from nnunet_mtl.tasks.regression_entries import TYPE, RegressionTask, is_regression

KINDS = ("nominal", "ordinal", "multilabel")
TYPES = ("segmentation", TYPE)
VERSION = 1


@dataclass(frozen=True)
class Task:
    """A segmentation task: regions that are annotated together.

    Attributes:
        name: Key of the task in `tasks`.
        regions: Names of the task's labels, in the order of the file.
        slots: Name of the shared output channel of every region, for heads that share channels between tasks.
        parent: The task whose structure contains this task's structure, or None.
        overlaps: Tasks whose structures may share voxels with this task's structure.
        type: Always "segmentation"; a task of the other type is a `RegressionTask`.
    """

    name: str
    regions: tuple[str, ...]
    slots: tuple[str, ...]
    parent: str | None = None
    overlaps: tuple[str, ...] = ()
    type: str = "segmentation"

    def to_json(self) -> dict[str, Any]:
        """Return the value of this task's key with all defaults."""
        parent = {} if self.parent is None else {"parent": self.parent}
        return {
            "regions": list(self.regions),
            "slots": list(self.slots),
            **parent,
            "overlaps": list(self.overlaps),
            "type": self.type,
        }


@dataclass(frozen=True)
class ClassificationTask:
    """A question about a whole image.

    Attributes:
        name: Key of the question in `classification`.
        kind: "nominal", "ordinal" (classes in ascending order) or "multilabel".
        classes: Names of the possible answers.
        evidence: The region that the question is about, or None.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    evidence: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the value of this question's key."""
        evidence = {} if self.evidence is None else {"evidence": self.evidence}
        return {"kind": self.kind, "classes": list(self.classes), **evidence}


@dataclass(frozen=True)
class Case:
    """The annotated tasks and the answers of one training case.

    Attributes:
        annotated: Annotated tasks or single regions, as written in the file. The name of a task means all its regions;
            `TASK/REGION` means one region, also if a task has the region's name. An annotated region without voxels is
            absent; a region that is not annotated is unknown.
        classes: Class name by question; for a multilabel question a tuple of names, empty if no class holds. The
            answer to a question that is not a key is unknown.
        patient: Identifier of the patient, which keeps cases of one patient in one fold.
        source: The data set from which the case comes.
    """

    annotated: tuple[str, ...]
    classes: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    patient: str | None = None
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the value of this case's key."""
        value: dict[str, Any] = {"annotated": list(self.annotated)}
        if self.classes:
            value["classes"] = {
                question: answer if isinstance(answer, str) else list(answer)
                for question, answer in self.classes.items()
            }
        for key in ("patient", "source"):
            if getattr(self, key) is not None:
                value[key] = getattr(self, key)
        return value


def annotatable(tasks: Sequence[Task], regressions: Sequence[RegressionTask] = ()) -> dict[str, tuple[str, ...]]:
    """Return the names that a case's `annotated` may list, with the regions each stands for (none for a regression).

    If a task and a region have the same name, the name means the task: `liver` is the whole task, `liver/liver` one
    region.
    """
    wholes = {task.name: task.regions for task in tasks} | {task.name: () for task in regressions}
    singles = {region: (region,) for task in tasks for region in task.regions}
    qualified = {f"{task.name}/{region}": (region,) for task in tasks for region in task.regions}
    names = qualified | singles | wholes
    return {name: names[name] for name in (*wholes, *singles, *qualified)}


def default_slots(n_regions: int) -> tuple[str, ...]:
    """Return slot names by position, the same for every task, so that all first regions share a channel."""
    return tuple(f"slot_{i}" for i in range(n_regions))


def parse_tasks(node: Node, regions: tuple[str, ...]) -> tuple[Task, ...]:
    """Read the segmentation tasks of `tasks`, which together must hold every region exactly once.

    Regions of two tasks may have common label values with or without the keys `overlaps` and `parent`. Label values
    decide which voxels are shared; the two keys describe the anatomy, also if no case annotates both tasks.

    Raises:
        TaskSetError: If a task is invalid, or a region is in no task or in two.
    """
    children = node.members("task names")
    if not children:
        raise node.error("is empty; add a task with its regions")
    segmenting = {name: child for name, child in children.items() if not is_regression(child)}
    if not segmenting:
        raise node.error("holds regression tasks only, and nnU-Net trains labels; add a task with regions (the body)")
    require_file_names(children, "a task")
    known = dict.fromkeys(regions)  # a dictionary: fast to search, and in order for messages
    owner: dict[str, str] = {}
    tasks = []
    for name, child in segmenting.items():
        tasks.append(_parse_task(name, child, segmenting, known))
        for region, place in child.fields(("regions",), _TASK_KEYS)["regions"].names("labels").items():
            if region in owner:
                raise place.error(f"region {shown(region)} is in task {shown(owner[region])} too; remove it from one")
            owner[region] = name
    for region in regions:
        if region not in owner:
            raise node.error(f'region {shown(region)} is in no task; add it to the "regions" of one')
        if region in children and owner[region] != region:
            raise children[region].error(f"a region of task {shown(owner[region])} has this name; rename one of them")
    _check_parents(tasks, children)
    require_file_names(_slot_places(segmenting), "a slot")
    return tuple(tasks)


_TASK_KEYS = ("slots", "parent", "overlaps", "type")


def _parse_task(name: str, node: Node, names: Collection[str], labels: Collection[str]) -> Task:
    fields = node.fields(("regions",), _TASK_KEYS)
    regions = fields["regions"].names("labels")
    if not regions:
        raise fields["regions"].error("is empty; list the labels of this task")
    for place in regions.values():
        place.known_name(labels, "label")
    slots = default_slots(len(regions))
    if "slots" in fields:
        slots = tuple(fields["slots"].names("slot names"))
        if len(slots) != len(regions):
            raise fields["slots"].error(f"has {len(slots)} entries for {len(regions)} regions; give one per region")
    parent = _other_task(fields["parent"], name, names) if "parent" in fields else None
    overlaps = fields["overlaps"].names("task names") if "overlaps" in fields else {}
    for place in overlaps.values():
        _other_task(place, name, names)
    kind = fields["type"].known_name(TYPES, "type") if "type" in fields else TYPES[0]
    return Task(name, tuple(regions), slots, parent, tuple(overlaps), kind)


def _slot_places(tasks: Mapping[str, Node]) -> dict[str, Node]:
    places: dict[str, Node] = {}
    for task in tasks.values():
        fields = task.fields(("regions",), _TASK_KEYS)
        for slot, place in fields["slots"].names("slot names").items() if "slots" in fields else ():
            places.setdefault(slot, place)
    return places


def _other_task(place: Node, name: str, names: Collection[str]) -> str:
    # list the other tasks for a refusal only: a list per task would make reading quadratic in the number of tasks
    other = place.name()
    if other != name and other in names:
        return other
    return place.known_name([candidate for candidate in names if candidate != name], "other task")


def _check_parents(tasks: list[Task], places: dict[str, Node]) -> None:
    parent_of = {task.name: task.parent for task in tasks}
    without_circle: set[str] = set()
    for task in tasks:
        path = dict.fromkeys([task.name])  # tasks from child to parent
        child = task.name
        while (parent := parent_of[child]) is not None and parent not in without_circle:
            if parent in path:
                walked = list(path)
                circle = listed([*walked[walked.index(parent) :], parent])
                place = places[parent].fields(("regions",), _TASK_KEYS)["parent"]
                raise place.error(f"parents run in a circle ({circle}); remove one")
            path[parent] = None
            child = parent
        without_circle.update(path)


def parse_classification(node: Node, regions: tuple[str, ...]) -> tuple[ClassificationTask, ...]:
    """Read the questions of `classification`; an invalid question raises TaskSetError."""
    children = node.members("names")
    require_file_names(children, "a question")
    return tuple(_parse_question(name, child, regions) for name, child in children.items())


def _parse_question(name: str, node: Node, regions: tuple[str, ...]) -> ClassificationTask:
    fields = node.fields(("kind", "classes"), ("evidence",))
    kind = fields["kind"].known_name(KINDS, "kind")
    places = fields["classes"].names("class names")
    require_file_names(places, "a class")
    classes = tuple(places)
    fewest = 1 if kind == "multilabel" else 2
    if len(classes) < fewest:
        raise fields["classes"].error(f"has {len(classes)} entries; {kind} needs at least {fewest} classes, add them")
    evidence = fields["evidence"].known_name(regions, "region") if "evidence" in fields else None
    return ClassificationTask(name, kind, classes, evidence)


def parse_cases(
    node: Node,
    tasks: Sequence[Task],
    questions: Sequence[ClassificationTask],
    regressions: Sequence[RegressionTask] = (),
) -> dict[str, Case]:
    """Read `cases`; an unknown task, question or class raises TaskSetError."""
    names = annotatable(tasks, regressions)
    by_name = {question.name: question for question in questions}
    children = node.members("case names")
    for case, child in children.items():
        if "/" in case:
            raise child.error("the name of a case must not contain a slash; rename it, and its files")
    return {case: _parse_case(child, names, by_name) for case, child in children.items()}


def _parse_case(node: Node, names: dict[str, tuple[str, ...]], questions: dict[str, ClassificationTask]) -> Case:
    fields = node.fields(("annotated",), ("classes", "patient", "source"))
    annotated = fields["annotated"].names("tasks or regions")
    listed_by: dict[str, str] = {}
    for name, place in annotated.items():
        for region in names[place.known_name(names, "task or region")]:
            if region in listed_by:
                raise place.error(
                    f"region {shown(region)} is listed by {shown(listed_by[region])} already; remove one of them"
                )
            listed_by[region] = name
    answers = fields["classes"].members("classification names") if "classes" in fields else {}
    classes = {name: _parse_answer(name, place, questions) for name, place in answers.items()}
    patient, source = (fields[key].name() if key in fields else None for key in ("patient", "source"))
    return Case(tuple(annotated), classes, patient, source)


def _parse_answer(name: str, node: Node, questions: dict[str, ClassificationTask]) -> str | tuple[str, ...]:
    Node(node.source, node.path, name).known_name(questions, "classification")
    question = questions[name]
    if question.kind != "multilabel":
        return node.known_name(question.classes, "class")
    return tuple(place.known_name(question.classes, "class") for place in node.names("class names").values())
