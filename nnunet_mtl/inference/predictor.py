"""nnU-Net's predictor, which also keeps the network's answers to the questions and its values per voxel.

Segmentations equal nnU-Net's bit by bit: its methods are extended, and only the loading of models is replaced; see
`nnunet_mtl.inference.overrides`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, listed, shown
from nnunet_mtl.inference.calibration import Calibration, answer, read_calibrations
from nnunet_mtl.inference.model_folder import Fold, build_network, read_model
from nnunet_mtl.inference.patch_answers import Combination, PatchAnswers, combine
from nnunet_mtl.inference.voxel_values import ValueWindow, beside_logits, regressions_of
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.networks.unwrapped import unwrapped
from nnunet_mtl.tasks import ClassificationTask, RegressionTask, TaskSet
from nnunet_mtl.tasks.settings import Settings


class PredictionError(UserError):
    """The model does not have the tasks that were chosen."""


class MultiTaskPredictor(nnUNetPredictor):
    """Predicts with models of this package and with stock ones, which have no questions; built as nnU-Net's.

    `predict_logits_from_preprocessed_data` predicts a case with every fold, `predict_sliding_window_return_logits` with
    the weights that are loaded. Afterwards `answers` and `values` belong to that case.

    Attributes:
        tasks: The model's task set, without cases; None for a stock model.
        calibrations: For every fold, the calibration by question; a question that its network was never taught is
            absent. Empty for a network that was passed to `manual_initialization`.
        folds: Names of the folds of `calibrations`.
        answers: For every fold the answers for every patch of the last case; empty if the model has no questions or the
            prediction of the case failed.
        regressions: The regression tasks that the network predicts, with their scales.
        values: Mean values over the folds for the last case by regression task, in the unit of the target, (*spatial)
            float32 on the CPU.
    """

    tasks: TaskSet | None = None
    calibrations: Sequence[dict[str, Calibration]] = ()
    folds: Sequence[Fold] = ()
    answers: Sequence[Sequence[PatchAnswers]] = ()
    regressions: tuple[RegressionTask, ...] = ()
    values: Mapping[str, Tensor] = MappingProxyType({})
    network: Any
    _combination: Combination
    _folds: list[list[PatchAnswers]] | None = None  # of the case that is being predicted
    _window: list[PatchAnswers]  # of the sliding window that is running
    _value_window: ValueWindow | None = None  # of the same window; None without regression tasks
    _values: Tensor | None = None  # sum over the finished folds of the case, (D, *spatial)

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str,
        use_folds: Sequence[Fold] | Fold | None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load a model and its calibrations as nnU-Net does, but without executing code from its checkpoints.

        Args:
            model_training_output_dir: The model folder.
            use_folds: Numbers or "all"; None for every numbered fold that has the checkpoint.
            checkpoint_name: File name of the checkpoints, such as `checkpoint_final.pth`.

        Raises:
            UserError: If a file is missing or cannot be used; one line that names the file.
        """
        folds = (use_folds,) if isinstance(use_folds, int | str) else use_folds
        model = read_model(Path(model_training_output_dir), folds, checkpoint_name)
        network = build_network(model)
        plans = PlansManager(model.plans)
        self.manual_initialization(
            network,
            plans,
            plans.get_configuration(model.configuration),
            model.weights,
            model.dataset_json,
            model.trainer_name,
            model.mirroring_axes,
        )
        self.folds = model.folds
        self.calibrations = [
            read_calibrations(content, self.questions, str(model.folder / f"fold_{fold}" / checkpoint_name))
            for fold, content in zip(model.folds, model.contents, strict=True)
        ]

    def manual_initialization(
        self, network: nn.Module, plans_manager: Any, configuration_manager: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Use a network as nnU-Net does; tasks, questions and settings come from the plans.

        Args:
            network: The network of the plans.
            plans_manager: nnU-Net's `PlansManager`.
            configuration_manager: nnU-Net's `ConfigurationManager`.
            *args: nnU-Net's other arguments: weights by fold or None, `dataset.json`, trainer name, mirroring axes.
            **kwargs: The same arguments by name.
        """
        super().manual_initialization(network, plans_manager, configuration_manager, *args, **kwargs)
        block = plans_manager.plans.get("nnunet_mtl")
        ours = isinstance(block, dict) and "tasks" in block  # plans of a stock training may hold settings
        self.tasks = TaskSet.from_dataset_json(self.dataset_json) if ours else None
        settings = block.get("settings", {}) if ours else {}
        source = "plans.json: nnunet_mtl.settings"
        self._combination = Combination.from_settings(Settings.from_mapping(settings, source))
        self.calibrations, self.folds, self.answers, self.values = (), (), (), {}
        self.regressions = regressions_of(configuration_manager.network_arch_init_kwargs, block) if ours else ()

    @property
    def questions(self) -> tuple[ClassificationTask, ...]:
        """The model's questions about the image as a whole, in their order."""
        return () if self.tasks is None else self.tasks.classification

    def select_tasks(self, names: Sequence[str]) -> None:
        """Predict only these tasks from now on; the regions of other tasks are empty.

        Raises:
            PredictionError: If a name is unknown, `names` is empty, or the model has no tasks.
        """
        if self.tasks is None:
            raise PredictionError("tasks: the model is a stock nnU-Net, which has none to choose from")
        known = [task.name for task in self.tasks.tasks]
        for name in names:
            if name not in known:
                similar = did_you_mean(name, known)
                raise PredictionError(f"tasks: unknown task {shown(name)}{similar}; the model has {listed(known)}")
        if not names:
            raise PredictionError(f"tasks: none is chosen; the model has {listed(known)}")
        unwrapped(self.network).select_tasks(sorted({known.index(name) for name in names}))

    def case_logits(self) -> list[dict[str, Tensor]]:
        """Return for every fold the logits of the last case, (outputs,), by question that was answered."""
        return [
            {question.name: self._combination.case_logits(patches, question) for question in self._answered()}
            for patches in self.answers
        ]

    def probabilities(self) -> dict[str, Tensor]:
        """Return the probabilities of the classes for the last case, (C,), by question.

        Only folds that were taught a question count; a question that no fold was taught is absent.
        """
        return {question.name: self._probability(question) for question in self._answered()}

    def thresholds(self, question: ClassificationTask) -> tuple[float, ...]:
        """Return the thresholds of a question: the mean over the folds that were taught the question."""
        folds = [fold[question.name].thresholds for fold in self.calibrations if question.name in fold]
        folds = folds or [Calibration.default(question).thresholds]
        return tuple(sum(values) / len(folds) for values in zip(*folds, strict=True))

    def classes(self) -> dict[str, tuple[str, ...]]:
        """Return by question the classes that answer it for the last case: one, or for multilabel any number."""
        of_name = {question.name: question for question in self._answered()}
        return {
            name: answer(self.thresholds(of_name[name]), of_name[name], probability)
            for name, probability in self.probabilities().items()
        }

    def _answered(self) -> list[ClassificationTask]:
        return [
            question
            for question in self.questions
            if self.answers and question.name in self.answers[0][0].logits and self.is_taught(question)
        ]

    def is_taught(self, question: ClassificationTask) -> bool:
        """Return whether the network of any fold was taught a question; true without `calibrations`."""
        return not self.calibrations or any(question.name in fold for fold in self.calibrations)

    def _probability(self, question: ClassificationTask) -> Tensor:
        if not self.calibrations:
            return combine(self.answers, question, self._combination)
        taught = [
            (patches, fold[question.name].temperature)
            for patches, fold in zip(self.answers, self.calibrations, strict=True)
            if question.name in fold
        ]
        folds, temperatures = zip(*taught, strict=True)
        return combine(folds, question, self._combination, temperatures)

    @torch.inference_mode()
    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """Predict a case with every fold, as nnU-Net does; `answers` and `values` then belong to the case.

        Args:
            data: Preprocessed image, (C, *spatial).

        Returns:
            Mean logits of the folds, (R, *spatial).
        """
        self.answers, self.values = (), {}
        self._folds, self._values = [], None
        try:
            logits: Tensor = super().predict_logits_from_preprocessed_data(data)
            self.answers = self._folds if any(self._folds) else ()
            self.values = self._in_units(self._values, n_folds=len(self._folds))
        finally:
            self._folds, self._values = None, None
        return logits

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """Return the logits of one network for an image, (R, *spatial), and keep its answers for the patches."""
        if self._folds is None:
            self.answers, self.values = (), {}
        logits: Tensor = super().predict_sliding_window_return_logits(input_image)
        window, self._value_window = self._value_window, None
        values = None if window is None else window.mean(input_image.shape[1:])
        fold = [patch.cpu() for patch in self._window]
        if self._folds is not None:
            self._folds.append(fold)
            self._values = values if values is None or self._values is None else self._values + values
        else:
            self.answers = (fold,) if fold else ()
            self.values = self._in_units(values, n_folds=1)
        return logits

    def _in_units(self, values: Tensor | None, *, n_folds: int) -> dict[str, Tensor]:
        if values is None:
            return {}
        return {
            task.name: of_task * ((task.scale or 1.0) / n_folds)
            for task, of_task in zip(self.regressions, values, strict=True)
        }

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: Tensor, slicers: Any, do_on_device: bool = True
    ) -> Tensor:
        # nnU-Net calls this again if the device had too little memory: answers of the first call do not count
        self._window = []
        if self.regressions:
            self._value_window = ValueWindow(
                len(self.regressions),
                data.shape[1:],
                slicers,
                self.configuration_manager.patch_size,
                gaussian=self.use_gaussian,
                device=self.device if do_on_device else torch.device("cpu"),
            )
        logits: Tensor = super()._internal_predict_sliding_window_return_logits(data, slicers, do_on_device)
        return logits

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        network = self.network
        views: list[MultiTaskOutput] = []

        def listening(view: Tensor) -> Any:
            output: MultiTaskOutput = network(view, full_output=True)
            views.append(replace(output, segmentation=[], regression={}))  # the voxels would fill the memory
            return beside_logits(output, self.regressions) if self.regressions else output.segmentation

        if self.questions or self.regressions:
            self.network = listening
        try:
            logits: Tensor = super()._internal_maybe_mirror_and_predict(x)
        finally:
            self.network = network
        if views and views[0].classification:
            self._window.append(PatchAnswers.from_views(views))
        if self._value_window is None:
            return logits
        n_logits = logits.shape[1] - len(self.regressions)
        self._value_window.add(logits[0, n_logits:])  # nnU-Net predicts one patch at a time
        return logits[:, :n_logits]
