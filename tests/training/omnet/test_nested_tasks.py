from typing import Any

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.omnet.nested_tasks import ancestors, nested_tasks, notes, parents

BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def task_set(labels: dict[str, Any], tasks: dict[str, Any] | None = None, cases: Any = None, **more: Any) -> TaskSet:
    """Regions are painted with their own value."""
    values = [value for name, value in labels.items() if name != "background"]
    inner = [set(value) if isinstance(value, list) else {value} for value in values]
    order = [min(value - set().union(*(o for o in inner if o < value))) for value in inner]
    dataset_json: dict[str, Any] = {"labels": labels, "regions_class_order": order}
    if tasks is not None:
        dataset_json["nnunet_mtl"] = {"version": 1, "tasks": tasks, "cases": cases or {}, **more}
    return TaskSet.from_dataset_json(dataset_json)


def described(tasks: TaskSet) -> list[tuple[str, tuple[str, ...], str | None]]:
    return [(task.name, task.regions, task.parent) for task in tasks.tasks]


CHAIN = [("whole", ("whole",), None), ("core", ("core",), "whole"), ("enhancing", ("enhancing",), "core")]


def test_a_region_data_set_without_the_block_is_a_chain() -> None:
    tasks = nested_tasks(task_set(BRATS))
    assert described(tasks) == CHAIN
    assert parents(tasks) == (-1, 0, 1)
    assert tasks.annotated("any case") == (True, True, True)
    assert tasks.task_of_region == (0, 1, 2)


def test_parents_of_the_block_are_kept() -> None:
    of = {name: {"regions": [name]} for name in ("whole", "core", "enhancing")}
    of["core"]["parent"], of["enhancing"]["parent"] = "whole", "core"
    cases = {"a": {"annotated": ["whole", "core"]}}
    tasks = task_set(BRATS, of, cases)
    nested = nested_tasks(tasks)
    assert described(nested) == CHAIN
    assert nested.annotated("a") == (True, True, False)
    assert notes(tasks) == ["nested tasks: core in whole, enhancing in core"]


def test_one_task_of_nested_regions_is_cut_and_its_cases_keep_what_was_annotated() -> None:
    labels = {"background": 0, "liver": [1, 2], "tumour": [2], "kidney": [3, 4], "left": [3], "spleen": [5]}
    of = {
        "liver": {"regions": ["liver", "tumour"], "slots": ["organ", "lesion"]},
        "kidneys": {"regions": ["left", "kidney"]},
        "spleen": {"regions": ["spleen"]},
    }
    question = {"q": {"kind": "nominal", "classes": ["a", "b"]}}
    cases = {
        "x": {"annotated": ["liver"], "patient": "p", "classes": {"q": "a"}},
        "y": {"annotated": ["tumour", "spleen", "left"]},
        "z": {"annotated": ["liver/liver"]},
    }
    tasks = task_set(labels, of, cases, classification=question)
    nested = nested_tasks(tasks)
    assert described(nested) == [
        ("liver", ("liver",), None),
        ("tumour", ("tumour",), "liver"),
        ("kidneys", ("kidney",), None),
        ("left", ("left",), "kidneys"),
        ("spleen", ("spleen",), None),
    ]
    assert nested.tasks[1].slots == ("lesion",)
    for case in cases:
        assert nested.annotated(case) == tasks.annotated(case)
    assert nested.cases["x"].patient == "p"
    assert nested.cases["x"].classes == {"q": "a"}
    assert described(nested_tasks(nested)) == described(nested)
    assert nested.compact()["classification"] == tasks.compact()["classification"]


def test_outermost_regions_stay_together_and_the_smallest_region_around_is_the_parent() -> None:
    labels = {"background": 0, "all": [1, 2, 3, 4], "some": [2, 3], "inner": [3], "beside": [5]}
    tasks = nested_tasks(task_set(labels))
    assert described(tasks) == [
        ("all", ("all", "beside"), None),
        ("some", ("some",), "all"),
        ("inner", ("inner",), "some"),
    ]
    assert ancestors(parents(tasks), 2) == (1, 0)


def test_a_parent_that_is_cut_holds_the_child_in_its_smallest_part() -> None:
    of = {"tumour": {"regions": ["whole", "core"]}, "enhancing": {"regions": ["enhancing"], "parent": "tumour"}}
    assert described(nested_tasks(task_set(BRATS, of))) == [
        ("tumour", ("whole",), None),
        ("core", ("core",), "tumour"),
        ("enhancing", ("enhancing",), "core"),
    ]


def test_a_parent_without_the_childs_labels_is_not_followed_and_that_is_said() -> None:
    labels = {"background": 0, "liver": [1, 1], "vessel": [2, 2], "inside": [3, 3]}
    of = {
        "liver": {"regions": ["liver"]},
        "vessel": {"regions": ["vessel"], "parent": "liver"},
        "inside": {"regions": ["inside"]},
    }
    tasks = task_set(labels, of)
    assert parents(nested_tasks(tasks)) == (-1, -1, -1)
    first, second = notes(tasks)
    assert first.startswith("no task lies inside another one")
    assert second == (
        "vessel is trained as if it had no parent: liver does not hold its labels; add them to its region"
    )


def test_a_missing_parent_is_hinted_at() -> None:
    of = {name: {"regions": [name]} for name in ("whole", "core", "enhancing")}
    lines = notes(task_set(BRATS, of))
    assert len(lines) == 3
    assert lines[1] == 'core lies inside whole, but names no "parent": it is not nested'
    assert lines[2].startswith("enhancing lies inside whole, core,")


def test_names_that_are_taken_are_changed() -> None:
    of = {"core": {"regions": ["whole", "core"]}, "rest": {"regions": ["enhancing"]}}
    assert [task.name for task in nested_tasks(task_set(BRATS, of)).tasks] == ["core", "core_", "rest"]


def test_regression_tasks_stay_annotated() -> None:
    labels = {"background": 0, "body": [1, 2], "target": [2]}
    of = {"seg": {"regions": ["body", "target"]}, "dose": {"type": "regression", "channel": 1, "inside": "body"}}
    dataset_json = {
        "channel_names": {"0": "CT", "1": "noNorm"},
        "labels": labels,
        "regions_class_order": [1, 2],
        "nnunet_mtl": {"version": 1, "tasks": of, "cases": {"a": {"annotated": ["seg", "dose"]}}},
    }
    tasks = nested_tasks(TaskSet.from_dataset_json(dataset_json))
    assert tasks.regressed("a") == (True,)
    assert tasks.annotated("a") == (True, True)


def test_a_data_set_without_regions_has_nothing_nested() -> None:
    tasks = TaskSet.from_dataset_json({"labels": {"background": 0, "a": 1, "b": 2}})
    assert nested_tasks(tasks) is tasks
    assert len(notes(tasks)) == 1
