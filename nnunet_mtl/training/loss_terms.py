"""The terms of a trainer's loss: what each is computed on, and which of them a batch teaches."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn

from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.composition import ComposedTrainer
from nnunet_mtl.training.image_level import BatchAnnotation
from nnunet_mtl.training.regression import RegressionTraining
from nnunet_mtl.training.segmentation_loss import LabelCriterion, LossMode, RegionCriterion, segmentation_loss


class LossTermsTrainer(ComposedTrainer):
    """A trainer whose loss has named terms.

    Attributes:
        loss_mode: What the segmentation loss is computed on, see `nnunet_mtl.training.segmentation_loss`.
        published_loss: The same where the setting `loss` is "published".
        task_losses: Whether every task is a term of the loss, and the loss their sum; else all annotated regions are
            averaged, and all answers. Where terms are weighted they are always those of tasks.
        regression: The values per voxel.
    """

    loss_mode: ClassVar[LossMode] = "masked"
    published_loss: ClassVar[LossMode] = "channel"
    task_losses: ClassVar[bool] = False
    regression: RegressionTraining
    bare_network: Any

    @classmethod
    def chosen_loss(cls, settings: Settings) -> LossMode:
        """Return what the segmentation loss of a run with these settings is computed on."""
        published = cls.loss_mode == "masked" and settings.loss == "published"
        return cls.published_loss if published else cls.loss_mode

    def _build_loss(self) -> nn.Module:
        stock = super()._build_loss()
        if self.enable_deep_supervision and self.family.outputs:
            stock.weight_factors = tuple(output.weight for output in self.family.outputs)
        if not self.label_manager.has_regions:
            least_dice = sum(stock.weight_factors) if self.enable_deep_supervision else 1.0
            return LabelCriterion(stock, offset=least_dice if self.settings.loss_weighting != "equal" else 0.0)
        loss = segmentation_loss(
            self.chosen_loss(self.settings),
            Layout.from_tasks(self.tasks),
            batch_dice=self.configuration_manager.batch_dice,
            use_ignore_label=self.label_manager.has_ignore_label,
            dice_weight=self.settings.dice_weight,
            bce_weight=self.settings.bce_weight,
        )
        if self.enable_deep_supervision:
            loss = DeepSupervisionWrapper(loss, stock.weight_factors)
        return RegionCriterion(loss)

    def _get_deep_supervision_scales(self) -> Any:
        """Return the size of every supervised output relative to the patch, (outputs, axes); None for one output."""
        outputs = self.family.outputs
        if not (outputs and self.enable_deep_supervision):
            return super()._get_deep_supervision_scales()
        of_stage = 1 / np.cumprod(np.vstack(self.configuration_manager.pool_op_kernel_sizes), axis=0)
        return [of_stage[output.stage].tolist() for output in outputs]

    @property
    def _each_task(self) -> bool:
        """Whether there is a term of the loss for every task."""
        return self.task_losses or self.settings.loss_weighting != "equal"

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """Names of the terms `compute_losses` returns, logged once per epoch."""
        answers = self.image_level.loss_terms(each=self._each_task)
        return (*self._regions_of_term(), *self.regression.loss_terms, *answers)

    def term_weights(self) -> Mapping[str, float]:
        """Return by what factor terms are multiplied in this epoch, 1 for those not named; a hook for trainers."""
        return {}

    def compute_losses(
        self, output: MultiTaskOutput, target: Tensor | list[Tensor], batch: BatchAnnotation
    ) -> dict[str, Tensor]:
        """Return the named terms of the loss, one scalar each; a hook for leaves.

        Args:
            output: Of the network, for the drawn tasks.
            target: nnU-Net's targets, one per scale of deep supervision, full resolution first.
            batch: What the loss may read; on the CPU: finding it costs no wait for the device.
        """
        conditioned, epoch = self.bare_network.conditioned, self.current_epoch
        segmentation = {
            term: float(self.segments) * self.loss(output.segmentation, target, batch.annotated & regions)
            for term, regions in self._regions_of_term().items()
        }
        values = self.regression.losses(output.regression, batch.voxels)
        answers = self.image_level.losses(output, batch, conditioned=conditioned, epoch=epoch, each=self._each_task)
        factors = self.term_weights()
        return {term: loss * factors.get(term, 1.0) for term, loss in {**segmentation, **values, **answers}.items()}

    def present(self, batch: BatchAnnotation) -> dict[str, bool]:
        """Return which terms of the loss anything in a batch teaches, in the order of `loss_terms`."""
        conditioned, epoch = self.bare_network.conditioned, self.current_epoch
        segmentation = {
            term: self.segments and bool((batch.annotated & regions).any())
            for term, regions in self._regions_of_term().items()
        }
        answers = self.image_level.present(batch, conditioned=conditioned, epoch=epoch, each=self._each_task)
        factors = self.term_weights()
        terms = {**segmentation, **self.regression.present(batch.voxels), **answers}
        return {term: there and factors.get(term, 1.0) > 0 for term, there in terms.items()}

    def _regions_of_term(self) -> dict[str, Tensor]:
        """Return the regions, (R,) bool, each segmentation term is about."""
        owner = torch.tensor(self.tasks.task_of_region)
        if not self._each_task:
            return {"segmentation": torch.ones_like(owner, dtype=torch.bool)}
        return {f"segmentation/{task.name}": owner == index for index, task in enumerate(self.tasks.tasks)}
