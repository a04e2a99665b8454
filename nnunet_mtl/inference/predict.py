"""`nnunet_mtl predict`: nnU-Net's segmentations, the maps of single tasks, the image-level answers, values per voxel.

A case is predicted by the same functions of nnU-Net as in `nnUNetv2_predict`. The order around these functions differs:
a case that cannot be predicted is reported and the others are predicted, and a file is written as a whole or not at
all.
"""

import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.helpers import empty_cache
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from nnunet_mtl.common.files import write_json
from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.task_maps import task_maps
from nnunet_mtl.inference.answers import CSV_NAME, CaseAnswer, forget_answers, write_tables
from nnunet_mtl.inference.calibration import remarks
from nnunet_mtl.inference.case_files import CaseFiles, find_cases
from nnunet_mtl.inference.case_stages import Export, Model, Prepared, export, prepare
from nnunet_mtl.inference.case_workers import Failure, Job, Workers, ahead, attempt
from nnunet_mtl.inference.finished_cases import ARGUMENTS, refuse_other_predictions, unfinished
from nnunet_mtl.inference.predict_options import PredictError, PredictOptions, device_to_use
from nnunet_mtl.inference.predictor import MultiTaskPredictor
from nnunet_mtl.inference.voxel_values import FOLDER, refuse_unwritable
from nnunet_mtl.tasks import ClassificationTask, TaskSet, without_cases


@dataclass
class Report:
    """Result of a run.

    Attributes:
        folder: The output folder.
        done: Names of the cases that this run predicted.
        kept: Names of the cases that an earlier run predicted.
        failed: Message of the error by name of the case.
        n_answered: Number of cases in the tables of image-level answers; None for a model without questions.
        seconds: Duration of the run.
    """

    folder: Path
    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    n_answered: int | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        text = f"predicted {len(self.done)} of {len(self.done) + len(self.failed)} cases in {self.seconds:.0f} s"
        text += f", {len(self.failed)} failed ({listed(self.failed)})" if self.failed else ""
        text += f", {len(self.kept)} were there already" if self.kept else ""
        text += f"; label maps: {self.folder}"
        return text if self.n_answered is None else f"{text}; answers for {self.n_answered} cases: {CSV_NAME} there"


def predict(options: PredictOptions) -> Report:
    """Predict the cases of a folder.

    Raises:
        UserError: If no case can be predicted with these options.
    """
    started = time.monotonic()
    options.check()
    model_folder = options.model_folder()
    with device_to_use(options.device) as device:
        tqdm.write(f"model {model_folder}, computing on {device.type}")
        predictor = MultiTaskPredictor(
            tile_step_size=options.step_size,
            use_mirroring=not options.disable_tta,
            perform_everything_on_device=not options.not_on_device,
            device=device,
            verbose=options.verbose,
            verbose_preprocessing=options.verbose,
            allow_tqdm=not options.disable_progress_bar,
        )
        predictor.initialize_from_trained_model_folder(str(model_folder), options.fold_names, options.checkpoint)
        run = _Run(options, model_folder, predictor)
        cases = run.cases_to_do()
        try:
            run.predict(cases)
        finally:
            run.write_tables()
            compute_gaussian.cache_clear()
            empty_cache(device)
    run.report.seconds = time.monotonic() - started
    return run.report


class _Run:
    """One prediction of a folder."""

    def __init__(self, options: PredictOptions, model_folder: Path, predictor: MultiTaskPredictor) -> None:
        self.options, self.model_folder, self.predictor = options, model_folder, predictor
        self.report = Report(options.output)
        dataset_json = without_cases(predictor.dataset_json)
        self.model = Model(predictor.plans_manager, predictor.configuration_manager, dataset_json)
        tasks = predictor.tasks or TaskSet.from_dataset_json(dataset_json)
        self.ending = str(dataset_json["file_ending"])
        self.tasks = tuple(task.name for task in tasks.tasks)
        self.values = tuple(task.name for task in predictor.regressions)
        if options.tasks:
            predictor.select_tasks([name for name in options.tasks if name not in self.values])
            self.tasks, self.values = (
                tuple(name for name in names if name in options.tasks) for names in (self.tasks, self.values)
            )
        refuse_unwritable(predictor.plans_manager.image_reader_writer_class, predictor.regressions)
        self.task_maps = task_maps(tasks, self.tasks, dataset_json) if options.save_per_task else ()
        self.questions = _asked(predictor, tasks, self.tasks)
        self.evidence = {
            question.name: tasks.regions.index(question.evidence)
            for question in self.questions
            if question.evidence is not None
        }

    def cases_to_do(self) -> list[CaseFiles]:
        """Prepare the output folder and return the cases to predict; cases that are kept stand in the report."""
        options = self.options
        stage = self.predictor.configuration_manager.previous_stage_name
        if stage is not None and options.prev_stage_predictions is None:
            raise PredictError(f"the model refines the predictions of {stage}; give -prev_stage_predictions FOLDER")
        cases = find_cases(
            options.images,
            self.ending,
            previous_stage=options.prev_stage_predictions,
            part=options.part_id,
            parts=options.num_parts,
        )
        self._open_output()
        if options.continue_prediction:
            return [case for case in cases if not self._is_there(case.name)]
        return cases

    def _open_output(self) -> None:
        folder, options = self.options.output, self.options
        made_by = {
            "model": str(self.model_folder.resolve()),
            "folds": list(options.fold_names),
            "checkpoint": options.checkpoint,
            "tasks": list(self.tasks),
            "step_size": options.step_size,
            "mirroring": not options.disable_tta,
        }
        if self.values:
            made_by["values"] = list(self.values)
        if options.continue_prediction:
            refuse_other_predictions(folder, made_by)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not options.continue_prediction and options.num_parts == 1:
                forget_answers(folder)
            write_json(folder / ARGUMENTS, {**options.as_nnunet_arguments(), "nnunet_mtl": made_by})
            write_json(folder / "dataset.json", self.model.dataset_json)
            write_json(folder / "plans.json", self.predictor.plans_manager.plans)
            for task in self.task_maps:
                (folder / task.name).mkdir(exist_ok=True)
                write_json(folder / task.name / "dataset.json", task.dataset_json)
            for name in self.values:
                (folder / FOLDER / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PredictError(f"{folder}: cannot be written to ({error.strerror}); give another -o") from None

    def _is_there(self, case: str) -> bool:
        problem = unfinished(
            self.model,
            self.options.output,
            case,
            save_probabilities=self.options.save_probabilities,
            task_maps=self.task_maps,
            questions=self.questions,
            values=self.values,
        )
        if not problem:
            self.report.kept.append(case)
        elif (self.options.output / f"{case}{self.ending}").is_file():
            tqdm.write(f"case {case}: predicted again: {problem}")
        return not problem

    def predict(self, cases: list[CaseFiles]) -> None:
        """Predict the cases, while other processes read the next cases and write the last."""
        if not self.questions:
            tqdm.write("no image-level answer: the model, or the part chosen with --tasks, has no question")
        options, predictor = self.options, self.predictor
        for line in remarks(self.questions, predictor.folds, predictor.calibrations, options.checkpoint):
            tqdm.write(line)
        readers, writers = (Workers(min(number, len(cases))) for number in (options.npp, options.nps))
        off = options.disable_progress_bar
        with readers, writers, tqdm(total=len(cases), desc="cases", unit="case", disable=off) as bar:
            writing: deque[tuple[str, Job]] = deque()
            for case, prepared in ahead(readers, cases, prepare, self.model, options.verbose):
                predicted = prepared if isinstance(prepared, Failure) else attempt(self._predict, prepared)
                if isinstance(predicted, Failure):
                    self._finish(case.name, predicted, bar)
                    continue
                logits, answers, values = predicted
                job = Export(
                    case.name,
                    options.output,
                    options.save_probabilities,
                    self.task_maps,
                    answers,
                    self.evidence,
                    values,
                )
                writing.append((case.name, writers.submit(export, self.model, logits, prepared.properties, job)))
                if len(writing) > writers.number:
                    name, written = writing.popleft()
                    self._finish(name, written.result(), bar)
            for name, written in writing:
                self._finish(name, written.result(), bar)

    def _predict(
        self, prepared: Prepared
    ) -> tuple[npt.NDArray[np.floating[Any]], dict[str, CaseAnswer], dict[str, npt.NDArray[np.float32]]]:
        """Return the logits of a case, (R, *spatial), the answers by question, and the values by regression task."""
        logits = self.predictor.predict_logits_from_preprocessed_data(torch.from_numpy(prepared.data)).cpu()
        if not all(bool(torch.isfinite(region).all()) for region in logits):
            raise PredictError("the network's output is not finite; look for NaN in the image and in the training log")
        classes, probabilities = self.predictor.classes(), self.predictor.probabilities()
        answers = {}
        for question in self.questions:
            if question.name not in probabilities:
                answers[question.name] = CaseAnswer.not_available(question)
                continue
            of_classes = probabilities[question.name].tolist()
            if not np.isfinite(of_classes).all():
                raise PredictError(f"the network's answer to {question.name!r} is not finite")
            by_class = dict(zip(question.classes, of_classes, strict=True))
            answers[question.name] = CaseAnswer(by_class, classes[question.name])
        values = {name: self.predictor.values[name].numpy() for name in self.values}
        for name, of_voxels in values.items():
            if not np.isfinite(of_voxels).all():
                raise PredictError(f"the network's values of {name!r} are not finite; look for NaN in the image")
        return logits.numpy(), answers, values

    def _finish(self, case: str, outcome: Any, bar: Any) -> None:
        if isinstance(outcome, Failure):
            self.report.failed[case] = outcome.message
            tqdm.write(f"nnunet_mtl: case {case}: {outcome.message}", file=sys.stderr)
            if self.options.verbose and outcome.details:
                tqdm.write(outcome.details, file=sys.stderr)
        else:
            self.report.done.append(case)
        bar.update()

    def write_tables(self) -> None:
        """Write the tables of the image-level answers for all finished cases."""
        if self.questions:
            about = {
                "folds": list(self.options.fold_names),
                "checkpoint": self.options.checkpoint,
                "tasks": {question.name: self._about(question) for question in self.questions},
            }
            folder = self.options.output
            try:
                self.report.n_answered = write_tables(folder, self.questions, about, self.ending)
            except OSError as error:
                raise PredictError(
                    f"{folder / CSV_NAME}: cannot be written ({error.strerror}); then use --continue_prediction"
                ) from None

    def _about(self, question: ClassificationTask) -> Mapping[str, Any]:
        of_folds = [fold.get(question.name) for fold in self.predictor.calibrations]  # None: never taught
        return {
            **question.to_json(),
            "temperatures": [None if calibration is None else calibration.temperature for calibration in of_folds],
            "calibrated": [calibration is not None and calibration.fitted for calibration in of_folds],
            "thresholds": list(self.predictor.thresholds(question)),
        }


def _asked(predictor: MultiTaskPredictor, tasks: TaskSet, chosen: tuple[str, ...]) -> tuple[ClassificationTask, ...]:
    """Return the questions that the network answers if these tasks are chosen."""
    in_network = predictor.configuration_manager.network_arch_init_kwargs.get("questions", ())
    names = {question["name"] for question in in_network}
    regions = {region for task in tasks.tasks if task.name in chosen for region in task.regions}
    return tuple(
        question
        for question in predictor.questions
        if question.name in names and (question.evidence is None or question.evidence in regions)
    )
