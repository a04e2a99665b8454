import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.progress import FILE_NAME, dice_per_task, logged_keys, pad_log, plot_progress


@pytest.fixture
def tasks() -> TaskSet:
    block: dict[str, Any] = {
        "version": 1,
        "tasks": {"liver": {"regions": ["liver", "tumour"]}, "spleen": {"regions": ["spleen"]}},
    }
    labels = {"background": 0, "liver": [1, 2], "spleen": [3], "tumour": [2]}
    return TaskSet.from_dataset_json({"labels": labels, "regions_class_order": [1, 3, 2], "nnunet_mtl": block})


def test_mean_over_the_regions_of_a_task(tasks: TaskSet) -> None:
    values = dice_per_task(tasks, np.array([0.5, math.nan, 0.9]))
    np.testing.assert_allclose(values["liver"], 0.7)
    assert math.isnan(values["spleen"])


def test_a_log_of_an_older_run_is_completed(tasks: TaskSet) -> None:
    log: dict[str, list[Any]] = {"task_dice/liver": [0.1, 0.2, 0.3, 0.4], "train_losses": [1.0]}
    keys = logged_keys(tasks, ["segmentation"])
    pad_log(log, keys, 3)
    assert log["task_dice/liver"] == [0.1, 0.2, 0.3]
    assert all(len(log[key]) == 3 for key in keys)
    assert all(math.isnan(value) for value in log["task_dice/spleen"])
    assert log["train_losses"] == [1.0]


def test_the_figure_is_written(tasks: TaskSet, tmp_path: Path) -> None:
    log = {key: [0.5, math.nan, 0.6] for key in [*logged_keys(tasks, ["segmentation"]), "val_losses"]}
    plot_progress(log, tasks, ["segmentation"], tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes().startswith(b"\x89PNG")
