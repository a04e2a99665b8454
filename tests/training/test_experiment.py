"""What a run trains on is read once, and what of it is saved names no case."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_mtl.tasks import TaskSet, TaskSetError, without_cases
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention
from nnunet_mtl.trainers.nnUNetTrainerMTLNoAttention import nnUNetTrainerMTLNoAttention
from nnunet_mtl.trainers.nnUNetTrainerOMNet import nnUNetTrainerOMNet
from nnunet_mtl.trainers.nnUNetTrainerSTLCls import nnUNetTrainerSTLCls
from nnunet_mtl.training.experiment import Experiment, without_case_table


def experiment_of(prepared: Any, trainer: Any = nnUNetTrainerMTLAttention, **settings: Any) -> Experiment:
    return Experiment.resolve(prepared.plans("tiny"), prepared.dataset_json, Settings(**settings), trainer)


@pytest.mark.parametrize("trainer_class", [nnUNetTrainerMTLAttention, nnUNetTrainerOMNet])
def test_block_and_settings_are_parsed_once(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer_class: Any
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    parsed: list[str] = []
    for reader, method in ((TaskSet, "from_dataset_json"), (Settings, "from_mapping")):
        original = getattr(reader, method)

        def counted(*args: Any, original: Any = original, method: str = method) -> Any:
            parsed.append(method)
            return original(*args)

        monkeypatch.setattr(reader, method, counted)
    plans = prepared.plans("tiny")
    trainer = trainer_class(plans, "3d_fullres", 0, json.loads(json.dumps(prepared.dataset_json)), torch.device("cpu"))
    assert sorted(parsed) == ["from_dataset_json", "from_mapping"]
    assert trainer.experiment.settings is trainer.settings


def test_the_task_set_without_cases_is_that_of_a_dataset_json_without_them(prepared: Any) -> None:
    experiment = experiment_of(prepared)
    assert experiment.tasks == TaskSet.from_dataset_json(without_cases(prepared.dataset_json))
    assert experiment.cases == TaskSet.from_dataset_json(prepared.dataset_json)
    assert without_case_table(experiment.tasks) == experiment.tasks


def test_what_is_saved_of_an_experiment_names_no_case(prepared: Any) -> None:
    experiment = experiment_of(prepared)
    plans = prepared.plans("tiny")
    experiment.write_into(plans, "3d_fullres", lambda stock, *_: stock)
    saved = json.dumps([plans, experiment.dataset_json, repr(experiment)])
    assert "liver_000" in json.dumps(prepared.dataset_json)
    assert "liver_000" not in saved
    assert plans["nnunet_mtl"]["settings"] == experiment.settings.to_mapping()


def test_questions_without_a_weight_are_left_out_and_refused_where_nothing_else_is_learnt(prepared: Any) -> None:
    assert experiment_of(prepared).cases.classification
    assert experiment_of(prepared, nnUNetTrainerMTLNoAttention, class_weight=0.0).cases.classification == ()
    with pytest.raises(TaskSetError, match="nnUNetTrainerSTLCls needs at least one question"):
        experiment_of(prepared, nnUNetTrainerSTLCls, class_weight=0.0)
