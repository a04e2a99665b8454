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


def test_the_same_experiment_goes_on(folder: Path) -> None:
    refuse_other_experiment(folder, PLANS, DATASET)
    refuse_other_experiment(folder / "new", PLANS, DATASET)


def test_tuples_are_lists_once_written(folder: Path) -> None:
    refuse_other_experiment(folder, PLANS, changed(DATASET, "labels", "a", value=(1, 2)))


@pytest.mark.parametrize(
    ("plans", "dataset_json", "message"),
    [
        (changed(PLANS, "nnunet_mtl", "settings", "epochs", value=6), DATASET, "settings.epochs is 5 there and 6 here"),
        (changed(PLANS, "nnunet_mtl", "tasks", "c", value={}), DATASET, "tasks.c is None there and {} here"),
        (
            changed(PLANS, "nnunet_mtl", "tasks", value=dict(reversed(PLANS["nnunet_mtl"]["tasks"].items()))),
            DATASET,
            r"tasks is in the order \['a', 'b'\] there and \['b', 'a'\] here",
        ),
        (PLANS, changed(DATASET, "labels", "a", value=[1]), r"labels.a is \[1, 2\] there and \[1\] here"),
    ],
)
def test_another_experiment_is_refused_with_the_difference(
    folder: Path, plans: dict[str, Any], dataset_json: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunFolderError, match=message):
        refuse_other_experiment(folder, plans, dataset_json)
