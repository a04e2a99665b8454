"""The trainer that learns several tasks from partially labelled data, through nnU-Net's own commands.

What it overrides in nnU-Net, and why, is listed in `nnunet_mtl.training.overrides`. A published method is a leaf in
`trainers/` that names its parts; numbers come from the plans.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as TrainerModule
import torch
from nnunetv2.utilities.helpers import dummy_context
from torch import Tensor, autocast, nn

from nnunet_mtl.common.swapped_names import swapped
from nnunet_mtl.inference.calibration import TAUGHT
from nnunet_mtl.inference.case_files import number_of_channels
from nnunet_mtl.networks.architecture import GUIDED, Family
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.networks.unwrapped import unwrapped
from nnunet_mtl.planning.fold_coverage import taught_questions
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training import composition
from nnunet_mtl.training.batch_annotation import BatchAnnotation
from nnunet_mtl.training.case_annotations import CaseAnnotations
from nnunet_mtl.training.case_answers import score_labelled_cases
from nnunet_mtl.training.checkpoints import Checkpoints
from nnunet_mtl.training.course import Course
from nnunet_mtl.training.experiment import Experiment, without_case_table
from nnunet_mtl.training.final_validation import FinalValidation
from nnunet_mtl.training.gradient_aggregation import METHODS as AGGREGATES_GRADIENTS
from nnunet_mtl.training.image_level import ImageLevelTraining
from nnunet_mtl.training.loss_terms import LossTerms
from nnunet_mtl.training.loss_weighting import build_weighting, clip_gradients, group_parameters
from nnunet_mtl.training.monitor import Monitor
from nnunet_mtl.training.patch_loaders import fold_warnings, patch_loader
from nnunet_mtl.training.pretrained import await_pretrained_weights
from nnunet_mtl.training.pseudo_dice import pseudo_dice_counts
from nnunet_mtl.training.regression import RegressionTraining
from nnunet_mtl.training.scheduled_trainer import ScheduledTrainer
from nnunet_mtl.training.segmentation_loss import LossMode, build_criterion, supervised_scales
from nnunet_mtl.training.step_numbers import gathered, step_numbers
from nnunet_mtl.training.training_cases import refuse_unknown_cases


class MultiTaskTrainer(ScheduledTrainer):
    """Base of every trainer of this package that learns from the block of `dataset.json`.

    A leaf may define these attributes and override these methods, and nothing else.

    Hooks:
        defaults: Values of settings that replace the common defaults.
        parts: Dotted paths of a method's parts by insertion point, see `nnunet_mtl.networks.insertion_points`.
        heads: Dotted paths of segmentation heads by the value of the setting `head`; a method's head is "own".
        variants: Parts, or a head (`segmentation_head`), that a value of a setting selects: name, then value.
        class_heads: Dotted paths of classification heads by the value of `class_head`; a method's head is "own".
        family: The family of networks, see `nnunet_mtl.networks.architecture`.
        segments: Whether the trainer learns segmentation; a trainer that does not learns the questions alone.
        loss_mode: The kind of segmentation loss, see `nnunet_mtl.training.segmentation_loss`.
        published_loss: The kind of segmentation loss where the setting `loss` is "published".
        task_losses: Whether the loss is a sum of one term per task. Otherwise one term averages all annotated regions,
            and one all answers. A setting `loss_weighting` other than "equal" always has one term per task.
        course_class: The class that decides which patches teach which task in which epoch.
        method_options: Returns the arguments of the method's parts, JSON-able.
        segmentation_head: Returns the dotted path of the head that the setting `head` names.
        head_options: Returns the arguments of the head, JSON-able, without layout and channels.
        compute_losses: Returns the terms of the loss by name.
        configure_optimizers: Returns nnU-Net's optimiser and learning rate schedule.

    Attributes:
        experiment: Settings and task set of the run, read from `dataset.json` and the plans.
        tasks: The tasks that are trained, without the case table, because no saved file may hold the table.
        cases: Tells by case identifier which regions are annotated.
    """

    parts: ClassVar[Mapping[str, str]] = {}
    heads: ClassVar[Mapping[str, str]] = composition.HEADS
    variants: ClassVar[Mapping[str, Mapping[Any, Mapping[str, str]]]] = {}
    class_heads: ClassVar[Mapping[str, str]] = composition.CLASS_HEADS
    family: ClassVar[Family] = GUIDED
    segments: ClassVar[bool] = True
    loss_mode: ClassVar[LossMode] = "masked"
    published_loss: ClassVar[LossMode] = "channel"
    task_losses: ClassVar[bool] = False
    course_class: ClassVar[type[Course]] = Course

    dataset_class: Any
    _best_ema: float | None

    # ---- constructed

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)  # calls `prepare`, then nnU-Net's __init__
        experiment, settings = self.experiment, self.settings
        self.course = self.course_class(experiment.cases, settings)
        self.tasks = without_case_table(self.course.cases)
        self.cases = CaseAnnotations(self.course.cases, label_share=settings.class_draws)
        self.image_level = ImageLevelTraining(experiment.cases, settings, with_evidence=self.segments)
        self.regression = RegressionTraining(experiment.cases, experiment.stored)
        self.terms = LossTerms(
            self.course, self.image_level, self.regression, settings, each_task=self.task_losses, segments=self.segments
        )
        self.weighting = build_weighting(settings, self.terms.names, distributed=self.is_ddp).to(self.device)
        self.checkpoints = Checkpoints()
        self.monitor = Monitor(
            self.terms, self.weighting, settings, logger=self.logger, print_to_log=self.print_to_log_file
        )
        self.monitor.pad(0)

    def prepare(self, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> dict[str, Any]:
        """Resolve the experiment, write it into the plans, and return the `dataset.json` that nnU-Net may save.

        Raises:
            TaskSetError: If the block is invalid, or holds nothing that this trainer learns.
            SettingsError: If the settings name a head or part that this trainer does not offer.
        """
        self.experiment = Experiment.resolve(plans, dataset_json, self.settings, type(self))
        self.experiment.write_into(plans, configuration, self.architecture)
        return self.experiment.dataset_json

    @classmethod
    def architecture(
        cls, stock: dict[str, Any], patch_size: Sequence[int], tasks: TaskSet, settings: Settings
    ) -> dict[str, Any]:
        """Return the architecture block of this trainer's network, made from the plans' `stock` block."""
        return composition.composed_architecture(cls, stock, patch_size, tasks, settings)

    @classmethod
    def method_options(cls, settings: Settings) -> dict[str, Any]:
        """Return the arguments of the method's parts, JSON-able."""
        return {}

    @classmethod
    def segmentation_head(cls, settings: Settings, tasks: TaskSet) -> str:
        """Return the dotted path of the head that the setting `head` names, or raise a SettingsError."""
        return composition.offered_head(cls, settings)

    @classmethod
    def head_options(cls, settings: Settings, tasks: TaskSet) -> dict[str, Any]:
        """Return the arguments of the head, JSON-able, without layout and channels."""
        return {}

    # ---- initialised

    def initialize(self) -> None:
        """Build network, optimiser and loss as nnU-Net does, and log what is trained."""
        super().initialize()
        composition.load_region_embeddings(self.bare_network, self.settings, self.tasks)
        self.dataset_class = self.regression.dataset_class(self.dataset_class, number_of_channels(self.dataset_json))
        for line in self.terms.describe(type(self).__name__):
            self.print_to_log_file(f"nnunet_mtl: {line}")
        # with -pretrained_weights nnU-Net loads the weights next
        self._pretrained_weights = await_pretrained_weights(self)

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network as nnU-Net does; for prediction (no deep supervision) warn of unfit postprocessing."""
        if not enable_deep_supervision:
            composition.warn_of_postprocessing(plans_manager.plans, cls.__name__)
        network: nn.Module = super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        return network

    def _do_i_compile(self) -> bool:
        """Return nnU-Net's choice, but never compile where every term of the loss needs a backward pass."""
        return self.settings.loss_weighting not in AGGREGATES_GRADIENTS and bool(super()._do_i_compile())

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Return nnU-Net's optimiser and schedule, with separate groups for classification head and loss weights."""
        optimizer, schedule = super().configure_optimizers()
        head = list(self.bare_network.classification.parameters())
        return optimizer, group_parameters(optimizer, schedule, head, self.weighting, self.settings)

    def _build_loss(self) -> nn.Module:
        """Return the segmentation loss, which reads annotated regions only and weights scales as nnU-Net does."""
        return build_criterion(
            super()._build_loss(),
            composition.chosen_loss(type(self), self.settings),
            self.tasks,
            self.settings,
            batch_dice=self.configuration_manager.batch_dice,
            outputs=self.family.outputs if self.enable_deep_supervision else None,
        )

    def _get_deep_supervision_scales(self) -> Any:
        """Return the size of every supervised output relative to the patch, (outputs, axes); None for one output."""
        if not (self.family.outputs and self.enable_deep_supervision):
            return super()._get_deep_supervision_scales()
        return supervised_scales(self.family.outputs, self.configuration_manager.pool_op_kernel_sizes)

    # ---- data

    def on_train_start(self) -> None:
        """Start as nnU-Net does, after nnU-Net's own loader of pretrained weights is put back."""
        self._wait_for_no_pretrained_weights()
        super().on_train_start()

    def _wait_for_no_pretrained_weights(self) -> None:
        if not self.was_initialized:
            self.initialize()
        self._pretrained_weights.put_back()

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return nnU-Net's data sets, after a check of every case against the case table.

        Raises:
            TaskSetError: If a case is not in the case table, or holds labels of regions not annotated in it.
        """
        datasets: tuple[Any, Any] = super().get_tr_and_val_datasets()
        tasks = self.cases.tasks
        refuse_unknown_cases(tasks, datasets, rank=self.local_rank)
        train, validation = (list(dataset.identifiers) for dataset in datasets)
        self._trained_on = datasets[0]
        self.image_level.use_training_cases(train)
        self.monitor.answers.taught = taught_questions(tasks, train)
        for line in fold_warnings(tasks, train, validation, self.plans_manager.dataset_name):
            self.print_to_log_file(f"WARNING: fold {self.fold}: {line}")
        return datasets

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders, which draw cases and patches by the settings and the course."""
        self.course.begin_epoch(self.current_epoch)
        # nnU-Net builds data sets and loaders in one method, so the swap covers the whole call
        loader = patch_loader(self.course, self.regression, self.settings, lambda dataset: dataset is self._trained_on)
        with swapped(TrainerModule, "nnUNetDataLoader", loader):
            loaders: tuple[Any, Any] = super().get_dataloaders()
        return loaders

    # ---- an epoch

    def on_train_epoch_start(self) -> None:
        """Begin the epoch in nnU-Net and in the course."""
        super().on_train_epoch_start()
        self.course.begin_epoch(self.current_epoch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the training steps; batches that taught nothing are counted and left out of the means."""
        self.monitor.log_training(gathered(train_outputs), self.current_epoch)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log the validation steps and, every `class_every` epochs, the answers for whole validation cases."""
        self.monitor.log_validation(
            gathered(val_outputs), self.current_epoch, self.num_epochs, lambda: score_labelled_cases(self)
        )

    def on_epoch_end(self) -> None:
        """Finish the epoch as nnU-Net does, but choose the best checkpoint by `selection_score`."""
        self.monitor.end_epoch(self.current_epoch)
        self._best_ema = self.checkpoints.judged(self.selection_score())
        super().on_epoch_end()
        self._best_ema = self.checkpoints.best_score
        if self.local_rank == 0:
            self.monitor.draw(Path(self.output_folder))

    def selection_score(self) -> float:
        """Return the score of the best checkpoint: nnU-Net's moving average of the pseudo Dice, mixed with answers.

        Dice and answers lie between 0 and 1. An epoch in which a task lacks its full weight scores 1 less, so that
        a complete epoch always wins.
        """
        dice = float(self.logger.get_value("ema_fg_dice", step=-1))
        score = self.monitor.answers.mixed_into(dice, share=self.settings.best_class_share if self.segments else 1.0)
        return score - float(not self.course.is_complete(self.current_epoch))

    # ---- a step

    @property
    def bare_network(self) -> Any:
        """The network itself, without the wrappers of DDP and torch.compile."""
        return unwrapped(self.network)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do one optimiser step; return the loss terms, and whether the batch taught each term."""
        self.optimizer.zero_grad(set_to_none=True)
        _, _, known, losses = self._forward(batch, training=True)
        present = self._present(known)
        # on the CPU there is no scaler: a disabled one scales by 1 and steps as the optimiser does
        scaler = self.grad_scaler or torch.amp.GradScaler("cpu", enabled=False)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        total = self.weighting.backward(losses, present, parameters, scaler.scale)
        for parameter in self.course.resting_parameters(self.bare_network, self.current_epoch):
            parameter.grad = None  # only now: DistributedDataParallel has to see a gradient of every parameter
        scaler.unscale_(self.optimizer)
        clip_gradients(self.optimizer)
        scaler.step(self.optimizer)
        scaler.update()
        return step_numbers(total, losses, present)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the loss terms, and the counts of the pseudo Dice over annotated regions only."""
        output, target, known, losses = self._forward(batch, training=False)
        logits = output.segmentation
        if isinstance(logits, list):
            logits, target = logits[0], target[0]
        logits = self.bare_network.segmentation_head.regions(logits)
        present = self._present(known)
        return {
            **step_numbers(self.weighting(losses, present), losses, present),
            **self.regression.numbers(output.regression, known.voxels),
            **pseudo_dice_counts(logits, target, known.annotated, self.tasks),
            **self.image_level.numbers(output, known, conditioned=self.bare_network.conditioned),
        }

    def _forward(
        self, batch: dict[str, Any], *, training: bool
    ) -> tuple[MultiTaskOutput, Any, BatchAnnotation, dict[str, Tensor]]:
        """Run the network on a batch; return output, targets on the device, annotation of the samples, loss terms."""
        keys = [str(key) for key in batch["keys"]]
        scales = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        data, voxels = self.regression.split(keys, batch["data"], scales[0])
        data = data.to(self.device, non_blocking=True)
        annotated = self.cases.annotated(keys)
        task = self.cases.draw_tasks(keys, scales[0])
        if self.bare_network.one_task_per_sample:
            annotated = self.cases.restrict(annotated, task)
        annotated = self.course.teaching(annotated, scales[0], batch, self.current_epoch)
        scales = [scale.to(self.device, non_blocking=True) for scale in scales]
        target = scales if isinstance(batch["target"], list) else scales[0]
        known = BatchAnnotation(keys, annotated, task, None if voxels is None else voxels.to(self.device))
        # as in nnU-Net: autocast on cuda only
        with autocast("cuda") if self.device.type == "cuda" else dummy_context():
            output = self.network(
                data,
                task=task.to(self.device, non_blocking=True),
                full_output=True,
                evidence=self.image_level.known_evidence(
                    scales[0], annotated, epoch=self.current_epoch, training=training
                ),
            )
            losses = self.compute_losses(output, target, known)
        return output, target, known, losses

    def compute_losses(
        self, output: MultiTaskOutput, target: Tensor | list[Tensor], batch: BatchAnnotation
    ) -> dict[str, Tensor]:
        """Return the named terms of the loss, one scalar each.

        Args:
            output: Output of the network, for the drawn tasks.
            target: nnU-Net's targets, one per scale of deep supervision, full resolution first.
            batch: Annotation of the samples; on the CPU, so that reading it does not wait for the device.
        """
        return self.terms.losses(
            self.loss, output, target, batch, conditioned=self.bare_network.conditioned, epoch=self.current_epoch
        )

    def _present(self, batch: BatchAnnotation) -> dict[str, bool]:
        """Return by name whether the batch teaches each term of the loss."""
        return self.terms.present(batch, conditioned=self.bare_network.conditioned, epoch=self.current_epoch)

    # ---- validated

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict and score the validation cases; an exported map holds only the regions annotated in its case.

        The pass also scores the answers, and calibrates the model's answers if no validation case was trained on.
        """
        train, cases = self.do_split()
        self.monitor.answers.taught = taught_questions(self.cases.tasks, train)
        final = FinalValidation(self, train, cases)
        with final.running():
            super().perform_actual_validation(save_probabilities)
        final.report()

    # ---- saved

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with the names of the taught questions: to a second file, then renamed."""
        self._best_ema = self.checkpoints.best_score
        content = {TAUGHT: list(self.monitor.answers.taught)}
        written = self.checkpoints.written(filename, content, rank=self.local_rank, disabled=self.disable_checkpointing)
        with written as aside:
            super().save_checkpoint(aside)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint as nnU-Net does, after nnU-Net's own loader of pretrained weights is put back.

        Past epochs of a curve that the checkpoint does not hold are filled with NaN.
        """
        self._wait_for_no_pretrained_weights()
        super().load_checkpoint(filename_or_checkpoint)
        self.checkpoints.loaded(filename_or_checkpoint, self._best_ema)
        self.monitor.pad(self.current_epoch)
