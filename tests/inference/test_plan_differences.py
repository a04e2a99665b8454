import json
from copy import deepcopy
from typing import Any

import pytest

from nnunet_mtl.inference.plan_differences import described, label_differences, plan_differences

NAN = float("nan")
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset900_Tiny",
    "plans_name": "tiny",
    "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "experiment_planner_used": "ExperimentPlanner",
    "foreground_intensity_properties_per_channel": {"0": {"mean": 3.5, "std": NAN}},
    "configurations": {
        "2d": {"patch_size": [16, 16]},
        "3d_fullres": {
            "data_identifier": "tiny_3d",
            "batch_size": 2,
            "patch_size": [16, 16, 16],
            "median_image_size_in_voxels": [20, 24, 24],
            "spacing": [1.0, 1.0, 1.0],
            "normalization_schemes": ["CTNormalization"],
            "resampling_fn_data_kwargs": {"order": 3},
            "architecture": {"arch_kwargs": {"features_per_stage": [4, 8, 8], "kernel_sizes": [[3, 3, 3]] * 10}},
            "batch_dice": False,
        },
        "child": {"inherits_from": "3d_fullres", "batch_size": 4},
    },
    "nnunet_mtl": {"tasks": {"a": {}, "b": {}}, "settings": {"epochs": 5}},
}


def with_value(*path: str, value: Any) -> dict[str, Any]:
    plans = deepcopy(PLANS)
    inner = plans
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return plans


def found(plans: dict[str, Any], configuration: str = "3d_fullres", *, training: bool = True) -> str:
    differences = plan_differences(PLANS, plans, configuration, training=training)
    return described(differences, "there", "here") if differences else ""


def of_configuration(*path: str, value: Any) -> dict[str, Any]:
    return with_value("configurations", "3d_fullres", *path, value=value)


@pytest.mark.parametrize(
    ("plans", "text"),
    [
        (of_configuration("patch_size", value=[16, 16, 8]), "patch_size is [16, 16, 16] there and [16, 16, 8] here"),
        (of_configuration("spacing", value=[1, 1, 2]), "spacing is [1.0, 1.0, 1.0] there and [1, 1, 2] here"),
        (of_configuration("resampling_fn_data_kwargs", "order", value=1), "kwargs.order is 3 there and 1 here"),
        (of_configuration("normalization_schemes", value=["ZScoreNormalization"]), "normalization_schemes is ['CT"),
        (of_configuration("architecture", "arch_kwargs", "features_per_stage", value=[4, 8]), "per_stage is [4, 8, 8]"),
        (of_configuration("previous_stage", value="2d"), "previous_stage is missing there and '2d' here"),
        (of_configuration("of_a_later_nnunet", value=1), "of_a_later_nnunet is missing there and 1 here"),
    ],
)
@pytest.mark.parametrize("configuration", ["3d_fullres", "child"])
@pytest.mark.parametrize("training", [True, False])
def test_that_what_training_and_prediction_read_is_compared_also_where_it_is_inherited(
    plans: dict[str, Any], text: str, configuration: str, training: bool
) -> None:
    differences = found(plans, configuration, training=training)
    assert differences.startswith(f"{configuration}.")
    assert text in differences
    assert "\n" not in differences


@pytest.mark.parametrize(
    ("plans", "text"),
    [
        (with_value("transpose_forward", value=[1, 0, 2]), "transpose_forward is [0, 1, 2] there and [1, 0, 2] here"),
        (with_value("image_reader_writer", value="NibabelIO"), "image_reader_writer is 'SimpleITKIO' there and"),
        (
            with_value("foreground_intensity_properties_per_channel", "0", "mean", value=4),
            "foreground_intensity_properties_per_channel.0.mean is 3.5 there and 4 here",
        ),
        (with_value("nnunet_mtl", "tasks", value={"b": {}, "a": {}}), "the order of nnunet_mtl.tasks is ['a', 'b']"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_that_what_all_configurations_share_is_compared(plans: dict[str, Any], text: str, training: bool) -> None:
    assert found(plans, training=training).startswith(text)


@pytest.mark.parametrize(
    "plans",
    [
        of_configuration("batch_size", value=3),
        of_configuration("batch_dice", value=True),
        of_configuration("data_identifier", value="other"),
        of_configuration("next_stage", value="2d"),
        with_value("nnunet_mtl", "settings", "epochs", value=6),
    ],
)
def test_that_what_training_alone_reads_does_not_count_in_prediction(plans: dict[str, Any]) -> None:
    assert found(plans)
    assert not found(plans, training=False)


@pytest.mark.parametrize(
    "plans",
    [
        deepcopy(PLANS),
        json.loads(json.dumps(PLANS)),  # not the same NaN
        of_configuration("patch_size", value=(16, 16, 16)),
        of_configuration("median_image_size_in_voxels", value=[1, 1, 1]),
        with_value("configurations", "2d", "patch_size", value=[8, 8]),
        with_value("experiment_planner_used", value="another"),
        with_value("original_median_spacing_after_transp", value=[2, 2, 2]),
        with_value("dataset_name", value="Dataset901_Moved"),
        with_value("continue_training", value=True),
        with_value("configurations", "3d_fullres", value=dict(reversed(PLANS["configurations"]["3d_fullres"].items()))),
    ],
)
def test_that_what_nothing_reads_does_not_count(plans: dict[str, Any]) -> None:
    assert not found(plans)


def test_that_inheritance_itself_is_no_difference() -> None:
    plans = with_value("configurations", "child", value=PLANS["configurations"]["3d_fullres"] | {"batch_size": 4})
    assert not found(plans, "child")


def test_that_long_lists_and_many_differences_are_cut_to_one_short_line() -> None:
    plans = of_configuration("architecture", "arch_kwargs", "kernel_sizes", value=[[3, 3, 3]] * 9 + [[1, 3, 3]])
    kernels = "3d_fullres.architecture.arch_kwargs.kernel_sizes[9] is [3, 3, 3] there and [1, 3, 3] here"
    assert found(plans) == kernels
    other = {**plans, **{f"key {number}": "x" * 1000 for number in range(9)}}
    text = found(other)
    assert text.startswith(kernels)
    assert text.endswith("; and 6 more")
    assert len(text) < 500


def test_that_labels_their_order_and_the_channels_are_compared_and_nothing_else() -> None:
    labels = {"background": 0, "liver": [1, 2], "tumour": [2]}
    content = {"labels": labels, "regions_class_order": [1, 2], "channel_names": {"0": "CT"}, "numTraining": 3}
    assert not label_differences(content, {**content, "numTraining": 4, "nnunet_mtl": {}})
    other = {**content, "labels": dict(reversed(labels.items()))}
    assert described(label_differences(content, other), "there", "here").startswith("the order of labels is")
    channels = described(label_differences(content, {**content, "channel_names": {"0": "MR"}}), "there", "here")
    assert channels == "channel_names.0 is 'CT' there and 'MR' here"
