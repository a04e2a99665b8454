"""The terms of a trainer's loss: their values for a batch, and which terms the batch teaches."""

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
        course: Knows the tasks that are trained, and the factors of their terms in every epoch.
        image_level: Computes the losses of the image-level questions.
        regression: Computes the losses of the voxel-wise regression tasks.
        settings: Settings of the run.
        each_task: Whether every task and every question has a term of its own; otherwise one term averages all
            annotated regions, and one all answers. With `loss_weighting` other than "equal" it is always so.
        segments: Whether the segmentation is learnt; otherwise its terms are zero, but stay attached to the network.

    Attributes:
        course: As given.
        image_level: As given.
        regression: As given.
        names: Names of the terms, in the order of `losses`.
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
        # the regions of every segmentation term, (R,) bool
        self._regions = {"segmentation": torch.ones_like(owner, dtype=torch.bool)}
        if self._each_task:
            self._regions = {f"segmentation/{task.name}": owner == index for index, task in enumerate(tasks.tasks)}
        answers = image_level.loss_terms(per_question=self._each_task)
        self.names: tuple[str, ...] = (*self._regions, *regression.loss_terms, *answers)

    def describe(self, trainer: str) -> Iterator[str]:
        """Yield the lines of the log that say what is trained, with the name of the trainer."""
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
            batch: Annotation of the samples; on the CPU, so that reading it does not wait for the device.
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
        """Return whether a batch teaches each term, in the order of `names`; the arguments are those of `losses`."""
        segmentation = {
            term: self._segments and bool((batch.annotated & regions).any()) for term, regions in self._regions.items()
        }
        values = self.regression.present(batch.voxels)
        answers = self.image_level.present(batch, conditioned=conditioned, epoch=epoch, per_question=self._each_task)
        taught = {**segmentation, **values, **answers}
        weights = self.course.term_weights(epoch)
        return {term: is_taught and weights.get(term, 1.0) > 0 for term, is_taught in taught.items()}
