"""The options of `nnunet_mtl evaluate`: checked, turned into an `Evaluation`, and carried out."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mtl.common.messages import did_you_mean, listed, shown
from nnunet_mtl.datasets.label_table import LabelTable
from nnunet_mtl.evaluation.evaluate_run import Evaluation, EvaluationError, evaluate_run, last_line
from nnunet_mtl.evaluation.evaluate_runs import evaluate_runs
from nnunet_mtl.evaluation.metrics.empty_masks import EmptyPolicy
from nnunet_mtl.evaluation.metrics.length_unit import LengthUnit, length_unit
from nnunet_mtl.evaluation.metrics.lesion_detection import LesionRule
from nnunet_mtl.evaluation.metrics.region_metrics import MetricOptions
from nnunet_mtl.evaluation.runs.ranking import Method
from nnunet_mtl.tasks import TaskSet, read_dataset_json


@dataclass(frozen=True)
class EvaluationOptions:
    """The checked options of the command.

    Attributes:
        evaluation: How every run is evaluated.
        folders: One folder of predictions, or the folders of the runs to compare.
        compared: Whether runs are compared.
        output: Folder of the results.
        single_task: Folders of the single-task runs that the multi-task gain is relative to.
        ranking: How runs are ranked, see `rank_runs`.
    """

    evaluation: Evaluation
    folders: tuple[Path, ...]
    compared: bool
    output: Path
    single_task: tuple[Path, ...] = ()
    ranking: Method = "aggregate"

    @classmethod
    def from_namespace(cls, dataset: Path, options: argparse.Namespace) -> "EvaluationOptions":
        """Check the options of the command line.

        Args:
            dataset: Folder of the data set in `nnUNet_raw`.
            options: Parsed command line.

        Raises:
            UserError: If the data set cannot be read, a folder is missing, or an option does not fit.
        """
        path = dataset / "dataset.json"
        dataset_json = read_dataset_json(path)
        taskset = TaskSet.from_dataset_json(dataset_json, str(path))
        if not isinstance(dataset_json.get("file_ending"), str):
            raise EvaluationError(f'{path}: file_ending: must be given, such as ".nii.gz"')
        compared = options.runs is not None
        folders = tuple(options.runs if compared else [options.pred])
        single_task = tuple(options.single_task)
        images = options.images if options.images is not None else _images_beside(options.ref)
        for folder in (*folders, *single_task, options.ref, *([options.images] if options.images else [])):
            if not folder.is_dir():
                raise EvaluationError(f"{folder}: is no folder; check the path")
        if compared and len(folders) + len(single_task) < 2:
            raise EvaluationError("--runs: one run cannot be compared; name two, or --single_task, or use -pred")
        if single_task and not compared:
            raise EvaluationError("--single_task: is for comparing; give the multi-task run with --runs")
        if options.n_processes < 1:
            raise EvaluationError(f"-np {options.n_processes}: use 1 or more")
        evaluation = Evaluation(
            references=options.ref,
            table=LabelTable(dataset_json, taskset),
            options=_metric_options(options, taskset, length_unit(dataset_json)),
            fully_labelled=options.fully_labelled,
            n_processes=options.n_processes,
            images=images,
            figures=not options.no_figures,
        )
        output = options.output or (Path("comparison") if compared else folders[0] / "evaluation")
        return cls(evaluation, folders, compared, output, single_task, options.ranking)


def run_evaluation(options: EvaluationOptions, print_line: Callable[[str], None]) -> str:
    """Evaluate one run, or evaluate and compare several; return the last line for the user.

    Args:
        options: The checked options.
        print_line: Called with one line of text at a time.

    Raises:
        UserError: If anything is wrong with the input; nothing of the run at fault is written.
    """
    if not options.compared:
        run = evaluate_run(options.folders[0], options.output, options.evaluation, print_line)
        return last_line(run, options.output)
    compared = evaluate_runs(
        options.folders,
        options.output,
        options.evaluation,
        print_line,
        single_task=options.single_task,
        method=options.ranking,
    )
    return f"{_headline(compared)}; everything is in {options.output}"


def _headline(compared: dict[str, Any]) -> str:
    parts = []
    if "ranking" in compared:
        ranks = compared["ranking"]["ranks"]
        parts.append("ranks " + ", ".join(f"{name} {ranks[name]:g}" for name in sorted(ranks, key=ranks.__getitem__)))
    if "gain" in compared:
        gains = compared["gain"]["runs"]
        parts.append("gain " + ", ".join(f"{name} {100 * gain['delta']:+.1f} %" for name, gain in gains.items()))
    return "; ".join(parts)


def _images_beside(references: Path) -> Path | None:
    """Return the folder imagesTs or imagesTr beside labelsTs or labelsTr; None if there is none."""
    images = references.parent / references.name.replace("labels", "images")
    return images if references.name.startswith("labels") and images.is_dir() else None


def _metric_options(options: argparse.Namespace, taskset: TaskSet, unit: LengthUnit) -> MetricOptions:
    default, tolerances = _tolerances(options.tolerance, taskset.regions)
    lesions = options.lesions
    if lesions is None:
        lesions = [
            region
            for task in taskset.tasks
            for region, slot in zip(task.regions, task.slots, strict=True)
            if "tumour" in slot or "tumor" in slot or "lesion" in slot
        ]
    _require_regions("--lesions", lesions, taskset.regions)
    return MetricOptions(
        tolerance_mm=default,
        tolerances_mm=tolerances,
        hd_rule=options.hd95,
        empty=EmptyPolicy(options.both_empty, options.one_empty),
        lesion_regions=frozenset(lesions),
        lesion_rule=LesionRule(options.lesion_share, options.lesion_voxels),
        unit=unit,
    )


def _tolerances(texts: Sequence[str], regions: Sequence[str]) -> tuple[float, dict[str, float]]:
    default, by_region = MetricOptions.tolerance_mm, {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise EvaluationError(f"--tolerance {shown(text)}: must be a number of mm, or REGION=MM") from None
        if equals:
            by_region[name] = value
        else:
            default = value
    _require_regions("--tolerance", list(by_region), regions)
    return default, by_region


def _require_regions(option: str, names: Sequence[str], regions: Sequence[str]) -> None:
    unknown = [name for name in names if name not in regions]
    if unknown:
        similar = did_you_mean(unknown[0], regions)
        raise EvaluationError(f"{option}: {listed(unknown)} is no region{similar}; there are {listed(regions)}")
