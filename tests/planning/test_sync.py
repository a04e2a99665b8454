import json
from collections.abc import Callable
from typing import Any

import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.planning.sync import sync
from nnunet_mtl.tasks import TaskSet


def test_block_as_planned_is_up_to_date_and_not_written(dataset):
    path = dataset.preprocessed / "dataset.json"
    before = path.stat()
    message = sync(900)
    assert "up to date (tasks liver, kidney, spleen; 30 cases)" in message
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_edited_block_arrives_and_only_the_block(dataset, dataset_json):
    stale = TaskSet.from_dataset_json(dataset.read("dataset.json")).fingerprint()
    dataset_json["nnunet_mtl"]["cases"]["liver_00"]["annotated"] = []
    dataset_json["numTraining"] = 31
    dataset_json["description"] = "edited too"
    dataset.write_raw(dataset_json)
    assert "changed (tasks liver" in sync(900)
    copied = dataset.read("dataset.json")
    fresh = TaskSet.from_dataset_json(copied)
    assert fresh.fingerprint() == TaskSet.from_dataset_json(dataset_json).fingerprint() != stale
    assert not any(fresh.annotated("liver_00"))
    assert copied["numTraining"] == 30
    assert "description" not in copied
    assert "up to date" in sync(900)


def test_key_order_is_kept_and_counts(dataset, dataset_json):
    tasks = dataset_json["nnunet_mtl"]["tasks"]
    dataset_json["nnunet_mtl"]["tasks"] = {name: tasks[name] for name in reversed(tasks)}
    order = list(dataset.read("dataset.json"))
    dataset.write_raw(dataset_json)
    assert "changed (tasks spleen, kidney, liver;" in sync(900)
    assert list(dataset.read("dataset.json")) == order
    assert list(dataset.read("dataset.json")["nnunet_mtl"]["tasks"]) == ["spleen", "kidney", "liver"]


def test_block_added_after_planning_arrives_and_a_removed_one_goes(dataset, dataset_json):
    block = dataset_json.pop("nnunet_mtl")
    dataset.write_raw(dataset_json)
    assert "changed (no nnunet_mtl block: one task, every case annotated)" in sync(900)
    assert "nnunet_mtl" not in dataset.read("dataset.json")
    assert "up to date (no nnunet_mtl block" in sync(900)
    dataset.write_raw({**dataset_json, "nnunet_mtl": block})
    assert "changed" in sync(900)
    assert dataset.read("dataset.json")["nnunet_mtl"] == block


def edit_labels(dataset_json: dict[str, Any]) -> None:
    dataset_json["labels"]["spleen"] = [5]
    dataset_json["labels"]["vessel"] = [1, 4]
    dataset_json["regions_class_order"] = [1, 2, 3, 5, 4]
    dataset_json["nnunet_mtl"]["tasks"]["vessel"] = {"regions": ["vessel"]}


def reorder_labels(dataset_json: dict[str, Any]) -> None:
    labels = dataset_json["labels"]
    dataset_json["labels"] = {
        name: labels[name] for name in ("background", "liver", "liver_tumour", "spleen", "kidney")
    }
    dataset_json["regions_class_order"] = [1, 2, 4, 3]


def edit_channels(dataset_json: dict[str, Any]) -> None:
    dataset_json["channel_names"] = {"0": "MRI"}


@pytest.mark.parametrize(
    ("edit", "key"), [(edit_labels, "labels"), (reorder_labels, "labels"), (edit_channels, "channel_names")]
)
def test_what_needs_planning_is_refused(dataset, dataset_json, edit: Callable[[dict[str, Any]], None], key: str):
    before = (dataset.preprocessed / "dataset.json").read_bytes()
    edit(dataset_json)
    dataset.write_raw(dataset_json)
    with pytest.raises(UserError, match=f"'{key}' differs from .*run nnUNetv2_plan_and_preprocess -d 900 again"):
        sync(900)
    assert (dataset.preprocessed / "dataset.json").read_bytes() == before


def test_block_that_is_wrong_is_not_copied(dataset, dataset_json):
    before = (dataset.preprocessed / "dataset.json").read_bytes()
    dataset_json["nnunet_mtl"]["cases"]["liver_00"]["annotated"] = ["lung"]
    dataset.write_raw(dataset_json)
    with pytest.raises(UserError, match=r"liver_00.*lung"):
        sync(900)
    assert (dataset.preprocessed / "dataset.json").read_bytes() == before


def test_data_set_that_is_not_planned_is_refused(unplanned):
    with pytest.raises(UserError, match=r"preprocessed.*dataset\.json is not there; run nnUNetv2_plan_and_preprocess"):
        sync(900)


def test_failure_while_writing_leaves_the_old_copy(dataset, dataset_json, failing_disk):
    before, files = (dataset.preprocessed / "dataset.json").read_bytes(), sorted(dataset.preprocessed.iterdir())
    dataset_json["nnunet_mtl"]["cases"]["liver_00"]["annotated"] = []
    dataset.write_raw(dataset_json)
    failing_disk()
    with pytest.raises(OSError, match="No space left"):
        sync(900)
    assert (dataset.preprocessed / "dataset.json").read_bytes() == before
    assert sorted(dataset.preprocessed.iterdir()) == files
    assert json.loads(before) == dataset.read("dataset.json")
