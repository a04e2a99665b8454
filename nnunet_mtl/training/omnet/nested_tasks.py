"""Makes nested tasks, each with one head, one pool and one term of the loss, from the tasks of a data set.

Tasks are nested by `parent`; regions of one task are nested by their label values. A BraTS data set of nnU-Net, for
example, is one task of three regions, and each region contains the next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnunet_mtl.common.messages import listed, spelt
from nnunet_mtl.tasks import Case, Task, TaskSet

Labels = Mapping[str, frozenset[int]]


def nested_tasks(tasks: TaskSet) -> TaskSet:
    """Return the task set in which every region inside another region of its task becomes a task.

    The outermost regions of a task stay one task with its name (without a block, a single one has the region's name).
    An inner region becomes a task with the region's name; its parent is the task of the smallest region around. The
    `parent` of a task in the block becomes the smallest nested task of that parent which holds all labels of the task.
    If there is none, the `parent` is dropped: a vessel with a label outside the liver would be cut off by the liver.
    The annotated regions of cases stay the same, and a second call changes nothing.

    Args:
        tasks: The task set, with or without cases.
    """
    if not tasks.has_regions:
        return tasks
    labels = _labels(tasks)
    made: dict[str, list[Task]] = {}
    taken = {task.name for task in tasks.tasks}
    for task in tasks.tasks:
        made[task.name] = _split(task, labels, taken, keeps_name=tasks.has_block)
        taken |= {part.name for part in made[task.name]}
    for task in tasks.tasks:
        if task.parent is not None:
            first, *others = made[task.name]
            made[task.name] = [replace(first, parent=_around(first, made[task.parent], labels)), *others]
    finer = tuple(part for parts in made.values() for part in parts)
    owner = {region: task.name for task in finer for region in task.regions}
    cases = {name: _qualified(tasks, name, owner) for name in tasks.cases}
    return replace(tasks, tasks=finer, cases=cases)


def parents(tasks: TaskSet) -> tuple[int, ...]:
    """Return the index of every task's parent, -1 for none."""
    names = [task.name for task in tasks.tasks]
    return tuple(-1 if task.parent is None else names.index(task.parent) for task in tasks.tasks)


def ancestors(parent_of_task: Sequence[int], task: int) -> tuple[int, ...]:
    """Return the indices of a task's parent, the parent's parent and so on, the nearest first."""
    line: list[int] = []
    while (task := parent_of_task[task]) >= 0:
        line.append(task)
    return tuple(line)


def notes(tasks: TaskSet) -> list[str]:
    """Return lines for the log: the nested tasks, every `parent` that is not followed, and every missing `parent`.

    Args:
        tasks: The task set of `dataset.json`.
    """
    nested, labels = nested_tasks(tasks), _labels(tasks)
    inside = [f"{spelt(task.name)} in {spelt(task.parent)}" for task in nested.tasks if task.parent is not None]
    lines = [f"nested tasks: {', '.join(inside)}"] if inside else []
    if not inside:
        lines.append(
            'no task lies inside another one, so nothing is guided or transferred: name a "parent" in '
            "nnunet_mtl.tasks, whose regions hold the labels of the task"
        )
    by_name = {task.name: task for task in nested.tasks}
    for task in tasks.tasks:
        if task.parent is not None and by_name[_first(task, nested).name].parent is None:
            lines.append(
                f"{spelt(task.name)} is trained as if it had no parent: {spelt(task.parent)} does not hold its labels; "
                "add them to its region"
            )
    if not tasks.has_regions:
        return lines
    for task in tasks.tasks:
        around = [other.name for other in tasks.tasks if _union(task, labels) < _union(other, labels)]
        if task.parent is None and around:
            lines.append(f'{spelt(task.name)} lies inside {listed(around)}, but names no "parent": it is not nested')
    return lines


def _labels(tasks: TaskSet) -> Labels:
    return {region: frozenset(values) for region, values in zip(tasks.regions, tasks.region_labels, strict=True)}


def _union(task: Task, labels: Labels) -> frozenset[int]:
    return frozenset().union(*(labels[region] for region in task.regions))


def _first(task: Task, nested: TaskSet) -> Task:
    return next(part for part in nested.tasks if set(part.regions) & set(task.regions))


def _split(task: Task, labels: Labels, taken: set[str], *, keeps_name: bool) -> list[Task]:
    """Return a task with the outermost regions of `task`, followed by one task for every inner region."""
    slot = dict(zip(task.regions, task.slots, strict=True))
    around = {
        region: min(
            (other for other in task.regions if labels[region] < labels[other]),
            key=lambda other: len(labels[other]),
            default=None,
        )
        for region in task.regions
    }
    outermost = tuple(region for region in task.regions if around[region] is None)
    if len(outermost) == len(task.regions):
        return [task]
    alone = outermost[0] if len(outermost) == 1 and not keeps_name else task.name
    name_of = dict.fromkeys(outermost, alone)
    for region in task.regions:
        if region not in name_of:
            name_of[region] = region
            while name_of[region] in taken | {name_of[other] for other in name_of if other != region}:
                name_of[region] += "_"
    first = replace(task, name=alone, regions=outermost, slots=tuple(slot[region] for region in outermost))
    inner = [
        Task(name_of[region], (region,), (slot[region],), parent=name_of[outer])
        for region, outer in around.items()
        if outer is not None
    ]
    return [first, *inner]


def _around(task: Task, outer: Sequence[Task], labels: Labels) -> str | None:
    """Return the name of the smallest task in `outer` that holds all labels of `task`, or None."""
    inner = _union(task, labels)
    holding = [other for other in outer if inner <= _union(other, labels)]
    return min(holding, key=lambda other: len(_union(other, labels))).name if holding else None


def _qualified(tasks: TaskSet, case: str, owner: Mapping[str, str]) -> Case:
    """Return a case that lists its annotated regions one by one, under the names of the nested tasks."""
    known = [region for region, is_known in zip(tasks.regions, tasks.annotated(case), strict=True) if is_known]
    regressed = [task.name for task in tasks.regressions if task.name in tasks.cases[case].annotated]
    return replace(tasks.cases[case], annotated=(*(f"{owner[region]}/{region}" for region in known), *regressed))
