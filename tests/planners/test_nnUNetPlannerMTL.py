import inspect
import json
from importlib import import_module

import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.networks.unet import TaskGuidedPlainConvUNet

# Loaded dynamically: static checkers do not follow the mapping of planners/ into the package.
Planner = import_module("nnunet_mtl.planners.nnUNetPlannerMTL").nnUNetPlannerMTL


def test_constructor_takes_what_nnunet_passes():
    stock, ours = (inspect.signature(planner).parameters for planner in (ExperimentPlanner, Planner))
    assert list(ours) == list(stock)
    assert ours["plans_name"].default == "nnUNetMTLPlans"


def test_plans_name_a_network_that_nnunet_builds(tmp_path, monkeypatch):
    raw, preprocessed = (tmp_path / kind / "Dataset900_Toy" for kind in ("raw", "preprocessed"))
    for variable, folder in (("nnUNet_raw", raw), ("nnUNet_preprocessed", preprocessed)):
        folder.mkdir(parents=True)
        monkeypatch.setenv(variable, str(folder.parent))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    dataset_json = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "liver": [1, 2], "liver_tumour": [2]},
        "regions_class_order": [1, 2],
        "numTraining": 5,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case.nii.gz"], "label": "case.nii.gz"}},
    }
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    fingerprint = {
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [[1, 40, 48]] * 5,
        "spacings": [[999.0, 1.0, 1.0]] * 5,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))

    plans, _ = plan_experiment_dataset(900, Planner)

    configuration = PlansManager(plans).get_configuration("2d")
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        2,
        deep_supervision=False,
    )
    assert isinstance(network, TaskGuidedPlainConvUNet)
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *configuration.patch_size)).shape == (1, 2, *configuration.patch_size)
