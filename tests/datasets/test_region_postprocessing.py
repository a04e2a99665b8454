from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing

from nnunet_mtl.datasets import region_postprocessing
from nnunet_mtl.datasets.region_postprocessing import (
    Maps,
    RegionRule,
    fitted_on_restricted_maps,
    judge,
    region_rules,
    write_mark,
)
from nnunet_mtl.tasks import TaskSet

LABELS = {"background": 0, "liver": [1, 2], "tumour": [2], "kidney": [3, 3]}


def taskset(labels: Any = None, tasks: Any = None, annotated: Any = None, **keys: Any) -> TaskSet:
    labels = LABELS | (labels or {})
    tasks = tasks or {"liver": {"regions": ["liver", "tumour"]}, "kidney": {"regions": ["kidney"]}}
    block = {"version": 1, "tasks": tasks}
    if annotated is not None:
        block["cases"] = {case: {"annotated": done} for case, done in annotated.items()}
    order = [values[0] for name, values in labels.items() if name not in ("background", "ignore")]
    return TaskSet.from_dataset_json({"labels": labels, "regions_class_order": order, "nnunet_mtl": block} | keys)


def rules(tasks: TaskSet) -> dict[str, RegionRule]:
    return {tasks.regions[rule.region]: rule for rule in region_rules(tasks)}


def rows(text: str) -> Any:
    return np.array([int(letter) for letter in text.replace(".", "0")], np.uint8).reshape(1, 1, -1)


def kept(rule: RegionRule, text: str) -> str:
    function, words = rule.as_nnunet()
    result = apply_postprocessing(rows(text), [function], [words])
    return "".join(map(str, result.ravel())).replace("0", ".")


def test_what_is_dropped_of_an_inner_region_is_its_organ_s_again() -> None:
    found = rules(taskset())
    assert list(found) == ["liver", "tumour", "kidney"]
    assert kept(found["tumour"], "1221121133.3") == "1221111133.3"
    # what lies inside a dropped component goes with it, and nothing of another region
    assert kept(found["liver"], "12211.21.33.3") == "12211....33.3"
    assert kept(found["kidney"], "12211.21.33.3") == "12211.21.33.."


@pytest.mark.parametrize("way", ["liver", "kidney"])
def test_regions_of_tasks_that_overlap_have_no_rule(way: str) -> None:
    tasks = {"liver": {"regions": ["liver", "tumour"]}, "kidney": {"regions": ["kidney"]}}
    tasks[way]["overlaps"] = ["kidney" if way == "liver" else "liver"]
    assert rules(taskset(tasks=tasks)) == {}


def test_another_task_s_region_inside_leaves_its_organ_without_a_rule_unless_it_is_a_child() -> None:
    tasks: Any = {"liver": {"regions": ["liver"]}, "tumour": {"regions": ["tumour"]}, "kidney": {"regions": ["kidney"]}}
    assert list(rules(taskset(tasks=tasks))) == ["tumour", "kidney"]
    tasks["tumour"]["parent"] = "liver"
    assert rules(taskset(tasks=tasks))["liver"].inner == (1,)


class Reader:
    """Stands for nnU-Net's: label maps by path."""

    def __init__(self, maps: dict[str, str]) -> None:
        self.maps = maps

    def read_seg(self, path: str) -> tuple[Any, dict[str, Any]]:
        return rows(self.maps[path])[None], {}


class OneProcess:
    """Stands for a pool: calls here."""

    def __init__(self, n_processes: int) -> None:
        pass

    def __enter__(self) -> "OneProcess":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def starmap(self, function: Any, arguments: Any) -> list[Any]:
        return [function(*each) for each in arguments]


def judged(monkeypatch: pytest.MonkeyPatch, cases: dict[str, tuple[str, str, list[str]]]) -> dict[str, Any]:
    """Judge predictions; by case: map, reference, what is annotated."""
    monkeypatch.setattr(region_postprocessing, "get_context", lambda way: type("Context", (), {"Pool": OneProcess}))
    tasks = taskset(annotated={case: done for case, (_, _, done) in cases.items()})
    files = {f"p/{case}.x": predicted for case, (predicted, _, _) in cases.items()}
    files |= {f"r/{case}.x": reference for case, (_, reference, _) in cases.items()}
    annotated = {case: tasks.annotated(case) for case in cases}
    found = judge(Maps(Path("p"), Path("r"), ".x", Reader(files), annotated, tasks), 1)
    return {tasks.regions[known.rule.region]: known for known in found}


def test_a_rule_is_judged_where_its_region_is_annotated(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(
        monkeypatch,
        {
            "a": ("1111..1..3.", "1111.......", ["liver"]),
            "b": ("1.11.....33", "...........", ["kidney"]),  # liver that nobody annotated, in two parts
            "c": (".......3.33", ".......3.33", ["kidney"]),
        },
    )
    assert {name: known.kept for name, known in found.items()} == {"liver": True, "tumour": False, "kidney": False}
    assert (found["liver"].n_cases, found["kidney"].n_cases) == (1, 2)
    assert (found["liver"].before, found["liver"].after) == (pytest.approx(8 / 9), 1.0)
    assert np.isnan(found["tumour"].before)


def test_a_rule_that_costs_what_lies_inside_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {"a": ("1111.2.....", "1111.......", ["liver"]), "b": ("11111.22.1.", "11111.22...", ["liver"])}
    found = judged(monkeypatch, lost)
    assert not found["liver"].kept
    without = judged(monkeypatch, {"a": lost["a"]})  # a tumour that is not there is not lost
    assert without["liver"].kept


def test_only_what_nnunet_fitted_itself_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "trainer__plans__3d" / "crossval_results_folds_0"
    folder.mkdir(parents=True)
    save_pickle(([], []), str(folder / "postprocessing.pkl"))
    assert fitted_on_restricted_maps(tmp_path) == [folder / "postprocessing.pkl"]
    write_mark(folder, (), taskset())
    assert fitted_on_restricted_maps(tmp_path) == []
    save_pickle(([], [1]), str(folder / "postprocessing.pkl"))  # by a later call of nnU-Net's command
    assert fitted_on_restricted_maps(tmp_path) == [folder / "postprocessing.pkl"]
    assert fitted_on_restricted_maps(tmp_path, "other__plans__*") == []
    (folder / "postprocessing.json").write_text("{")
    assert fitted_on_restricted_maps(tmp_path, "trainer__plans__*") == [folder / "postprocessing.pkl"]
