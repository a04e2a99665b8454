"""The terms of a trainer's loss: what each is computed on, and which of them a batch teaches."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.batch_annotation import BatchAnnotation
from nnunet_mtl.training.course import Course
from nnunet_mtl.training.gradient_aggregation import METHODS as AGGREGATES_GRADIENTS
from nnunet_mtl.training.image_level import ImageLevelTraining
from nnunet_mtl.training.regression import RegressionTraining

Targets = Tensor | list[Tensor]


class LossTerms:
    """The named terms of the loss.

    Args:
        course: The tasks that are trained, and the weights of their terms in every epoch.
        image_level: The questions about whole images.
        regression: The values per voxel.
        settings: Settings of the run.
        each_task: Whether every task and every question has a term, as always where terms are weighted; if not, all
            annotated regions are averaged in one term and all answers in another.
        segments: Whether the segmentation is learnt; if not, its terms are zero, and attached to the network all the
            same.

    Attributes:
        course: The tasks that are trained.
        image_level: The questions about whole images.
        regression: The values per voxel.
        names: Names of the terms, in their order.
    """

    def __init__(
        self,
        course: Course,
        image_level: ImageLevelTraining,
        regression: RegressionTraining,
        settings: Settings,
        *,
        each_task: bool,
        segments: bool,
    ) -> None:
        self.course, self.image_level, self.regression = course, image_level, regression
        tasks = course.cases
        self._settings = settings
        self._each_task = each_task or settings.loss_weighting != "equal"
        self._segments = segments
        owner = torch.tensor(tasks.task_of_region)
        # by the name of a segmentation term the regions it is about, (R,) bool
        self._regions = {"segmentation": torch.ones_like(owner, dtype=torch.bool)}
        if self._each_task:
            self._regions = {f"segmentation/{task.name}": owner == index for index, task in enumerate(tasks.tasks)}
        answers = image_level.loss_terms(per_question=self._each_task)
        self.names: tuple[str, ...] = (*self._regions, *regression.loss_terms, *answers)

    def describe(self, trainer: str) -> Iterator[str]:
        """Say in lines for the log what is trained; messages name the trainer."""
        yield f"{len(self.course.cases.tasks)} tasks, settings {self._settings}"
        if not self.course.cases.has_regions:
            yield (
                "no label has several values, so the loss is nnU-Net's softmax loss: the settings loss, "
                "dice_weight and bce_weight change nothing"
            )
        if text := self.regression.describe(trainer):
            yield text
        if self._settings.loss_weighting in AGGREGATES_GRADIENTS:
            yield "a backward pass for every term of the loss, and no torch.compile"
        yield from self.course.describe()

    def losses(
        self,
        segmentation_loss: Callable[[Targets, Targets, Tensor], Tensor],
        output: MultiTaskOutput,
        target: Targets,
        batch: BatchAnnotation,
        *,
        conditioned: bool,
        epoch: int,
    ) -> dict[str, Tensor]:
        """Compute the terms of a batch, one scalar each.

        Args:
            segmentation_loss: From logits, targets and the mask of regions that may be read, (B, R) bool, to a scalar.
            output: Output of the network, for the drawn tasks.
            target: nnU-Net's targets, one per scale of deep supervision, full resolution first.
            batch: What the loss may read; on the CPU: to look there costs no wait for the device.
            conditioned: Whether a question can be answered only in the pass of its evidence's task.
            epoch: Counted from 0.
        """
        segmentation = {
            term: float(self._segments) * segmentation_loss(output.segmentation, target, batch.annotated & regions)
            for term, regions in self._regions.items()
        }
        values = self.regression.losses(output.regression, batch.voxels)
        answers = self.image_level.losses(
            output, batch, conditioned=conditioned, epoch=epoch, per_question=self._each_task
        )
        weights = self.course.term_weights(epoch)
        return {term: loss * weights.get(term, 1.0) for term, loss in {**segmentation, **values, **answers}.items()}

    def present(self, batch: BatchAnnotation, *, conditioned: bool, epoch: int) -> dict[str, bool]:
        """Return which terms anything in a batch teaches, in the order of `names`; arguments as of `losses`."""
        segmentation = {
            term: self._segments and bool((batch.annotated & regions).any()) for term, regions in self._regions.items()
        }
        values = self.regression.present(batch.voxels)
        answers = self.image_level.present(batch, conditioned=conditioned, epoch=epoch, per_question=self._each_task)
        taught = {**segmentation, **values, **answers}
        weights = self.course.term_weights(epoch)
        return {term: is_taught and weights.get(term, 1.0) > 0 for term, is_taught in taught.items()}
