"""The demonstration: generates data, runs nnU-Net's own commands, scores the predictions and writes a page."""

import argparse
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.discovery import shim_folder
from nnunet_mtl.evaluation.runs.run_dice import run_dice
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics
from nnunet_mtl.lab.demo.answer_scores import Answers, read_answered
from nnunet_mtl.lab.demo.commands import CommandRunner, chain_environment
from nnunet_mtl.lab.demo.page import write_page
from nnunet_mtl.lab.demo.real_scans import fetch_real_cases, write_real_dataset
from nnunet_mtl.lab.demo.recipes import PHANTOM, PHANTOM_QUICK, REAL, REAL_QUICK, Recipe
from nnunet_mtl.lab.demo.report import Outcome, dice_by_kind, dice_mapping, median_case_picture, page_content
from nnunet_mtl.lab.demo.training_log import EpochReporter, read_curves
from nnunet_mtl.tasks import TaskSet, read_dataset_json

DATASET_ID = 990
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans_demo"
TRAINER = "nnUNetTrainerMTLAttention"
STOCK_TRAINER = "nnUNetTrainerStockSchedule"
_MARKER = ".nnunet_mtl_demo"


class DemoError(UserError):
    """The demonstration cannot run as asked."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The options of `nnunet_mtl demo`; its help describes them."""

    folder: Path
    data: str = "phantom"
    source: Path | None = None
    seed: int = 0
    device: str = "auto"
    quick: bool = False
    compare: bool = False

    @classmethod
    def from_namespace(cls, options: argparse.Namespace) -> "DemoOptions":
        """Take the parsed arguments of `nnunet_mtl demo`."""
        return cls(**{name: getattr(options, name) for name in cls.__dataclass_fields__})

    @property
    def recipe(self) -> Recipe:
        """The numbers that belong to the options."""
        full, quick = (PHANTOM, PHANTOM_QUICK) if self.data == "phantom" else (REAL, REAL_QUICK)
        return quick if self.quick else full


def run_demo(options: DemoOptions, progress: Any = print) -> str:
    """Run all steps of the demonstration in one folder.

    Args:
        options: What to run.
        progress: Called with one line at a time.

    Returns:
        The last line for the terminal: headline figures and the path of the page.

    Raises:
        DemoError: If the folder holds files of somebody else, or the options contradict each other.
        CommandError: If a command of the chain fails.
    """
    if options.compare and options.data == "real":
        raise DemoError("--compare: the real scans have no full reference to compare on; leave out --data real")
    folder = _own_folder(options.folder)
    runner = CommandRunner(chain_environment(folder, shim_folder()), folder / "commands.log", progress)
    recipe, device = options.recipe, _device(options.device)
    raw = folder / "nnUNet_raw" / f"Dataset{DATASET_ID}_{recipe.dataset}"
    _make_data(runner, options, raw)
    _plan(runner, recipe)
    _train_and_predict(runner, recipe, raw, device, TRAINER, folder / "predictions")
    answers = _answer(runner, recipe, raw, device, folder / "answers")
    outcome = Outcome(
        options=options,
        raw=raw,
        predictions=folder / "predictions",
        scores=_scores(raw, folder / "predictions", recipe),
        answers=answers,
        curves=read_curves(_results(folder, recipe, TRAINER) / f"fold_{recipe.fold}"),
        settings=_settings(folder, recipe),
        device=device,
        trained_with=TRAINER,
    )
    stock = None
    if options.compare:
        _train_and_predict(runner, recipe, raw, device, STOCK_TRAINER, folder / "predictions_stock")
        stock = _scores(raw, folder / "predictions_stock", recipe)
    content = page_content(outcome, runner.ran, stock)
    _write_scores(folder / "scores.json", outcome, stock)
    if (picture := median_case_picture(outcome)) is not None:
        (folder / "picture.png").write_bytes(picture)
    page = write_page(content, folder / "index.html")
    runner.say("done")
    figures = ", ".join(f"{name} {value}" for name, value in content.headline.items())
    return f"{figures}; page: {page.resolve()}"


def _own_folder(folder: Path) -> Path:
    """Delete and make the folder; a folder that the demonstration did not make is never changed."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARKER).is_file():
            raise DemoError(f"{folder}: holds files the demonstration did not write; give another --folder")
        shutil.rmtree(folder)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).touch()
    return folder.resolve()


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    import torch  # the import takes seconds, and is needed for "auto" only

    return "cuda" if torch.cuda.is_available() else "cpu"


def _make_data(runner: CommandRunner, options: DemoOptions, raw: Path) -> None:
    if options.data == "phantom":
        words = ("phantom", "-d", str(DATASET_ID), "--seed", str(options.seed), *options.recipe.phantom)
        runner.run("nnunet_mtl", *words, show=_every_tenth())
        return
    archive = fetch_real_cases(
        options.folder.resolve().parent / "nnunet_mtl_downloads", source=options.source, progress=runner.say
    )
    write_real_dataset(archive, raw, runner.say)


def _every_tenth() -> Any:
    lines = 0

    def show(line: str) -> str | None:
        nonlocal lines
        lines += 1
        return line if lines % 10 == 0 else None

    return show


def _plan(runner: CommandRunner, recipe: Recipe) -> None:
    dataset = str(DATASET_ID)
    few = ("-np", "2", "-npfp", "2")
    runner.run(
        *("nnUNetv2_plan_and_preprocess", "-d", dataset, "-c", CONFIGURATION, "--verify_dataset_integrity"),
        *(*few, *recipe.planning),
    )
    size = ("--patch_size", *map(str, recipe.patch_size), "--features", *map(str, recipe.features))
    settings = (f"{name}={value}" for name, value in recipe.settings.items())
    runner.run(
        *("nnunet_mtl", "plan", "-d", dataset, "--name", PLANS, "-c", CONFIGURATION),
        *(*size, "--batch_size", str(recipe.batch_size), "--set", *settings),
    )
    if recipe.fold != "all":
        runner.run("nnunet_mtl", "make-splits", "-d", dataset, "--folds", str(recipe.folds))


def _train_and_predict(
    runner: CommandRunner, recipe: Recipe, raw: Path, device: str, trainer: str, predictions: Path
) -> None:
    model = ("-p", PLANS, "-device", device, "-tr", trainer)
    runner.run(
        *("nnUNetv2_train", str(DATASET_ID), CONFIGURATION, recipe.fold, *model), show=EpochReporter(recipe.epochs)
    )
    runner.run(
        *("nnUNetv2_predict", "-i", str(raw / "imagesTs"), "-o", str(predictions), "-d", str(DATASET_ID)),
        *("-c", CONFIGURATION, "-f", recipe.fold, *model, "-npp", "1", "-nps", "1", *_part(recipe)),
        show=EpochReporter(recipe.epochs),
    )


def _part(recipe: Recipe) -> tuple[str, ...]:
    return () if recipe.parts == 1 else ("-num_parts", str(recipe.parts), "-part_id", "0")


def _answer(runner: CommandRunner, recipe: Recipe, raw: Path, device: str, folder: Path) -> Answers | None:
    """Answer the question for every test image; None where the recipe asks none."""
    if not recipe.answering:
        return None
    runner.run(
        *("nnunet_mtl", "predict", "-i", str(raw / "imagesTs"), "-o", str(folder), "-d", str(DATASET_ID)),
        *("-c", CONFIGURATION, "-f", recipe.fold, "-p", PLANS, "-device", device, "-tr", TRAINER),
        *("-npp", "1", "-nps", "1", "--disable_progress_bar", *recipe.answering),
    )
    return read_answered(folder, raw / "labelsTs")


def _scores(raw: Path, predictions: Path, recipe: Recipe) -> RunMetrics:
    dataset_json = read_dataset_json(raw / "dataset.json")
    tasks = TaskSet.from_dataset_json(dataset_json, str(raw / "dataset.json"))
    has_oracle = (raw / "labelsTs").is_dir()
    references = raw / ("labelsTs" if has_oracle else "labelsTr")
    return run_dice(predictions, references, tasks, dataset_json, fully_labelled=has_oracle, parts=recipe.parts)


def _results(folder: Path, recipe: Recipe, trainer: str) -> Path:
    dataset = f"Dataset{DATASET_ID}_{recipe.dataset}"
    return folder / "nnUNet_results" / dataset / f"{trainer}__{PLANS}__{CONFIGURATION}"


def _settings(folder: Path, recipe: Recipe) -> dict[str, Any]:
    plans = json.loads((_results(folder, recipe, TRAINER) / "plans.json").read_text(encoding="utf-8"))
    configuration = plans["configurations"][CONFIGURATION]
    architecture = configuration["architecture"]["arch_kwargs"]
    return {
        **plans["nnunet_mtl"]["settings"],
        "patch_size": configuration["patch_size"],
        "batch_size": configuration["batch_size"],
        "features_per_stage": architecture["features_per_stage"],
    }


def _write_scores(path: Path, outcome: Outcome, stock: RunMetrics | None) -> None:
    tables = {TRAINER: outcome.scores} | ({} if stock is None else {STOCK_TRAINER: stock})
    content = {
        trainer: {
            "headline": {kind: None if math.isnan(dice) else dice for kind, dice in dice_by_kind(table).items()},
            **dice_mapping(table),
        }
        for trainer, table in tables.items()
    }
    if outcome.answers is not None:
        content[TRAINER]["answers"] = outcome.answers.to_mapping()
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
