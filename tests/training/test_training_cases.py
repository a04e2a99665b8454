import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_mtl.tasks import TaskSet, TaskSetError
from nnunet_mtl.training.training_cases import refuse_unknown_foreground

SOMEWHERE = [[0, 1, 2, 3]]


@pytest.fixture
def tasks() -> TaskSet:
    block: dict[str, Any] = {
        "version": 1,
        "tasks": {
            "liver": {"regions": ["liver"], "overlaps": ["vessel"]},
            "vessel": {"regions": ["vessel"]},
            "spleen": {"regions": ["spleen"]},
        },
        "cases": {"one": {"annotated": ["liver"]}},
    }
    labels = {"background": 0, "liver": [1, 2], "vessel": [2], "spleen": [3, 3]}
    return TaskSet.from_dataset_json({"labels": labels, "regions_class_order": [1, 2, 3], "nnunet_mtl": block})


def dataset(folder: Path, locations: dict[Any, Any]) -> Any:
    (folder / "one.pkl").write_bytes(pickle.dumps({"class_locations": locations}))
    return SimpleNamespace(source_folder=str(folder), identifiers=["one"])


def test_annotated_foreground_and_what_lies_in_it_may_be_there(tasks: TaskSet, tmp_path: Path) -> None:
    locations = {(1, 2): SOMEWHERE, 2: SOMEWHERE, (3, 3): []}
    refuse_unknown_foreground(tasks, [dataset(tmp_path, locations)])


def test_foreground_nobody_was_to_annotate_is_refused(tasks: TaskSet, tmp_path: Path) -> None:
    locations = {(1, 2): SOMEWHERE, 2: [], (3, 3): SOMEWHERE}
    with pytest.raises(TaskSetError, match=r"not annotated in their case: one \(spleen\)\. ") as error:
        refuse_unknown_foreground(tasks, [dataset(tmp_path, locations)])
    for remedy in ("add it to `annotated` and run `nnunet_mtl sync`", "set its labels to 0 in labelsTr and preprocess"):
        assert remedy in str(error.value)


def test_of_many_cases_ten_are_named_and_all_are_counted(tasks: TaskSet, tmp_path: Path) -> None:
    found = dataset(tmp_path, {(3, 3): SOMEWHERE})
    found.identifiers = [f"case_{number:02d}" for number in range(25)]
    block = tasks.to_block()
    block["cases"] = {case: {"annotated": ["liver"]} for case in found.identifiers}
    content = {"labels": {"background": 0, "liver": [1, 2], "vessel": [2], "spleen": [3, 3]}, "nnunet_mtl": block}
    for case in found.identifiers:
        (tmp_path / f"{case}.pkl").write_bytes((tmp_path / "one.pkl").read_bytes())
    many = TaskSet.from_dataset_json(content | {"regions_class_order": [1, 2, 3]})
    with pytest.raises(TaskSetError, match=r"case_09 \(spleen\) and 15 more\. "):
        refuse_unknown_foreground(many, [found, found])


def test_a_data_set_without_block_is_not_read(tmp_path: Path) -> None:
    tasks = TaskSet.from_dataset_json({"labels": {"background": 0, "a": 1}})
    refuse_unknown_foreground(tasks, [SimpleNamespace(source_folder="nowhere", identifiers=["one"])])


def test_labels_are_found_in_the_order_they_were_written(tasks: TaskSet, tmp_path: Path) -> None:
    labels = {"background": 0, "liver": [2, 1], "vessel": [2], "spleen": [4, 3]}
    content = {"labels": labels, "regions_class_order": [1, 2, 3], "nnunet_mtl": tasks.to_block()}
    written = TaskSet.from_dataset_json(content)
    with pytest.raises(TaskSetError, match=r"one \(spleen\)"):
        refuse_unknown_foreground(written, [dataset(tmp_path, {(2, 1): SOMEWHERE, 2: [], (4, 3): SOMEWHERE})])
