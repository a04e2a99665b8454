"""The trainer that learns several tasks from partially labelled data, through nnU-Net's own commands.

What it overrides in nnU-Net, and why, is listed in `nnunet_mtl.training.overrides`. A published variant is a leaf in
`trainers/` that names its parts; numbers come from the plans.
"""

import os
from pathlib import Path
from typing import Any, ClassVar

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as TrainerModule
import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.collate_outputs import collate_outputs
from nnunetv2.utilities.helpers import dummy_context
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, autocast, nn
from torch import distributed as dist
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_mtl.losses.partial import MaskedDiceBCELoss
from nnunet_mtl.networks.architecture import multitask_architecture
from nnunet_mtl.networks.output import MultiTaskOutput
from nnunet_mtl.settings import Settings
from nnunet_mtl.tasks import TaskSet, without_cases
from nnunet_mtl.training import progress
from nnunet_mtl.training.annotation import CaseAnnotations
from nnunet_mtl.training.criterion import LabelCriterion, RegionCriterion
from nnunet_mtl.training.pseudo_dice import FloatArray, dice, label_counts, nan_mean, region_counts
from nnunet_mtl.training.run_folder import refuse_other_experiment
from nnunet_mtl.training.sampling import sampling_probabilities
from nnunet_mtl.training.schedule import ScheduledTrainer, settings_in
from nnunet_mtl.training.scoped import swapped
from nnunet_mtl.training.training_cases import refuse_unknown_foreground
from nnunet_mtl.training.validation import RestrictedExport

HEADS = {"regions": "nnunet_mtl.networks.heads.RegionHead", "slots": "nnunet_mtl.networks.heads.SlotHead"}
CLIP_GRADIENT_NORM = 12.0  # nnU-Net's


class MultiTaskTrainer(ScheduledTrainer):
    """Base of every trainer of this package.

    Attributes:
        task_attention: Dotted path of the attention on the skips; leaves name theirs.
        loss_terms: Names of the terms `compute_losses` returns, logged once per epoch.
        tasks: The task set without its case table (which nothing that is saved may hold).
        cases: Looks annotations up by case identifier.
    """

    task_attention: ClassVar[str] = "nnunet_mtl.networks.attention.NoTaskAttention"
    loss_terms: ClassVar[tuple[str, ...]] = ("segmentation",)

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        source = f"{plans.get('dataset_name', '')}/dataset.json"
        self.cases = CaseAnnotations(TaskSet.from_dataset_json(dataset_json, source))
        self.tasks = TaskSet.from_dataset_json(without_cases(dataset_json), source)
        self._prepare_plans(plans, configuration)
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.output_folder_base is not None:
            refuse_other_experiment(Path(self.output_folder_base), plans, self.dataset_json)
        self._pad_log(0)

    def _prepare_plans(self, plans: dict[str, Any], configuration: str) -> None:
        """Put the compact block, the settings and our architecture into the plans, which travel with the model."""
        settings = settings_in(plans)
        plans["nnunet_mtl"] = {**self.tasks.compact(), "settings": settings.to_mapping()}
        resolved = PlansManager(plans).get_configuration(configuration).configuration
        plans["configurations"][configuration]["architecture"] = self.architecture(
            resolved["architecture"], self.tasks, settings
        )

    @classmethod
    def architecture(cls, stock: dict[str, Any], tasks: TaskSet, settings: Settings) -> dict[str, Any]:
        """Return the plans' architecture block of this trainer's network, from the stock one; a hook for leaves."""
        return multitask_architecture(
            stock,
            task_of_region=tasks.task_of_region,
            slot_of_region=tasks.slot_of_region,
            attention=cls.task_attention,
            head=HEADS[settings.head],
            gates=settings.gates,
        )

    def initialize(self) -> None:
        """Build network, optimiser and loss as nnU-Net does, and say what is trained."""
        super().initialize()
        self.print_to_log_file(f"nnunet_mtl: {len(self.tasks.tasks)} tasks, settings {self.settings}")

    def _build_loss(self) -> nn.Module:
        stock = super()._build_loss()
        if not self.label_manager.has_regions:
            return LabelCriterion(stock)
        loss: nn.Module = MaskedDiceBCELoss(
            batch_dice=self.configuration_manager.batch_dice,
            use_ignore_label=self.label_manager.has_ignore_label,
            dice_weight=self.settings.dice_weight,
            bce_weight=self.settings.bce_weight,
        )
        if self.enable_deep_supervision:
            loss = DeepSupervisionWrapper(loss, stock.weight_factors)
        return RegionCriterion(loss)

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
        return datasets

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders, drawing cases with the probabilities of the `sampling` setting."""

        def weighted_loader(dataset: Any, *args: Any, **kwargs: Any) -> Any:
            kwargs["sampling_probabilities"] = sampling_probabilities(
                self.cases.tasks, list(dataset.identifiers), self.settings.sampling
            )
            return original(dataset, *args, **kwargs)

        with swapped(TrainerModule, "nnUNetDataLoader", weighted_loader) as original:
            loaders: tuple[Any, Any] = super().get_dataloaders()
        return loaders

    # ---- a step

    @property
    def bare_network(self) -> nn.Module:
        """The network itself, without the wrappers of DDP and torch.compile."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def compute_losses(
        self, output: MultiTaskOutput, target: Tensor | list[Tensor], annotated: Tensor
    ) -> dict[str, Tensor]:
        """Return the named terms of the loss, one scalar each; a hook for leaves.

        Args:
            output: Of the network, for the drawn tasks.
            target: nnU-Net's targets, one per scale of deep supervision, full resolution first.
            annotated: What the loss may read, (B, R) bool, on the CPU: finding it costs no wait for the device.
        """
        return {"segmentation": self.loss(output.segmentation, target, annotated)}

    def _forward(self, batch: dict[str, Any]) -> tuple[MultiTaskOutput, Any, Tensor, dict[str, Tensor]]:
        """Run the network on a batch: output, targets on the device, annotation mask (B, R) and loss terms."""
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        full_resolution = target[0] if isinstance(target, list) else target
        annotated = self.cases.annotated(batch["keys"])
        task = self.cases.draw_tasks(batch["keys"], full_resolution)
        if self.bare_network.conditioned:
            annotated = self.cases.restrict(annotated, task)
        if isinstance(target, list):
            target = [scale.to(self.device, non_blocking=True) for scale in target]
        else:
            target = target.to(self.device, non_blocking=True)
        # as in nnU-Net: autocast on cuda only
        with autocast("cuda") if self.device.type == "cuda" else dummy_context():
            output = self.network(data, task=task.to(self.device, non_blocking=True), full_output=True)
            losses = self.compute_losses(output, target, annotated)
        return output, target, annotated, losses

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do one optimiser step; return the loss terms and the number of samples with any annotation."""
        self.optimizer.zero_grad(set_to_none=True)
        _, _, annotated, losses = self._forward(batch)
        total = torch.stack(list(losses.values())).sum()
        if self.grad_scaler is not None:  # pragma: no cover - CUDA only
            self.grad_scaler.scale(total).backward()
            self.grad_scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_GRADIENT_NORM)
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        else:
            torch.autograd.backward(total)
            nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_GRADIENT_NORM)
            self.optimizer.step()
        return _numbers(total, losses, annotated)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return loss terms and, over annotated regions only, the counts of the pseudo Dice."""
        output, target, annotated, losses = self._forward(batch)
        logits = output.segmentation
        if isinstance(logits, list):
            logits, target = logits[0], target[0]
        if self.label_manager.has_regions:
            tp, fp, fn = region_counts(logits, target, annotated)
        else:
            tp, fp, fn = label_counts(logits, target, self.label_manager.ignore_label)
        total = torch.stack(list(losses.values())).sum()
        return {**_numbers(total, losses, annotated), "tp_hard": tp, "fp_hard": fp, "fn_hard": fn}

    # ---- an epoch

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the mean of each loss term over batches with annotation, and how many had none."""
        collated = self._gathered(train_outputs)
        counts = collated["annotated"] > 0
        self.logger.log("train_losses", _mean(collated["loss"], counts), self.current_epoch)
        for term in self.loss_terms:
            self.logger.log(progress.term_key(term), _mean(collated[f"loss/{term}"], counts), self.current_epoch)
        self.logger.log(progress.UNANNOTATED, int((~counts).sum()), self.current_epoch)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log validation loss and pseudo Dice; what was not annotated is not available, not zero."""
        collated = self._gathered(val_outputs)
        tp, fp, fn = (collated[key].sum(0) for key in ("tp_hard", "fp_hard", "fn_hard"))
        per_region = dice(tp, fp, fn)
        if not self.label_manager.has_regions:
            per_region = per_region[1:]  # as nnU-Net: background is no class
        mean = nan_mean(per_region)
        if np.isnan(mean):
            # nnU-Net's moving average would stay NaN for ever: this epoch leaves it where it is
            past = self.logger.get_value("ema_fg_dice", step=None)
            mean = past[-1] if past else 0.0
            self.print_to_log_file("No annotated foreground in this epoch's validation patches: no pseudo Dice")
        self.logger.log("mean_fg_dice", mean, self.current_epoch)
        self.logger.log("dice_per_class_or_region", list(per_region), self.current_epoch)
        self.logger.log("val_losses", _mean(collated["loss"], collated["annotated"] > 0), self.current_epoch)
        for task, value in self._task_dice(per_region).items():
            self.logger.log(progress.task_key(task), value, self.current_epoch)

    def on_epoch_end(self) -> None:
        """Finish the epoch as nnU-Net does, then print and draw the curve of each task."""
        per_region = np.asarray(self.logger.get_value("dice_per_class_or_region", step=-1))
        texts = [f"{task} {value:.4f}" for task, value in self._task_dice(per_region).items()]
        self.print_to_log_file("Pseudo dice per task:", ", ".join(texts))
        super().on_epoch_end()
        if self.local_rank == 0:
            log = self.logger.local_logger.my_fantastic_logging
            progress.plot_progress(log, self.tasks, self.loss_terms, Path(self.output_folder))

    def _task_dice(self, per_region: FloatArray) -> dict[str, float]:
        if not self.label_manager.has_regions:
            return {self.tasks.tasks[0].name: nan_mean(per_region)}
        return progress.dice_per_task(self.tasks, per_region)

    def _gathered(self, outputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate a list of step outputs: losses averaged over ranks, counts summed over them, (iterations, ...)."""
        collated = {key: np.asarray(values) for key, values in collate_outputs(outputs).items()}
        if self.is_ddp:
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, collated)
            collated = {
                key: np.stack([rank[key] for rank in everyone]).sum(0) / (len(everyone) if "loss" in key else 1)
                for key in collated
            }
        return collated

    # ---- checkpoints and final validation

    def save_checkpoint(self, filename: str) -> None:
        """Write the checkpoint aside and rename it, so that a process killed meanwhile leaves the old one whole."""
        aside = f"{filename}.writing"
        super().save_checkpoint(aside)
        if self.local_rank == 0 and os.path.isfile(aside):
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, filename)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint as nnU-Net does; epochs that lack our curves are filled with NaN."""
        super().load_checkpoint(filename_or_checkpoint)
        self._pad_log(self.current_epoch)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict and score the validation cases; each exported map holds only what is annotated in its case."""
        _, cases = self.do_split()
        export = RestrictedExport({case: self.cases.tasks.annotated(case) for case in cases})
        with swapped(TrainerModule, "export_prediction_from_logits", export):
            super().perform_actual_validation(save_probabilities)

    def _pad_log(self, n_epochs: int) -> None:
        log = self.logger.local_logger.my_fantastic_logging
        progress.pad_log(log, progress.logged_keys(self.tasks, self.loss_terms), n_epochs)


def _numbers(total: Tensor, losses: dict[str, Tensor], annotated: Tensor) -> dict[str, Any]:
    """Turn a step's losses into what nnU-Net collates: the same keys in each step, NumPy scalars."""
    terms = {f"loss/{name}": loss.detach().cpu().numpy() for name, loss in losses.items()}
    return {"loss": total.detach().cpu().numpy(), **terms, "annotated": np.float64(annotated.any(1).sum())}


def _mean(values: Any, where: Any) -> float:
    return float(np.mean(values[where])) if where.any() else 0.0
