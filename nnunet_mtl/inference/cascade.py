"""`nnunet_mtl cascade-predict`: one network for each task, which predicts inside the box around the task's parent.

The model cascade that OM-Net replaces by one network (Zhou, Ding, Wang, Lu, Tao, IEEE TIP 2020): the root task is
predicted in the whole image, every other task in the box around its parent, and kept only inside the parent. All steps
from image to label map are nnU-Net's own functions; a label map is written as a whole or not at all.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.helpers import empty_cache
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from nnunet_mtl.common.files import write_json
from nnunet_mtl.common.messages import did_you_mean, listed, shown
from nnunet_mtl.datasets.file_integrity import file_problem
from nnunet_mtl.datasets.label_maps import painted
from nnunet_mtl.datasets.per_task.parent_box import parent_box
from nnunet_mtl.datasets.raw_dataset import RawDataset
from nnunet_mtl.inference.cascade_options import CascadeOptions
from nnunet_mtl.inference.cascade_stage import Regions, Stage, refuse_unlike
from nnunet_mtl.inference.case_files import CaseFiles, find_cases, number_of_channels
from nnunet_mtl.inference.case_workers import Failure, attempt
from nnunet_mtl.inference.finished_cases import ARGUMENTS, refuse_other_predictions
from nnunet_mtl.inference.predict_options import PredictError, device_to_use
from nnunet_mtl.inference.predictor import MultiTaskPredictor
from nnunet_mtl.tasks import TaskSet, without_cases


@dataclass
class StageCost:
    """Cost of a network of the cascade; the lists have one value for every case in which the network ran.

    Attributes:
        seconds: Time for a case, preprocessing included.
        shares: Share of the image's voxels that lie in the box.
        passes: Forward passes of the network.
        n_empty: Number of cases in which the parent was empty, so that the network did not run.
    """

    seconds: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    n_empty: int = 0

    def __str__(self) -> str:
        empty = f", parent empty in {self.n_empty}" if self.n_empty else ""
        if not self.seconds:
            return f"never run{empty}"
        means = [float(np.mean(values)) for values in (self.seconds, self.passes, self.shares)]
        return f"{means[0]:.2f} s and {means[1]:.1f} passes in {means[2]:.0%} of the image{empty}"


@dataclass
class CascadeReport:
    """Result of a run of the cascade.

    Attributes:
        folder: Folder of the label maps.
        costs: Cost of the network by task.
        done: Names of the cases that this run predicted.
        kept: Names of the cases that an earlier run predicted.
        failed: Message of the error by name of the case.
        seconds: Duration of the run.
    """

    folder: Path
    costs: dict[str, StageCost] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        text = f"predicted {len(self.done)} of {len(self.done) + len(self.failed)} cases in {self.seconds:.0f} s"
        if self.done:
            text += f" (a case: {'; '.join(f'{task} {cost}' for task, cost in self.costs.items())})"
        text += f", {len(self.failed)} failed ({listed(self.failed)})" if self.failed else ""
        text += f", {len(self.kept)} were there already" if self.kept else ""
        return f"{text}; label maps: {self.folder}"


def predict_cascade(source: Path, options: CascadeOptions) -> CascadeReport:
    """Predict the cases of a folder.

    Args:
        source: Folder of the data set in `nnUNet_raw`, whose labels are written; without a block, its regions are the
            tasks.
        options: Options of the command.

    Raises:
        UserError: If no case can be predicted with these options.
    """
    started = time.monotonic()
    options.check()
    raw = RawDataset.read(source, regions_are_tasks=True)
    order = in_order(raw.taskset, options.models, source.name)
    with device_to_use(options.device) as device:
        tqdm.write(f"networks for {', '.join(order)}, one after the other, computing on {device.type}")
        stages = [_open(raw.taskset, task, options, device) for task in order]
        refuse_unlike(stages, raw.file_ending)
        cascade = Cascade(raw, stages, options)
        try:
            cascade.predict(cascade.cases_to_do())
        finally:
            compute_gaussian.cache_clear()
            empty_cache(device)
    cascade.report.seconds = time.monotonic() - started
    return cascade.report


def in_order(taskset: TaskSet, models: Mapping[str, Path], source: str) -> list[str]:
    """Return the tasks that have a model, parents before their children.

    Raises:
        PredictError: If a task is unknown, or has a parent without a model.
    """
    parents = {task.name: task.parent for task in taskset.tasks}
    for task in models:
        if task not in parents:
            similar = did_you_mean(task, parents)
            raise PredictError(f"-m {shown(task)}: no such task in {source}{similar}; it has {listed(parents)}")
        parent = parents[task]
        if parent is not None and parent not in models:
            raise PredictError(f"-m {task}: lies inside {parent}, which has no model; add -m {parent}=FOLDER")
    done: list[str] = []
    while len(done) < len(models):  # parents do not run in a circle, so every round adds a task
        done += [task for task in parents if task in models and task not in done and parents[task] in (None, *done)]
    return done


def _open(taskset: TaskSet, task: str, options: CascadeOptions, device: torch.device) -> Stage:
    predictor = MultiTaskPredictor(
        tile_step_size=options.step_size,
        use_mirroring=not options.disable_tta,
        perform_everything_on_device=device.type == "cuda",
        device=device,
        verbose=options.verbose,
        verbose_preprocessing=options.verbose,
        allow_tqdm=not options.disable_progress_bar,
    )
    folder = options.models[task]
    predictor.initialize_from_trained_model_folder(str(folder), options.fold_names, options.checkpoint)
    return Stage.open(taskset, task, predictor, folder, options.margin)


class Cascade:
    """Predicts cases with networks that are loaded.

    Args:
        raw: The data set whose labels are written.
        stages: The networks, parents before their children.
        options: Options of the command.
    """

    def __init__(self, raw: RawDataset, stages: Sequence[Stage], options: CascadeOptions) -> None:
        self.raw, self.stages, self.options = raw, stages, options
        first = stages[0].predictor
        self.reader = first.plans_manager.image_reader_writer_class()
        self.n_channels = number_of_channels(first.dataset_json)
        self.report = CascadeReport(options.output, {stage.task: StageCost() for stage in stages})

    def cases_to_do(self) -> list[CaseFiles]:
        """Prepare the output folder and return the cases to predict; cases that are kept stand in the report."""
        cases = find_cases(self.options.images, self.raw.file_ending)
        folder, options = self.options.output, self.options
        made_by = {
            "models": {stage.task: str(stage.folder.resolve()) for stage in self.stages},
            "margins": {stage.task: stage.margin_mm for stage in self.stages if stage.parent},
            "folds": options.folds and list(options.folds),
            "checkpoint": options.checkpoint,
            "step_size": options.step_size,
            "mirroring": not options.disable_tta,
        }
        if options.continue_prediction:
            refuse_other_predictions(folder, made_by)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / ARGUMENTS, {"nnunet_mtl": made_by})
            write_json(folder / "dataset.json", without_cases(self.raw.dataset_json))
        except OSError as error:
            raise PredictError(f"{folder}: cannot be written to ({error.strerror}); give another -o") from None
        if not options.continue_prediction:
            return cases
        return [case for case in cases if not self._is_there(case.name)]

    def _is_there(self, case: str) -> bool:
        path = self.options.output / f"{case}{self.raw.file_ending}"
        whole = path.is_file() and not file_problem(path)
        if whole and not isinstance(attempt(self.reader.read_seg, str(path)), Failure):
            self.report.kept.append(case)
            return True
        if path.is_file():
            tqdm.write(f"case {case}: predicted again: {path} is damaged")
        return False

    def predict(self, cases: Sequence[CaseFiles]) -> None:
        """Predict the cases one after the other. A case that fails is reported, and the others are predicted."""
        missing = [task.name for task in self.raw.taskset.tasks if task.name not in self.report.costs]
        if missing:
            tqdm.write(f"no network for {listed(missing)}: background in every map")
        off = self.options.disable_progress_bar
        for case in tqdm(cases, desc="cases", unit="case", disable=off):
            outcome = attempt(self._predict, case)
            if isinstance(outcome, Failure):
                self.report.failed[case.name] = outcome.message
                tqdm.write(f"nnunet_mtl: case {case.name}: {outcome.message}")
                if self.options.verbose and outcome.details:
                    tqdm.write(outcome.details)
            else:
                self.report.done.append(case.name)

    def _predict(self, case: CaseFiles) -> None:
        image, properties = case.read(self.reader, self.n_channels)
        regions = self.regions(image, properties)
        labels = painted(regions.reshape(len(regions), -1).T, self.raw.taskset.regions_class_order)
        self._write(case.name, labels.reshape(regions.shape[1:]), properties)

    def regions(self, image: Any, properties: Mapping[str, Any]) -> Regions:
        """Run the cascade on an image.

        Args:
            image: The image as nnU-Net's reader returns it, (C, Z, Y, X).
            properties: The properties of the image as nnU-Net's reader returns them.

        Returns:
            Which voxels are in which region of the data set, (R, Z, Y, X). A task's regions lie inside the parent; they
            are empty if the parent is empty.
        """
        regions: Regions = np.zeros((len(self.raw.taskset.regions), *image.shape[1:]), np.bool_)
        for stage in self.stages:
            cost = self.report.costs[stage.task]
            started, passes = time.monotonic(), stage.passes
            inside = stage.place(regions)
            box = parent_box(inside, properties["spacing"], stage.margin_mm)
            if box is None:
                cost.n_empty += 1
                continue
            predicted = stage.predict(image, properties, box) & inside[box]
            for region, voxels in zip(stage.regions, predicted, strict=True):
                regions[region][box] = voxels
            cost.seconds.append(time.monotonic() - started)
            cost.passes.append(stage.passes - passes)
            cost.shares.append(inside[box].size / inside.size)
        return regions

    def _write(self, case: str, labels: Any, properties: Mapping[str, Any]) -> None:
        folder, name = self.options.output, f"{case}{self.raw.file_ending}"
        aside = folder / f".{case}.writing"
        shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed
        try:
            aside.mkdir(parents=True)
            self.reader.write_seg(labels, str(aside / name), dict(properties))
            (aside / name).replace(folder / name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
