import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset, preprocess_dataset
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.cli import main
from nnunet_mtl.discovery import look_up
from nnunet_mtl.lab.methods.catalogue import package_methods
from nnunet_mtl.networks.architecture import GUIDED, ArchitectureError
from nnunet_mtl.networks.dodnet.residual_unet import PublishedUNet
from nnunet_mtl.planning.folders import PlanningError
from nnunet_mtl.planning.network_size import NetworkSize
from nnunet_mtl.planning.plans import write_plans
from nnunet_mtl.planning.published import published_intensities
from nnunet_mtl.tasks.settings import Settings

# Loaded dynamically: static checkers do not follow the mapping of planners/ into the package.
Planner = import_module("nnunet_mtl.planners.nnUNetPlannerMTLPublished").nnUNetPlannerMTLPublished
INTENSITIES = {"max": 300, "mean": 50.0, "median": 50, "min": -100, "percentile_00_5": -90.0, "percentile_99_5": 280.0}


def lay_out(root: Path, monkeypatch: pytest.MonkeyPatch, depth: int = 100, channels: tuple[str, ...] = ("CT",)) -> Path:
    """A data set with a fingerprint; returns its folder of preprocessed data."""
    raw, preprocessed = (root / kind / "Dataset900_Toy" for kind in ("raw", "preprocessed"))
    for variable, folder in (("nnUNet_raw", raw), ("nnUNet_preprocessed", preprocessed)):
        folder.mkdir(parents=True)
        monkeypatch.setenv(variable, str(folder.parent))
    dataset_json = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": {"background": 0, "liver": [1, 2], "liver_tumour": [2]},
        "regions_class_order": [1, 2],
        "numTraining": 5,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case.nii.gz"], "label": "case.nii.gz"}},
    }
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    fingerprint = {
        "foreground_intensity_properties_per_channel": {
            str(index): {**INTENSITIES, "std": 30.0} for index in range(len(channels))
        },
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [[depth, 512, 512]] * 5,
        "spacings": [[2.5, 0.7, 0.7]] * 5,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return preprocessed


def test_constructor_takes_what_nnunet_passes() -> None:
    stock, ours = (inspect.signature(planner).parameters for planner in (ExperimentPlanner, Planner))
    assert list(ours) == list(stock)
    assert ours["plans_name"].default == "nnUNetMTLPublishedPlans"


def test_plans_are_the_published_ones_whatever_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessed = lay_out(tmp_path, monkeypatch)
    _, name = plan_experiment_dataset(900, Planner)
    assert name == "nnUNetMTLPublishedPlans"
    plans = json.loads((preprocessed / f"{name}.json").read_text())
    assert list(plans["configurations"]) == ["3d_fullres"]
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [64, 192, 192]
    assert configuration["batch_size"] == 2
    assert configuration["spacing"] == [1.5, 0.8, 0.8]
    assert configuration["data_identifier"] == "nnUNetMTLPublishedPlans_3d_fullres"
    assert configuration["normalization_schemes"] == ["CTNormalization"]
    assert configuration["batch_dice"] is False
    assert (plans["transpose_forward"], plans["transpose_backward"]) == ([0, 1, 2], [0, 1, 2])
    settings = Settings.from_mapping(plans["nnunet_mtl"]["settings"], "plans")
    assert (settings.epochs, settings.iterations, settings.initial_lr, settings.momentum) == (1000, 250, 0.01, 0.99)
    assert (settings.weight_decay, settings.deep_supervision, settings.mirroring) == (0.0, False, True)
    assert (settings.loss, settings.gates, settings.sampling) == ("published", "faithful", "cases")
    assert settings.dice_weight == settings.bce_weight == 1
    assert "head" not in plans["nnunet_mtl"]["settings"]  # trainers without a head of their own read these plans too


def test_a_configuration_has_all_that_nnunet_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, monkeypatch)
    monkeypatch.setattr(ExperimentPlanner, "static_estimate_VRAM_usage", staticmethod(lambda *_: 1))
    stock = ExperimentPlanner(900, overwrite_target_spacing=[1.5, 0.8, 0.8]).plan_experiment()
    ours = Planner(900).plan_experiment()
    assert ours.keys() - {"nnunet_mtl"} == stock.keys()
    published, planned = ours["configurations"]["3d_fullres"], stock["configurations"]["3d_fullres"]
    assert published.keys() == planned.keys()
    same = published.keys() - {"architecture", "patch_size", "batch_size", "data_identifier", "batch_dice"}
    assert {key: published[key] for key in same} == {key: planned[key] for key in same}


def test_nnunet_builds_the_network_of_the_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessed = lay_out(tmp_path, monkeypatch)
    Planner(900).plan_experiment()
    plans = PlansManager(str(preprocessed / "nnUNetMTLPublishedPlans.json"))
    configuration = plans.get_configuration("3d_fullres")
    with torch.device("meta"):
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            1,
            2,
            allow_init=False,
            deep_supervision=False,
        )
    assert type(network) is PublishedUNet
    trunk = network.encoder, network.fusion, network.decoder.stages
    assert sum(value.numel() for part in trunk for value in part.parameters()) == 17_285_920
    assert len(network.decoder.seg_layers) == 1


def test_a_spacing_that_is_given_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, monkeypatch)
    plans = Planner(900, overwrite_target_spacing=[3.0, 1.0, 1.0], plans_name="x").plan_experiment()
    assert plans["configurations"]["3d_fullres"]["spacing"] == [3.0, 1.0, 1.0]
    assert plans["configurations"]["3d_fullres"]["data_identifier"] == "x_3d_fullres"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nnunets_normalisation_is_the_published_clip(dtype: Any) -> None:
    properties = published_intensities({"0": {**INTENSITIES, "std": 30.0}}, ["CTNormalization"])
    image = np.array([-2000.0, -325.1, -325.0, -100.3, 0.0, 7.25, 325.0, 400.0, 3000.0], dtype)
    result = CTNormalization(False, properties["0"], dtype).run(image.copy())
    assert np.array_equal(result, np.clip(image, -325, 325) / dtype(325))
    assert result.min() == -1
    assert result.max() == 1
    assert properties["0"]["median"] == 50


def test_other_channels_keep_their_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, monkeypatch, channels=("CT", "PET"))
    plans = Planner(900).plan_experiment()
    of_ct, of_pet = plans["foreground_intensity_properties_per_channel"].values()
    assert (of_ct["mean"], of_ct["std"], of_ct["percentile_00_5"], of_ct["percentile_99_5"]) == (0, 325, -325, 325)
    assert of_pet == {**INTENSITIES, "std": 30.0}


def test_slices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, monkeypatch, depth=1)
    with pytest.raises(PlanningError, match="the published network is 3D"):
        Planner(900).plan_experiment()


def test_the_command_plans_and_says_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocessed = lay_out(tmp_path, monkeypatch)
    assert main(["plan-published", "-d", "900"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert "nnUNetv2_preprocess -d 900 -plans_name nnUNetMTLPublishedPlans -c 3d_fullres" in said
    for content in ("", "[]", None):
        (preprocessed / "dataset_fingerprint.json").unlink()
        if content is not None:
            (preprocessed / "dataset_fingerprint.json").write_text(content)
        assert main(["plan-published", "-d", "900"]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert "nnUNetv2_extract_fingerprint" in error
        assert ("dataset_fingerprint.json: is no fingerprint (" in error) == (content is not None)


def test_a_smaller_network_for_a_small_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, monkeypatch)
    Planner(900).plan_experiment()
    size = NetworkSize(patch_size=(16, 32, 32), features_per_stage=(4, 8, 8))
    options = {"network": size, "configurations": ["3d_fullres"], "assignments": ["epochs=2"]}
    plans = json.loads(write_plans(900, name="small", source="nnUNetMTLPublishedPlans", **options).read_text())
    configuration = plans["configurations"]["3d_fullres"]
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert kwargs["n_blocks_per_stage"] == [1, 2, 2]
    assert kwargs["n_conv_per_stage_decoder"] == [1, 1]
    assert kwargs["full_resolution_only"]
    assert configuration["patch_size"] == [16, 32, 32]
    assert configuration["data_identifier"] == "nnUNetMTLPublishedPlans_3d_fullres"
    settings = plans["nnunet_mtl"]["settings"]
    assert (settings["epochs"], settings["loss"], settings["weight_decay"]) == (2, "published", 0)


@pytest.fixture(scope="module")
def small_plans(prepared: Any) -> dict[str, Any]:
    """The published plans of the tiny data set, preprocessed, with a network and patch for a CPU."""
    Planner(900).plan_experiment()
    preprocess_dataset(900, "nnUNetMTLPublishedPlans", configurations=("3d_fullres",), num_processes=(1,))
    write_plans(
        900,
        name="published_small",
        source="nnUNetMTLPublishedPlans",
        network=NetworkSize(patch_size=(16, 32, 32), features_per_stage=(4, 8, 8)),
        configurations=["3d_fullres"],
        assignments=["epochs=1", "iterations=1", "val_iterations=1"],
    )
    plans: dict[str, Any] = prepared.plans("published_small")
    return plans


# Every method on nnU-Net's U-Nets; other families bring networks of their own.
METHODS = [method.name for method in package_methods() if method.trainer.family is GUIDED]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_trainers_train_the_published_plans_on_real_batches(
    method: str, small_plans: dict[str, Any], prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))

    def started(**settings: str) -> Any:
        plans, dataset_json = json.loads(json.dumps([small_plans, prepared.dataset_json]))
        plans["nnunet_mtl"]["settings"] |= settings
        trainer: Any = look_up(method)(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
        trainer.on_train_start()
        return trainer

    try:
        trainer = started()
    except ArchitectureError as refusal:  # of a classification head that reads what this network has not
        ((name, value),) = re.findall(r"nnunet_mtl plan --set (\w+)=(\w+)", str(refusal))
        trainer = started(**{name: value})
    assert type(trainer.bare_network) is PublishedUNet
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0
    batch = next(trainer.dataloader_train)
    assert float(batch["data"].abs().max()) <= 1.5  # clip / 325, then augmented; stock statistics give more than 3
    before = trainer.bare_network.encoder.stem.weight.detach().clone()
    trainer.on_train_epoch_start()
    output = trainer.train_step(batch)
    assert np.isfinite(output["loss"])
    assert not torch.equal(trainer.bare_network.encoder.stem.weight, before)
    assert [n for n, value in trainer.bare_network.named_parameters() if value.grad is None] == []
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(next(trainer.dataloader_val))["loss"])
    path = str(tmp_path / "checkpoint.pth")
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=False)["init_args"]["plans"]["configurations"]["3d_fullres"]
    assert saved["architecture"]["network_class_name"].endswith("dodnet.residual_unet.PublishedUNet")
    trainer.set_deep_supervision_enabled(False)
    with torch.no_grad():
        assert trainer.network(torch.zeros(1, 1, 16, 32, 32)).shape == (1, 5, 16, 32, 32)
