import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_mtl.training.run_folder import RunFolderError, refuse_other_experiment

PLANS: dict[str, Any] = {"nnunet_mtl": {"tasks": {"a": {"regions": ["a"]}, "b": {}}, "settings": {"epochs": 5}}}
DATASET: dict[str, Any] = {"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": [1]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plans.json").write_text(json.dumps(PLANS))
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    return tmp_path


def changed(content: dict[str, Any], *path: str, value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(content))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


def refuse(folder: Path, plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    refuse_other_experiment(folder, plans, "2d", dataset_json)


def test_the_same_experiment_goes_on(folder: Path) -> None:
    refuse(folder, PLANS, DATASET)
    refuse(folder / "new", PLANS, DATASET)


def test_tuples_are_lists_once_written(folder: Path) -> None:
    refuse(folder, PLANS, changed(DATASET, "labels", "a", value=(1, 2)))


@pytest.mark.parametrize(
    ("plans", "dataset_json", "message"),
    [
        (changed(PLANS, "nnunet_mtl", "settings", "epochs", value=6), DATASET, "settings.epochs is 5 there and 6 here"),
        (changed(PLANS, "nnunet_mtl", "tasks", "c", value={}), DATASET, "tasks.c is missing there and {} here"),
        (
            changed(PLANS, "nnunet_mtl", "tasks", value=dict(reversed(PLANS["nnunet_mtl"]["tasks"].items()))),
            DATASET,
            r"the order of nnunet_mtl.tasks is \['a', 'b'\] there and \['b', 'a'\] here",
        ),
        (PLANS, changed(DATASET, "labels", "a", value=[1]), r"labels.a is \[1, 2\] there and \[1\] here"),
        (changed(PLANS, "spacing", value=[1.0]), DATASET, r"spacing is missing there and \[1.0\] here"),
    ],
)
def test_another_experiment_is_refused_with_the_difference(
    folder: Path, plans: dict[str, Any], dataset_json: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunFolderError, match=message):
        refuse(folder, plans, dataset_json)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_a_damaged_file_of_the_folder_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    with pytest.raises(RunFolderError, match=rf"{name}: cannot be read \(Expecting property name.*; move the folder"):
        refuse(folder, PLANS, DATASET)
