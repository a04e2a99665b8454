"""The setting in which methods are compared: a stock network and a task set, from a plans file or by default."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.common.messages import did_you_mean
from nnunet_mtl.planning.folders import PlanningError, only_plans, preprocessed_folder, read_plans
from nnunet_mtl.tasks import TaskSet, read_dataset_json
from nnunet_mtl.training.regression import without_regressions

# Tasks of the TGNet paper (Wu, Pang, Sowmya, ISBI 2022), with what is annotated for each.
_TASKS = {
    "liver": ("organ", "tumour"),
    "kidney": ("organ", "tumour"),
    "hepatic_vessel": ("organ", "tumour"),
    "pancreas": ("organ", "tumour"),
    "colon": ("tumour",),
    "lung": ("tumour",),
    "spleen": ("organ",),
}


@dataclass(frozen=True)
class Setting:
    """A stock network and the tasks it is to learn.

    Attributes:
        title: Description of the setting for the reader.
        architecture: Stock `architecture` block of a configuration.
        patch_size: In voxels.
        input_channels: Number of image channels.
        tasks: The tasks, without image-level questions, because the comparison is about segmentation.
        block: The plans' own `nnunet_mtl` block, whose settings trainers read.
    """

    title: str
    architecture: Mapping[str, Any]
    patch_size: tuple[int, ...]
    input_channels: int
    tasks: TaskSet
    block: Mapping[str, Any]


def chosen_setting(dataset: str | None, plans: str | None, configuration: str | None) -> Setting:
    """Return the setting that a command line asks for.

    Args:
        dataset: Id or name; None for the default setting, or for the data set of the plans.
        plans: Name of the data set's plans, nnUNetPlans if None; or the path of a plans file with a `dataset.json`
            beside it, as in nnU-Net's folders of preprocessed data and of results. A name without a data set is
            searched in all preprocessed data.
        configuration: 3d_fullres if None.

    Raises:
        PlanningError: If only a configuration is given, or if the plans or the configuration are missing or ambiguous.
        TaskSetError: If the data set's tasks cannot be read.
    """
    chosen = configuration or "3d_fullres"
    if dataset is not None:
        return setting_of(preprocessed_folder(dataset) / f"{plans or 'nnUNetPlans'}.json", chosen)
    if plans is not None:
        return setting_of(Path(plans) if plans.endswith(".json") else only_plans(plans), chosen)
    if configuration:
        raise PlanningError("-c is of plans: give them with -p, or the data set with -d")
    return default_setting()


def default_setting() -> Setting:
    """Return nnU-Net's default 3D network (six stages, patch of 128 voxels a side), and the seven tasks of TGNet."""
    stages = 6
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [32, 64, 128, 256, 320, 320],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    return Setting("nnU-Net's default 3D network", architecture, (128,) * 3, 1, _seven_tasks(), {})


def setting_of(path: Path, configuration: str) -> Setting:
    """Return the setting of a configuration of planned data.

    Args:
        path: The plans file, beside which the data set's `dataset.json` lies.
        configuration: Name such as 3d_fullres.

    Raises:
        PlanningError: If the plans or the configuration do not exist.
        TaskSetError: If the data set's tasks cannot be read.
    """
    plans, folder = read_plans(path), path.resolve().parent
    if configuration not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        wrong = f"{configuration!r}{did_you_mean(configuration, plans['configurations'])}"
        raise PlanningError(f"{path.name}: no configuration {wrong}; known are {known}: give another -c")
    dataset_json = read_dataset_json(folder / "dataset.json")
    tasks = TaskSet.from_dataset_json(dataset_json, str(folder / "dataset.json"))
    manager = PlansManager(copy.deepcopy(plans))
    resolved = manager.get_configuration(configuration)
    return Setting(
        f"{path.stem}, {configuration} of {folder.name}",
        resolved.configuration["architecture"],
        tuple(resolved.patch_size),
        determine_num_input_channels(manager, resolved, dataset_json) - len(tasks.regressions),
        replace(without_regressions(tasks), classification=()),
        plans.get("nnunet_mtl", {}),
    )


def _seven_tasks() -> TaskSet:
    labels: dict[str, Any] = {"background": 0}
    tasks: dict[str, Any] = {}
    leaf = 0
    for task, slots in _TASKS.items():
        regions = [f"{task}_{slot}" for slot in slots]
        leaves = list(range(leaf + 1, leaf + 1 + len(slots)))
        leaf += len(slots)
        # An organ holds its tumour; the vessel's tumours are outside it.
        nested = leaves if task != "hepatic_vessel" else leaves[:1]
        labels.update(zip(regions, [nested, leaves[1:]] if len(slots) == 2 else [nested], strict=True))
        tasks[task] = {"regions": regions, "slots": list(slots)}
    return TaskSet.from_dataset_json(
        {
            "labels": labels,
            "regions_class_order": list(range(1, leaf + 1)),
            "nnunet_mtl": {"version": 1, "tasks": tasks},
        }
    )
