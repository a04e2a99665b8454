"""The trainer that learns several tasks from partially labelled data, through nnU-Net's own commands.

What it overrides in nnU-Net, and why, is listed in `nnunet_mtl.training.overrides`. A published variant is a leaf in
`trainers/` that names its parts; numbers come from the plans.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as TrainerModule
import numpy as np
import torch
from nnunetv2.utilities.helpers import dummy_context
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, autocast, nn

from nnunet_mtl.common.swapped_names import swapped
from nnunet_mtl.inference.case_files import number_of_channels
from nnunet_mtl.networks.clip_driven.region_embedding_head import RegionEmbeddingHead
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.networks.unwrapped import unwrapped
from nnunet_mtl.planning.fold_coverage import dataset_faults, fold_faults, taught_questions
from nnunet_mtl.tasks import TaskSet, TaskSetError, without_cases
from nnunet_mtl.training.annotated_foreground import AnnotatedForeground
from nnunet_mtl.training.case_annotations import CaseAnnotations
from nnunet_mtl.training.evidence_crops import EvidenceCropLoader, evidence_labels
from nnunet_mtl.training.gradient_aggregation import METHODS as AGGREGATES_GRADIENTS
from nnunet_mtl.training.gradient_aggregation import refuse_processes
from nnunet_mtl.training.image_level import BatchAnnotation, ImageLevelTraining
from nnunet_mtl.training.loss_terms import LossTermsTrainer
from nnunet_mtl.training.loss_weighting import BODY, HEAD, build_weighting, clip_gradients, optimise_weights
from nnunet_mtl.training.merged_labels import MergedLabelsDataset
from nnunet_mtl.training.pretrained import await_pretrained_weights
from nnunet_mtl.training.pseudo_dice import label_counts, region_counts
from nnunet_mtl.training.region_embedding import read_region_embedding
from nnunet_mtl.training.regression import RegressionTraining, with_scales, without_regressions, without_targets
from nnunet_mtl.training.sampling import sampling_probabilities
from nnunet_mtl.training.scheduled_trainer import settings_in
from nnunet_mtl.training.training_cases import refuse_unknown_foreground


class MultiTaskTrainer(LossTermsTrainer):
    """Base of every trainer of this package.

    Attributes:
        tasks: The task set without its case table (which nothing that is saved may hold).
        cases: Looks annotations up by case identifier.
    """

    dataset_class: Any

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        source = f"{plans.get('dataset_name', '')}/dataset.json"
        settings = settings_in(plans, self.defaults)
        cases = TaskSet.from_dataset_json(dataset_json, source)
        self.tasks = TaskSet.from_dataset_json(without_cases(dataset_json), source)
        if settings.class_weight == 0:  # a run that is not to learn the questions has none
            cases, self.tasks = (replace(tasks, classification=()) for tasks in (cases, self.tasks))
        stored = cases.regressions
        if self.family.regresses:
            cases, self.tasks = (with_scales(tasks, plans) for tasks in (cases, self.tasks))
        else:
            cases, self.tasks = (without_regressions(tasks) for tasks in (cases, self.tasks))
        self.regression = RegressionTraining(cases, stored)
        self.taught = tuple(question.name for question in cases.classification)
        self.cases = CaseAnnotations(cases, label_share=settings.class_draws)
        self._prepare_plans(plans, configuration)
        if not self.segments and not self.tasks.classification:
            raise TaskSetError(
                f"{source}: nnunet_mtl.classification: {type(self).__name__} needs at least one question"
            )
        self.image_level = ImageLevelTraining(cases, settings, with_evidence=self.segments)
        super().__init__(plans, configuration, fold, without_targets(dataset_json, stored), device)
        if self.is_ddp and self.settings.loss_weighting in AGGREGATES_GRADIENTS:
            refuse_processes(self.settings.loss_weighting)
        self.weighting = build_weighting(self.settings, self.loss_terms).to(self.device)
        self._pad_log(0)

    def _prepare_plans(self, plans: dict[str, Any], configuration: str) -> None:
        """Put the compact block, the settings and our architecture into the plans, which travel with the model."""
        settings = settings_in(plans, self.defaults)
        plans["nnunet_mtl"] = {**self.tasks.compact(), "settings": settings.to_mapping()}
        resolved = PlansManager(plans).get_configuration(configuration).configuration
        plans["configurations"][configuration]["architecture"] = self.architecture(
            resolved["architecture"], resolved["patch_size"], self.tasks, settings
        )

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Return nnU-Net's optimiser and schedule; classification head and loss weights are groups of their own."""
        optimizer, schedule = super().configure_optimizers()
        (group,) = optimizer.param_groups
        group["name"] = BODY
        head = list(self.head_parameters())
        if head:
            group["params"] = [value for value in group["params"] if all(value is not other for other in head)]
            options = {name: value for name, value in group.items() if name != "params"}
            changes = {"name": HEAD, "weight_decay": self.settings.class_weight_decay}
            optimizer.add_param_group({**options, **changes, "params": head})
        return optimizer, optimise_weights(optimizer, schedule, self.weighting, self.settings.loss_weight_lr)

    def _do_i_compile(self) -> bool:
        """Return whether nnU-Net would compile, unless a compiled backward pass would have to run once a term."""
        return self.settings.loss_weighting not in AGGREGATES_GRADIENTS and bool(super()._do_i_compile())

    def initialize(self) -> None:
        """Build network, optimiser and loss as nnU-Net does, and say what is trained."""
        super().initialize()
        head = self.bare_network.segmentation_head
        if isinstance(head, RegionEmbeddingHead) and self.settings.region_embedding == "file":
            head.load_embedding(read_region_embedding(self.settings.region_embedding_file, self.tasks.regions))
        self.dataset_class = self.regression.dataset_class(self.dataset_class, number_of_channels(self.dataset_json))
        self.print_to_log_file(f"nnunet_mtl: {len(self.tasks.tasks)} tasks, settings {self.settings}")
        if not self.label_manager.has_regions:
            self.print_to_log_file(
                "nnunet_mtl: no label has several values, so the loss is nnU-Net's softmax loss: the settings loss, "
                "dice_weight and bce_weight change nothing"
            )
        if text := self.regression.describe(type(self).__name__):
            self.print_to_log_file(f"nnunet_mtl: {text}")
        if self.settings.loss_weighting in AGGREGATES_GRADIENTS:
            self.print_to_log_file("nnunet_mtl: a backward pass for every term of the loss, and no torch.compile")
        # what nnU-Net does next where it was given -pretrained_weights
        self._pretrained_weights = await_pretrained_weights(self)

    def on_train_start(self) -> None:
        """Start as nnU-Net does; from then on no pretrained weights are waited for."""
        self._wait_for_no_pretrained_weights()
        super().on_train_start()

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint as nnU-Net does; from then on no pretrained weights are waited for."""
        self._wait_for_no_pretrained_weights()
        super().load_checkpoint(filename_or_checkpoint)

    def _wait_for_no_pretrained_weights(self) -> None:
        if not self.was_initialized:
            self.initialize()
        self._pretrained_weights.put_back()

    # ---- data

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return nnU-Net's data sets, after checking that what is annotated is known for every case.

        Raises:
            TaskSetError: Naming cases that are not in the case table, or hold labels nobody was to annotate.
        """
        datasets: tuple[Any, Any] = super().get_tr_and_val_datasets()
        for dataset in datasets:
            self.cases.tasks.require_cases(dataset.identifiers)
        if self.local_rank == 0:
            refuse_unknown_foreground(self.cases.tasks, datasets)
        train, validation = (list(dataset.identifiers) for dataset in datasets)
        self.image_level.use_training_cases(train)
        self.taught = taught_questions(self.cases.tasks, train)
        tasks, dataset = self.cases.tasks, self.plans_manager.dataset_name
        faults = (*dataset_faults(tasks, [*train, *validation]), *fold_faults(tasks, train, validation, dataset))
        for fault in faults:
            self.print_to_log_file(f"WARNING: fold {self.fold}: {fault.text}. Remedy: {fault.remedy}")
        return datasets

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders, drawing cases and patches as the settings say."""

        def loader(dataset: Any, *args: Any, **kwargs: Any) -> Any:
            kwargs["sampling_probabilities"] = sampling_probabilities(
                self.cases.tasks, list(dataset.identifiers), self.settings.sampling, self.settings.class_sampling
            )
            share, evidence = self.settings.evidence_crops, evidence_labels(self.cases.tasks)
            known = AnnotatedForeground(self.regression.with_targets(dataset, kwargs), self.cases.tasks)
            merged = MergedLabelsDataset(known, self.cases.tasks)
            return self.patch_loader(dataset, merged, *args, evidence=evidence, share=share, **kwargs)

        with swapped(TrainerModule, "nnUNetDataLoader", loader):
            loaders: tuple[Any, Any] = super().get_dataloaders()
        return loaders

    def patch_loader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loader of a data set; a hook for trainers.

        Args:
            dataset: nnU-Net's, one of those that `get_tr_and_val_datasets` returned.
            *args: Of the loader; the first is the same data set as it is to be read.
            **kwargs: The same by name.
        """
        return EvidenceCropLoader(*args, **kwargs)

    # ---- a step

    @property
    def bare_network(self) -> Any:
        """The network itself, without the wrappers of DDP and torch.compile."""
        return unwrapped(self.network)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the classification head; none where the data set asks no question."""
        yield from self.bare_network.classification.parameters()

    def resting_parameters(self) -> Iterable[nn.Parameter]:
        """Return what no step of this epoch may change, by weight decay or momentum neither; a hook for trainers."""
        return ()

    def teaching(self, annotated: Tensor, task: Tensor, target: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return which regions the loss may read of each sample, (B, R) bool on the CPU; a hook for trainers.

        Args:
            annotated: Regions that were annotated, (B, R) bool.
            task: Task each sample was drawn for, (B,) long.
            target: Region targets at full resolution, (B, R or more, *spatial), on the CPU.
            batch: Of the loader.
        """
        return self.cases.restrict(annotated, task) if self.bare_network.one_task_per_sample else annotated

    def _forward(
        self, batch: dict[str, Any], *, training: bool
    ) -> tuple[MultiTaskOutput, Any, BatchAnnotation, dict[str, Tensor]]:
        """Run the network on a batch: output, targets on the device, what is known of the samples, and loss terms."""
        keys = [str(key) for key in batch["keys"]]
        scales = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        data, voxels = self.regression.split(keys, batch["data"], scales[0])
        data = data.to(self.device, non_blocking=True)
        annotated = self.cases.annotated(keys)
        task = self.cases.draw_tasks(keys, scales[0])
        annotated = self.teaching(annotated, task, scales[0], batch)
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

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do one optimiser step; return the loss terms, and which of them the batch taught."""
        self.optimizer.zero_grad(set_to_none=True)
        _, _, known, losses = self._forward(batch, training=True)
        present = self.present(known)
        # without a scaler one that is switched off, which scales by 1 and steps as the optimiser does
        scaler = self.grad_scaler or torch.amp.GradScaler("cpu", enabled=False)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        total = self.weighting.backward(losses, present, parameters, scaler.scale)
        for parameter in self.resting_parameters():
            parameter.grad = None  # only now: DistributedDataParallel has to see a gradient of every parameter
        scaler.unscale_(self.optimizer)
        clip_gradients(self.optimizer)
        scaler.step(self.optimizer)
        scaler.update()
        return _numbers(total, losses, present)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return loss terms and, over annotated regions only, the counts of the pseudo Dice."""
        output, target, known, losses = self._forward(batch, training=False)
        logits = output.segmentation
        if isinstance(logits, list):
            logits, target = logits[0], target[0]
        logits = self.bare_network.segmentation_head.regions(logits)
        if self.label_manager.has_regions:
            tp, fp, fn = region_counts(logits, target, known.annotated)
        else:
            tp, fp, fn = label_counts(logits, target, self.label_manager.ignore_label)
        present = self.present(known)
        total = self.weighting(losses, present)
        answers = self.image_level.numbers(output, known, conditioned=self.bare_network.conditioned)
        return {
            **_numbers(total, losses, present),
            **self.regression.numbers(output.regression, known.voxels),
            "tp_hard": tp,
            "fp_hard": fp,
            "fn_hard": fn,
            **answers,
        }


def _numbers(total: Tensor, losses: dict[str, Tensor], present: Mapping[str, bool]) -> dict[str, Any]:
    """Turn a step's losses into what nnU-Net collates: the same keys in each step, NumPy scalars."""
    terms = {f"loss/{name}": loss.detach().cpu().numpy() for name, loss in losses.items()}
    there = {f"present/{name}": np.float64(value) for name, value in present.items()}
    return {"loss": total.detach().cpu().numpy(), **terms, **there}
