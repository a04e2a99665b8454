import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.planning.folders import only_plans
from nnunet_mtl.planning.network_size import NetworkSize
from nnunet_mtl.planning.plans import write_plans


def without(plans: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in plans.items() if key not in keys}


def test_settings_land_and_nothing_else_changes(dataset):
    path = write_plans(900, name="nnUNetPlans_e50", assignments=["epochs=50", "gates=faithful"])
    assert path == dataset.preprocessed / "nnUNetPlans_e50.json"
    new, stock = json.loads(path.read_text()), dataset.read("nnUNetPlans.json")
    assert new["plans_name"] == "nnUNetPlans_e50"
    assert new["nnunet_mtl"] == {"settings": {"epochs": 50, "gates": "faithful"}}
    changed = ("plans_name", "nnunet_mtl")
    assert json.dumps(without(new, *changed)) == json.dumps(without(stock, *changed))
    assert list(new) == [*stock, "nnunet_mtl"]


def test_preprocessed_data_are_those_of_the_source(dataset):
    new = PlansManager(
        str(write_plans("Dataset900_Toy", name="other", network=SMALL_3D, configurations=["3d_fullres"]))
    )
    stock = PlansManager(str(dataset.preprocessed / "nnUNetPlans.json"))
    assert new.available_configurations == stock.available_configurations
    for name in stock.available_configurations:
        identifier = new.get_configuration(name).data_identifier
        assert identifier == stock.get_configuration(name).data_identifier == f"nnUNetPlans_{name}"


def test_settings_of_the_source_are_kept(dataset):
    write_plans(900, name="first", assignments=["epochs=50", "momentum=0.9"])
    write_plans(900, source="first", name="second", assignments=["epochs=60"])
    assert dataset.read("second.json")["nnunet_mtl"]["settings"] == {"epochs": 60, "momentum": 0.9}


def test_same_plans_again_are_no_conflict_and_others_are(dataset):
    path = write_plans(900, name="mine", assignments=["epochs=50"])
    before = path.stat().st_mtime_ns
    write_plans(900, name="mine", assignments=["epochs=50"])
    assert path.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"mine\.json: other plans of that name are there"):
        write_plans(900, name="mine", assignments=["epochs=51"])
    assert dataset.read("mine.json")["nnunet_mtl"]["settings"]["epochs"] == 50
    write_plans(900, name="mine", assignments=["epochs=51"], overwrite=True)
    assert dataset.read("mine.json")["nnunet_mtl"]["settings"]["epochs"] == 51


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": 901}, "data set 901: none of that id in nnUNet_preprocessed.*, there are Dataset900_Toy; run"),
        ({"dataset": "Dataset902_Nope"}, r"Dataset902_Nope.*is not there.*; run nnUNetv2_plan_and_preprocess"),
        ({"dataset": "toy"}, r"data set 'toy': none of that id.*\(did you mean Dataset900_Toy\?\)"),
        ({"dataset": "Dataset900_Tpy"}, r"is not there \(did you mean Dataset900_Toy\?\); run"),
        ({"source": "nnUNetPlan"}, r"nnUNetPlan.json: no such plans \(did you mean nnUNetPlans\?\); there are"),
        ({"source": "nope"}, "nope.json: no such plans; there are nnUNetPlans, nnUNetResEncUNetMPlans"),
        ({"source": "dataset"}, "dataset.json: not a plans file"),
        ({"name": "nnUNetPlans"}, "another name than those they are made from"),
        ({"name": "a__b"}, "a plans name has letters"),
        ({"name": "../a"}, "a plans name has letters"),
        ({"name": "a.json"}, "a plans name has letters"),
        ({"name": "a" * 121}, "must not be longer than 120 characters, and has 121"),
        ({"name": "NNUNETPLANS"}, "differs from nnUNetPlans, which is there, only in case"),
        ({"name": "dataset", "overwrite": True}, "dataset.json: not a plans file"),
        ({"assignments": ["epoch=5"]}, "unknown setting 'epoch'"),
        ({"assignments": ["epochs=0"]}, "epochs=0 must be at least 1"),
        ({"configurations": ["3d"]}, r"no configuration '3d' \(did you mean 3d_fullres\?\); known are 2d, 3d_fullres"),
        ({"network": NetworkSize(batch_size=2)}, "name the configuration that the network size is for"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(dataset, arguments, message):
    before = {file: file.read_bytes() for file in dataset.preprocessed.iterdir()}
    with pytest.raises(UserError, match=message) as error:
        write_plans(**{"dataset": 900, "name": "new", **arguments})
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in dataset.preprocessed.iterdir()} == before


def test_unknown_setting_in_the_source_is_named_with_its_file(dataset):
    plans = {**dataset.read("nnUNetPlans.json"), "nnunet_mtl": {"settings": {"epoch": 5}}}
    (dataset.preprocessed / "old.json").write_text(json.dumps(plans))
    with pytest.raises(UserError, match=r"old\.json: nnunet_mtl\.settings: unknown setting 'epoch'"):
        write_plans(900, source="old", name="new")


@pytest.mark.parametrize("text", ["{", "[]", '{"configurations": 3}'])
def test_broken_source_is_refused(dataset, text):
    (dataset.preprocessed / "broken.json").write_text(text)
    with pytest.raises(UserError, match=r"broken\.json: not a"):
        write_plans(900, source="broken", name="new")


def test_variable_that_is_not_set_is_named(dataset, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(UserError, match="nnUNet_preprocessed is not set"):
        write_plans(900, name="new")


def test_plans_of_any_name_are_known(dataset):
    write_plans(900, name="tiny", assignments=["epochs=5"])
    with pytest.raises(UserError, match=r"no such plans \(did you mean tiny\?\); there are nnUNetPlans, .*, tiny:"):
        write_plans(900, name="new", source="tini")
    with pytest.raises(UserError, match=r"plans 'tini' \(did you mean tiny\?\): data sets that have them: none"):
        only_plans("tini")


def test_several_folders_of_one_id_are_named(dataset):
    (dataset.preprocessed.parent / "Dataset900_Twin").mkdir()
    with pytest.raises(UserError, match="several names in nnU-Net's folders: Dataset900_Toy, Dataset900_Twin; rename"):
        write_plans(900, name="new")


SMALL_3D = NetworkSize(patch_size=(8, 32, 32), batch_size=3, features_per_stage=(4, 6, 9))
SMALL_2D = NetworkSize(patch_size=(32, 48), features_per_stage=(4, 5, 6, 7))


@pytest.mark.parametrize("source", ["nnUNetPlans", "nnUNetResEncUNetMPlans"])
@pytest.mark.parametrize(("configuration", "size"), [("2d", SMALL_2D), ("3d_fullres", SMALL_3D)])
def test_small_network_is_built_by_nnunet_and_runs(dataset, source, configuration, size):
    path = write_plans(900, source=source, name="small", network=size, configurations=[configuration])
    small = PlansManager(str(path)).get_configuration(configuration)
    network = get_network_from_plans(
        small.network_arch_class_name,
        small.network_arch_init_kwargs,
        small.network_arch_init_kwargs_req_import,
        1,
        4,
        deep_supervision=True,
    )
    outputs = network(torch.zeros(2, 1, *small.patch_size))
    assert tuple(small.patch_size) == size.patch_size
    assert outputs[0].shape == (2, 4, *size.patch_size)
    assert len(outputs) == len(size.features_per_stage) - 1
    assert tuple(network.encoder.output_channels) == size.features_per_stage
    planned = PlansManager(str(dataset.preprocessed / f"{source}.json")).get_configuration(configuration)
    assert small.batch_size == (size.batch_size or planned.batch_size)


def test_only_the_named_configuration_changes(dataset):
    path = write_plans(900, name="small", network=SMALL_3D, configurations=["3d_fullres"])
    new, stock = json.loads(path.read_text()), dataset.read("nnUNetPlans.json")
    assert new["configurations"]["2d"] == stock["configurations"]["2d"]
    assert new["configurations"]["3d_fullres"] != stock["configurations"]["3d_fullres"]
    changed = ("patch_size", "batch_size", "architecture")
    assert json.dumps(without(new["configurations"]["3d_fullres"], *changed)) == json.dumps(
        without(stock["configurations"]["3d_fullres"], *changed)
    )


def test_configuration_that_inherits_takes_a_size_of_its_own(dataset):
    plans = dataset.read("nnUNetPlans.json")
    plans["configurations"]["3d_wide"] = {"inherits_from": "3d_fullres", "batch_size": 7}
    (dataset.preprocessed / "wide.json").write_text(json.dumps(plans))
    size = NetworkSize(features_per_stage=(4, 6, 9))
    manager = PlansManager(str(write_plans(900, source="wide", name="new", network=size, configurations=["3d_wide"])))
    wide, fullres = manager.get_configuration("3d_wide"), manager.get_configuration("3d_fullres")
    assert wide.batch_size == 7
    assert wide.network_arch_init_kwargs["features_per_stage"] == [4, 6, 9]
    assert fullres.network_arch_init_kwargs == plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]


def test_failure_while_writing_leaves_the_old_plans(dataset, failing_disk):
    path: Path = write_plans(900, name="mine")
    before, files = path.read_bytes(), sorted(path.parent.iterdir())
    failing_disk()
    with pytest.raises(OSError, match="No space left"):
        write_plans(900, name="mine", assignments=["epochs=5"], overwrite=True)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == files
