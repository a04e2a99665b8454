"""Plans of DoDNet's and TGNet's published training: network, patch, spacing, intensities, schedule.

Where the values come from:

- TGNet's paper: patches of 64 x 192 x 192, SGD with a learning rate of 0.01 that decays with power 0.9 over 1000
  epochs, Dice and cross-entropy, gates that are sigmoids (`gates` "faithful").
- DoDNet's released code: the network, batches of 2, 250 iterations per epoch, Nesterov momentum of 0.99, no weight
  decay, no deep supervision, spacing of 1.5 x 0.8 x 0.8 mm, intensities clipped at +-325 HU and divided by 325, cases
  drawn uniformly, Dice with its smoothing in the denominator, eight mirrored passes averaged.
- Choices of this package: the first axis has the spacing of 1.5 mm. 80 % of the published patches lie inside the
  annotated box with a margin; here nnU-Net centres patches on annotated foreground (`oversample_foreground_percent`
  0.8, which in a batch of two centres both). Augmentation and clipping of gradients are nnU-Net's. The trainer chooses
  the head: the dynamic head in `nnUNetTrainerTGNet` and `nnUNetTrainerDoDNet`.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.paths import nnUNet_preprocessed
from torch import nn

from nnunet_mtl.common.messages import one_line
from nnunet_mtl.datasets.fingerprint import FINGERPRINT_NAME, read_fingerprint
from nnunet_mtl.planning.folders import PlanningError, raw_folder
from nnunet_mtl.tasks import read_dataset_json

PATCH_SIZE = (64, 192, 192)
BATCH_SIZE = 2
SPACING_MM = (1.5, 0.8, 0.8)
LARGEST_HU = 325.0
FEATURES = (32, 64, 128, 256, 256)
SETTINGS: Mapping[str, Any] = {
    "epochs": 1000,
    "iterations": 250,
    "initial_lr": 0.01,
    "momentum": 0.99,
    "weight_decay": 0.0,
    "oversample_foreground_percent": 0.8,
    "deep_supervision": False,
    "sampling": "cases",
    "gates": "faithful",
    "loss": "published",
}
_CONFIGURATION = "3d_fullres"


def _require_files(dataset: str | int) -> None:
    """Refuse a broken `dataset.json` or fingerprint, which nnU-Net's planner reads without a check."""
    raw = raw_folder(dataset)
    read_dataset_json(raw / "dataset.json")
    fingerprint = Path(nnUNet_preprocessed, raw.name, FINGERPRINT_NAME)
    if fingerprint.is_file():
        read_fingerprint(fingerprint)


class PublishedPlanner(ExperimentPlanner):
    """Writes plans with one configuration, `3d_fullres`, as published, whatever the data set.

    `nnunet_mtl plan --from nnUNetMTLPublishedPlans` makes plans of smaller networks, patches and batches from these
    plans. The data are preprocessed for these plans alone.

    Constructor parameters are those of nnU-Net, which passes them by name. A given target spacing replaces the
    published spacing.

    Raises:
        PlanningError: If nnU-Net has no such data set or no fingerprint of the data set, or the images are 2D.
        UserError: If `dataset.json` or the fingerprint cannot be read.
    """

    network_class: type[nn.Module]

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = "nnUNetMTLPublishedPlans",
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        _require_files(dataset_name_or_id)
        spacing = list(SPACING_MM) if overwrite_target_spacing is None else overwrite_target_spacing
        try:
            super().__init__(
                dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name, spacing, suppress_transpose
            )
        except RuntimeError as error:  # no such data set, or no fingerprint
            raise PlanningError(f"{dataset_name_or_id}: {one_line(error)}") from None
        self.UNet_class = self.network_class
        self.lowres_creation_threshold = 0.0  # no 3d_lowres, whatever the size of the images

    def plan_experiment(self) -> dict[str, Any]:
        """Write the plans and return them."""
        if all(shape[0] == 1 for shape in self.dataset_fingerprint["shapes_after_crop"]):
            raise PlanningError(
                f"{self.dataset_name}: the published network is 3D and the images are 2D; use another planner"
            )
        plans: dict[str, Any] = super().plan_experiment()
        return plans

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, data_identifier: str, approximate_n_voxels_dataset: float, _cache: Any
    ) -> dict[str, Any]:
        """Return the published configuration. nnU-Net asks for 2D too; `save_plans` leaves that configuration out."""
        data_fn, data_kwargs, seg_fn, seg_kwargs = self.determine_resampling()
        probabilities_fn, probabilities_kwargs = self.determine_segmentation_softmax_export_fn()
        schemes, masks = self.determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        return {
            "data_identifier": data_identifier,
            "preprocessor_name": self.preprocessor_name,
            "batch_size": BATCH_SIZE,
            "patch_size": list(PATCH_SIZE),
            "median_image_size_in_voxels": median_shape,
            "spacing": spacing,
            "normalization_schemes": schemes,
            "use_mask_for_norm": masks,
            "resampling_fn_data": data_fn.__name__,
            "resampling_fn_seg": seg_fn.__name__,
            "resampling_fn_data_kwargs": data_kwargs,
            "resampling_fn_seg_kwargs": seg_kwargs,
            "resampling_fn_probabilities": probabilities_fn.__name__,
            "resampling_fn_probabilities_kwargs": probabilities_kwargs,
            "architecture": published_architecture(self.UNet_class),
        }

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Return an identifier with the name of these plans, because the default plans have another spacing."""
        return f"{self.plans_identifier}_{configuration_name}"

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the plans with their one configuration, the published intensities and the settings."""
        for name in [name for name in plans["configurations"] if name != _CONFIGURATION]:
            del plans["configurations"][name]
        properties = plans["foreground_intensity_properties_per_channel"]
        schemes = plans["configurations"][_CONFIGURATION]["normalization_schemes"]
        plans["foreground_intensity_properties_per_channel"] = published_intensities(properties, schemes)
        plans["nnunet_mtl"] = {"settings": dict(SETTINGS)}
        super().save_plans(plans)


def published_intensities(properties: Mapping[str, Any], schemes: list[str]) -> dict[str, Any]:
    """Return intensity statistics with which nnU-Net's CTNormalization computes clip(x, -325, 325) / 325.

    Args:
        properties: nnU-Net's statistics by channel; the statistics of channels that are not CT stay.
        schemes: Name of nnU-Net's normalisation for every channel.
    """
    result = deepcopy(dict(properties))
    for channel, scheme in enumerate(schemes):
        if scheme == "CTNormalization":
            limits = {"percentile_00_5": -LARGEST_HU, "percentile_99_5": LARGEST_HU, "mean": 0.0, "std": LARGEST_HU}
            result[str(channel)] = {**result.get(str(channel), {}), **limits}
    return result


def published_architecture(network_class: type[nn.Module]) -> dict[str, Any]:
    """Return the `architecture` block of the published network."""
    stages = len(FEATURES)
    return {
        "network_class_name": f"{network_class.__module__}.{network_class.__name__}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(FEATURES),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3] for _ in range(stages)],
            "strides": [[1, 1, 1], *([2, 2, 2] for _ in range(stages - 1))],
            "n_blocks_per_stage": [1, *[2] * (stages - 1)],
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "full_resolution_only": True,
        },
        "_kw_requires_import": ["conv_op"],
    }
