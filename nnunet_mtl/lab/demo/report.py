"""Makes the content of a demonstration's page from its results."""

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_mtl.evaluation.missing_values import json_number
from nnunet_mtl.evaluation.report.overlay import overlay_figure, read_upright
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics
from nnunet_mtl.lab.demo.answer_scores import Answers
from nnunet_mtl.lab.demo.figures import answers_figure, bars_figure, curves_figure
from nnunet_mtl.lab.demo.page import Command, Comparison, DiceRow, PageContent, Picture, Section
from nnunet_mtl.lab.demo.picture import outlines_figure
from nnunet_mtl.lab.demo.training_log import TrainingCurves
from nnunet_mtl.tasks import TaskSet, read_dataset_json

_PACKAGES = ("nnunet_mtl", "nnunetv2", "torch", "numpy", "SimpleITK")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of a finished demonstration.

    Attributes:
        options: Options of the command (`data`, `seed`, `quick` are read).
        raw: The data set in nnU-Net's raw format.
        predictions: Folder of the predicted label maps.
        scores: Dice of the predictions.
        curves: Training curves.
        settings: Settings of the training.
        trained_with: Name of the trainer.
        answers: Answers to the image-level question; None if the data set has none.
    """

    options: Any
    raw: Path
    predictions: Path
    scores: RunMetrics
    curves: TrainingCurves
    settings: dict[str, Any]
    device: str
    trained_with: str
    answers: Answers | None = None


def page_content(outcome: Outcome, commands: Sequence[Command], stock: RunMetrics | None) -> PageContent:
    """Return the content of the page.

    Args:
        outcome: Results of the multi-task training.
        commands: Every command in order.
        stock: Dice of the stock training on the same union; None without --compare.
    """
    real = outcome.options.data == "real"
    return PageContent(
        title="nnunet_mtl on five real scans" if real else "nnunet_mtl on partially labelled phantoms",
        summary=_summary(outcome, real),
        headline=headline(outcome.scores, stock, outcome.answers),
        shows=_SHOWS_REAL if real else _SHOWS_PHANTOM,
        shows_not=_SHOWS_NOT_REAL if real else _SHOWS_NOT_PHANTOM,
        commands=commands,
        dice=_rows(outcome.scores),
        answers=None if outcome.answers is None else _answers(outcome.answers),
        overlays=_overlays(outcome),
        curves=Picture(
            "Training and validation loss, and pseudo Dice of each task, over the epochs",
            curves_figure(outcome.curves.losses, outcome.curves.task_dice),
        ),
        comparison=None if stock is None else _comparison(outcome.scores, stock),
        settings=outcome.settings,
        versions={
            **{package: version(package) for package in _PACKAGES},
            "Python": platform.python_version(),
            "device": outcome.device,
            "seed of the phantoms": "none" if real else outcome.options.seed,
        },
    )


def median_case_picture(outcome: Outcome) -> bytes | None:
    """Draw outlines and answer of the case with the median mean Dice; None if no case was scored."""
    ranked = outcome.scores.ranked_cases()
    if not ranked:
        return None
    case = ranked[len(ranked) // 2]
    image, truth, prediction, regions, spacing = _case_maps(outcome, case)
    answer = None if outcome.answers is None else outcome.answers.answer_of(case)
    return outlines_figure(image, truth, prediction, regions, spacing_mm=spacing, answer=answer)


def dice_by_kind(scores: RunMetrics) -> dict[str, float]:
    """Return the mean Dice of organs, vessels, tumours and so on; NaN for a kind without any Dice."""
    kinds: dict[str, list[str]] = {}
    for slot, regions in scores.slots.items():
        kinds.setdefault(_KINDS.get(slot, "organs"), []).extend(regions)
    return {kind: scores.mean_over_regions(regions) for kind, regions in kinds.items()}


def dice_mapping(scores: RunMetrics) -> dict[str, Any]:
    """Return the Dice of cases and the means as JSON-able values; null if no case has the region."""
    mean = scores.mean_over_regions
    return {
        "mean": json_number(mean(scores.regions)),
        "tasks": {task: json_number(mean(regions)) for task, regions in scores.tasks.items()},
        "slots": {slot: json_number(mean(regions)) for slot, regions in scores.slots.items()},
        "regions": {
            region: {"dice": json_number(mean([region])), "cases": scores.number_of_cases(region)}
            for region in scores.regions
        },
        "cases": {
            case: {row.region: json_number(row.metrics["dice"]) for row in scores.rows if row.case == case}
            for case in scores.cases
        },
    }


def headline(scores: RunMetrics, stock: RunMetrics | None, answers: Answers | None = None) -> dict[str, str]:
    """Return the main figures: Dice by kind of structure, AUC, and the gap to the stock training if there was one."""
    figures = {f"Dice of {kind}": _shown(dice) for kind, dice in dice_by_kind(scores).items()}
    if answers is not None:
        figures[f"AUC of {answers.question}"] = _figure(answers.auc)
    if stock is not None:
        figures["stock with missing labels as background"] = _shown(stock.mean_over_regions(stock.regions))
        figures["gap in mean Dice"] = _shown(
            scores.mean_over_regions(scores.regions) - stock.mean_over_regions(stock.regions)
        )
    return figures


# Kind of structure by slot; structures with other slots are organs.
_KINDS = {"tumour": "tumours", "vessel": "vessels", "lesion": "lesions"}

_SHOWS_PHANTOM = (
    "One network, trained through nnU-Net's own commands, learnt all structures from cases of one annotated task each.",
    "Scores are Dice of exported label maps on test cases in which everything is annotated.",
)
_SHOWS_NOT_PHANTOM = (
    "Phantoms are not patients: nothing here is a figure of accuracy on scans, and nothing is meant for clinical use.",
    "A run of minutes on a small network is not what nnU-Net reaches with its own schedule.",
)
_SHOWS_REAL = (
    "The chain works on what real scanners wrote: geometry, planning, partial labels, training, prediction, export.",
)
_SHOWS_NOT_REAL = (
    "It says nothing about accuracy: there are five scans, and the network is scored on the scans it was trained on.",
    "Each scan is scored only for the lesion that was outlined in it; nothing is meant for clinical use.",
)


def _summary(outcome: Outcome, real: bool) -> str:
    cases = len(outcome.scores.cases)
    if real:
        return (
            f"Five public scans (brain MR, breast MR, lung CT) as one partially labelled union of three tasks, one "
            f"network trained with {outcome.trained_with}, predicted and scored on the same {cases} scans."
        )
    n_tasks = len(outcome.scores.tasks)
    return (
        f"CT-like phantoms of {n_tasks} tasks, each training case annotated for one of them; one network trained with "
        f"{outcome.trained_with}, predicted on {cases} fully annotated test cases by nnUNetv2_predict."
    )


def _rows(scores: RunMetrics) -> list[DiceRow]:
    rows = []
    for task, regions in scores.tasks.items():
        rows.append(DiceRow(task, "", scores.mean_over_regions(regions), max(map(scores.number_of_cases, regions))))
        rows += [
            DiceRow(task, name, scores.mean_over_regions([name]), scores.number_of_cases(name)) for name in regions
        ]
    return rows


def _overlays(outcome: Outcome) -> list[Picture]:
    ranked = outcome.scores.ranked_cases()
    if not ranked:
        return []
    chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    pictures = []
    for rank, case in chosen.items():
        image, truth, prediction, regions, spacing = _case_maps(outcome, case)
        mean = _shown(outcome.scores.mean_of_case(case))
        caption = f"{rank} case, {case}: image, truth, prediction (mean Dice {mean})"
        pictures.append(Picture(caption, overlay_figure(image, truth, prediction, regions, spacing_mm=spacing)))
    return pictures


def _case_maps(outcome: Outcome, case: str) -> tuple[Any, Any, Any, dict[str, tuple[int, ...]], tuple[float, ...]]:
    """Read image, truth and prediction of a test case, (Z, Y, X); also the regions' labels and the spacing in mm."""
    dataset_json = read_dataset_json(outcome.raw / "dataset.json")
    tasks = TaskSet.from_dataset_json(dataset_json)
    regions = dict(zip(tasks.regions, tasks.region_labels, strict=True))
    ending = dataset_json["file_ending"]
    references = outcome.raw / ("labelsTs" if (outcome.raw / "labelsTs").is_dir() else "labelsTr")
    image, spacing = read_upright(outcome.raw / "imagesTs" / f"{case}_0000{ending}")
    truth, _ = read_upright(references / f"{case}{ending}")
    prediction, _ = read_upright(outcome.predictions / f"{case}{ending}")
    return image, truth, prediction, regions, spacing


def _answers(answers: Answers) -> Section:
    first, second = answers.classes
    counts = answers.to_mapping()["cases"]
    interval = "" if answers.interval is None else " (95 % interval {:.2f} to {:.2f})".format(*answers.interval)
    text = (
        f"The question is about the whole image: {answers.question}, {first} or {second}. `nnunet_mtl predict` "
        f"answered it for {counts[first]} {first} and {counts[second]} {second} test cases: "
        f"AUC {_figure(answers.auc)}{interval}, balanced accuracy "
        f"{_figure(answers.scores.metrics['balanced_accuracy'])} at a probability of one half."
    )
    caption = f"Probability of {second} for each test case, by what is true, and the ROC curve"
    picture = Picture(caption, answers_figure(answers.probability, answers.positive, answers.classes))
    return Section(text, picture)


def _comparison(scores: RunMetrics, stock: RunMetrics) -> Comparison:
    ours = [scores.mean_over_regions([region]) for region in scores.regions]
    theirs = [stock.mean_over_regions([region]) for region in scores.regions]
    text = (
        "The same data, network size and schedule, trained by nnU-Net's own trainer: what a case does not annotate is "
        f"background to it. Mean Dice over regions {_shown(stock.mean_over_regions(stock.regions))}, against "
        f"{_shown(scores.mean_over_regions(scores.regions))}."
    )
    picture = bars_figure(scores.regions, {"annotated regions only": ours, "missing labels as background": theirs})
    return Comparison(text, Picture("Dice of each region for the two trainings", picture))


def _figure(value: float | None) -> str:
    return _shown(math.nan if value is None else value)


def _shown(value: float) -> str:
    return "not available" if math.isnan(value) else f"{value:.2f}"
