import pytest
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset

from nnunet_mtl.planning.planner import MultiTaskPlanner


class AnotherUNet(PlainConvUNet):
    """A network that is not the default's, of the same size."""


class AnotherPlanner(MultiTaskPlanner):
    network_class = AnotherUNet


def test_plans_differ_from_the_default_only_in_the_network(unplanned, planned_files):
    plans, name = plan_experiment_dataset(900, AnotherPlanner)
    assert name == "nnUNetMTLPlans"
    written = unplanned.read("nnUNetMTLPlans.json")
    assert written["plans_name"] == name
    (unplanned.preprocessed / "nnUNetPlans.json").write_text(planned_files["nnUNetPlans.json"])
    stock = unplanned.read("nnUNetPlans.json")
    for configuration in ("2d", "3d_fullres"):
        planned = written["configurations"][configuration]
        assert planned["data_identifier"] == f"nnUNetPlans_{configuration}"
        network = planned["architecture"].pop("network_class_name")
        assert network == f"{AnotherUNet.__module__}.AnotherUNet"
        del stock["configurations"][configuration]["architecture"]["network_class_name"]
        assert planned == stock["configurations"][configuration]
    assert plans["experiment_planner_used"] == "AnotherPlanner"


@pytest.mark.parametrize(
    "options",
    [
        {"overwrite_target_spacing": [2.0, 1.0, 1.0]},
        {"preprocessor_name": "OtherPreprocessor"},
        {"suppress_transpose": True},
    ],
)
def test_other_data_are_not_shared(unplanned, options):
    planner = AnotherPlanner(900, **options)
    assert planner.generate_data_identifier("3d_fullres") == "nnUNetMTLPlans_3d_fullres"


def test_low_resolution_is_never_shared(unplanned):
    assert AnotherPlanner(900).generate_data_identifier("3d_lowres") == "nnUNetMTLPlans_3d_lowres"
    assert AnotherPlanner(900, plans_name="x").generate_data_identifier("3d_lowres") == "x_3d_lowres"


def test_options_reach_nnunet(unplanned):
    planner = AnotherPlanner(900, gpu_memory_target_in_gb=24, plans_name="x", suppress_transpose=True)
    assert (planner.UNet_vram_target_GB, planner.plans_identifier, planner.suppress_transpose) == (24, "x", True)
    assert isinstance(planner, ExperimentPlanner)
