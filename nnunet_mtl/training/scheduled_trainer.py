"""nnU-Net's trainer with the numbers of the plans' settings.

nnU-Net gets a `dataset.json` without the case table, so that no file it saves holds the table.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mtl.tasks import without_cases
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.run_folder import refuse_other_checkpoint, refuse_other_experiment


class ScheduledTrainer(nnUNetTrainer):
    """Takes epochs, iterations, learning rate, momentum and mirroring from `plans["nnunet_mtl"]["settings"]`.

    The constructor has nnU-Net's signature, because the base class looks its arguments up by name.

    Attributes:
        defaults: Values of settings that replace the common defaults; a leaf may set them.
        settings: Settings of the run.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        self.settings = settings_in(plans, self.defaults)
        super().__init__(plans, configuration, fold, self.prepare(plans, configuration, dataset_json), device)
        self.num_epochs = self.settings.epochs
        self.num_iterations_per_epoch = self.settings.iterations
        self.num_val_iterations_per_epoch = self.settings.val_iterations
        self.save_every = self.settings.save_every
        self.initial_lr = self.settings.initial_lr
        self.weight_decay = self.settings.weight_decay
        self.oversample_foreground_percent = self.settings.oversample_foreground_percent
        self.enable_deep_supervision = self.settings.deep_supervision
        if self.output_folder_base is not None:
            # not later, because nnU-Net overwrites the plans in the folder when training begins
            refuse_other_experiment(Path(self.output_folder_base), plans, configuration, self.dataset_json)

    def prepare(self, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> dict[str, Any]:
        """Return the `dataset.json` that nnU-Net may save; called once, when `settings` is set.

        Args:
            plans: The plans; a subclass may change them in place, and nnU-Net saves them with the model.
            configuration: Name of the configuration that is trained.
            dataset_json: The data set's whole `dataset.json`.
        """
        return without_cases(dataset_json)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint as nnU-Net does.

        Raises:
            RunFolderError: If the checkpoint was trained with other plans or labels.
            ModelFolderError: If the checkpoint cannot be read.
        """
        if isinstance(filename_or_checkpoint, str):
            refuse_other_checkpoint(
                Path(filename_or_checkpoint), self.plans_manager.plans, self.configuration_name, self.dataset_json
            )
        super().load_checkpoint(filename_or_checkpoint)

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Return nnU-Net's optimiser and scheduler with the momentum of the settings."""
        optimizer, scheduler = super().configure_optimizers()
        for group in optimizer.param_groups:
            group["momentum"] = self.settings.momentum
        return optimizer, scheduler

    def _build_loss(self) -> Any:
        """Return nnU-Net's loss; a network of two stages has one scale, for which nnU-Net's weight would be 0 / 0."""
        with np.errstate(invalid="ignore"):
            loss = super()._build_loss()
        if self.enable_deep_supervision and len(loss.weight_factors) == 1:
            loss.weight_factors = (1.0,)
        return loss

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802 - nnU-Net's name
        """Return nnU-Net's augmentation geometry, without the mirroring that the settings switch off."""
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if not self.settings.mirroring:
            mirror_axes = None
        if not (self.settings.mirroring and self.settings.test_time_mirroring):
            self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, mirror_axes


def settings_in(plans: dict[str, Any], defaults: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """Read the settings of plans; a setting that the plans do not name comes from `defaults`, then from `Settings`.

    Raises:
        SettingsError: If a setting is unknown or has an invalid value.
    """
    source = f"{plans.get('plans_name', 'plans')}.json: nnunet_mtl.settings"
    named = plans.get("nnunet_mtl", {}).get("settings", {})
    return Settings.from_mapping({**defaults, **named} if isinstance(named, Mapping) else named, source)
