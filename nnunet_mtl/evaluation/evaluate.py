"""The whole evaluation: predictions and references in, tables and figures out."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_mtl._messages import listed
from nnunet_mtl.errors import UserError
from nnunet_mtl.evaluation.answer_comparison import compare_answers
from nnunet_mtl.evaluation.answer_figures import question_figures
from nnunet_mtl.evaluation.case_scores import check_cases, score_cases
from nnunet_mtl.evaluation.cases import LabelTable, Pair, case_table, find_pairs, refuse
from nnunet_mtl.evaluation.comparison import compare_runs
from nnunet_mtl.evaluation.figures import bland_altman_figure, boxes_figure
from nnunet_mtl.evaluation.question_evaluation import QuestionEvaluation, evaluate_table
from nnunet_mtl.evaluation.ranking import Method
from nnunet_mtl.evaluation.run_scores import CASES_NAME, RunScores
from nnunet_mtl.evaluation.segmentation import Options
from nnunet_mtl.evaluation.selected_overlays import write_overlays
from nnunet_mtl.evaluation.tables import METRICS_OF_TABLE, result_table
from nnunet_mtl.evaluation.units import LengthUnit, with_unit
from nnunet_mtl.files import write_json

ANSWERS_NAME, SUMMARY_NAME, COMPARISON_NAME = "classification.csv", "summary.json", "comparison.json"

Say = Callable[[str], None]


class EvaluationError(UserError):
    """An evaluation cannot be made as asked."""


@dataclass(frozen=True)
class Evaluation:
    """What is asked of every run.

    Attributes:
        references: Folder of reference label maps.
        table: What the values of label maps mean.
        options: Of the metrics.
        fully_labelled: Whether every region is annotated in every reference.
        n_processes: How many cases at once.
        images: Folder of the images, for overlays; None for no overlays.
        figures: Whether figures are drawn.
    """

    references: Path
    table: LabelTable
    options: Options
    fully_labelled: bool = False
    n_processes: int = 1
    images: Path | None = None
    figures: bool = True


@dataclass(frozen=True)
class Run:
    """One evaluated run.

    Attributes:
        scores: Of its segmentations.
        questions: Of its answers, by question; empty without a table of answers.
        summary: What is in `summary.json`.
    """

    scores: RunScores
    questions: Mapping[str, QuestionEvaluation] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def areas(self) -> dict[str, float | None]:
        """The AUC of each question that it answers."""
        questions = self.summary.get("classification", {})
        return {name: question["metrics"].get("auc") for name, question in questions.items()}


def evaluate(predictions: Path, output: Path, asked: Evaluation, say: Say) -> Run:
    """Evaluate one run and write `cases.csv`, `summary.json`, the table and the figures.

    Args:
        predictions: Folder of label maps, and the table of answers if there is one.
        output: Made if it is not there; files of an earlier evaluation in it are replaced.
        asked: What to evaluate, and how.
        say: Called with one line at a time.

    Raises:
        UserError: If anything is wrong with the input; nothing is written then.
    """
    pairs, problems = find_pairs(predictions, asked.references, asked.table, fully_labelled=asked.fully_labelled)
    found, warnings = check_cases(pairs, asked.table, asked.n_processes)
    refuse([*problems, *found])
    questions = _questions(predictions, asked, [pair.case for pair in pairs])
    for line in (*warnings, *asked.options.describe()):
        say(line)
    scores = RunScores(tuple(score_cases(pairs, asked.table, asked.options, asked.n_processes)), asked.options.unit)
    summary = {
        "predictions": str(predictions),
        "references": str(asked.references),
        "rules": list(asked.options.describe()),
        "overlaps": _overlap_note(pairs),
        **scores.summary(asked.table.taskset),
        "classification": {name: question.to_mapping() for name, question in questions.items()},
    }
    run = Run(scores, questions, summary)
    output.mkdir(parents=True, exist_ok=True)
    scores.write(output / CASES_NAME)
    write_json(output / SUMMARY_NAME, summary)
    write_tables(output, {predictions.name or str(predictions): run}, asked.table, asked.options.unit)
    if asked.figures:
        _write_figures(output / "figures", run, pairs, asked, say)
    return run


def evaluate_runs(
    folders: Sequence[Path],
    output: Path,
    asked: Evaluation,
    say: Say,
    *,
    single_task: Sequence[Path] = (),
    method: Method = "aggregate",
) -> dict[str, Any]:
    """Evaluate and compare runs; each gets a folder of its own, and `comparison.json` and one table are of all.

    Args:
        folders: Of predictions, or of earlier evaluations (with a `cases.csv`), which are not made again.
        output: Where everything is written.
        asked: What to evaluate, and how.
        say: Called with one line at a time.
        single_task: Folders like `folders`, to which the multi-task gain is relative.
        method: How ranks come about, see `rank_runs`.

    Returns:
        What is in `comparison.json`.

    Raises:
        UserError: If anything is wrong with the input.
    """
    names = _names(folders)
    runs = {name: _run(folder, output / name, asked, say) for name, folder in zip(names, folders, strict=True)}
    single_names = [f"single_task_{name}" for name in _names(single_task)]
    baseline = [_run(folder, output / name, asked, say) for name, folder in zip(single_names, single_task, strict=True)]
    comparison = compare_runs(
        {name: run.scores for name, run in runs.items()},
        [run.scores for run in baseline],
        method=method,
        areas={name: run.areas for name, run in runs.items()},
        single_areas=[run.areas for run in baseline],
    )
    # A run evaluated before has its answers' scores and no longer the answers: it is not among these.
    comparison["answers"] = compare_answers(
        {name: {one: each.answered for one, each in run.questions.items()} for name, run in runs.items()}
    )
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / COMPARISON_NAME, with_unit(comparison, asked.options.unit))
    write_tables(output, runs, asked.table, asked.options.unit)
    return comparison


def last_line(run: Run, output: Path) -> str:
    """Return the headline of an evaluated run: mean Dice by slot, AUC by question, and where everything is."""
    figures = [f"{len(run.scores.cases)} cases"]
    for slot, of_slot in run.summary["slots"].items():
        if of_slot["mean_dice"] is not None:
            figures.append(f"mean Dice of {slot} {of_slot['mean_dice']:.3f}")
    for name, question in run.questions.items():
        area = question.metrics.get("auc")
        figures.append(f"AUC of {name} {'not available' if area is None else f'{area:.3f}'}")
    return f"{', '.join(figures)}; everything is in {output}"


def write_tables(output: Path, runs: Mapping[str, Run], table: LabelTable, unit: LengthUnit) -> None:
    """Write the table of the runs as `table.md` and `table.tex`."""
    taskset = table.taskset
    tasks = {task.name: dict(zip(task.regions, task.slots, strict=True)) for task in taskset.tasks}
    result = result_table({name: run.scores.means(METRICS_OF_TABLE) for name, run in runs.items()}, tasks, unit)
    (output / "table.md").write_text(result.markdown(), encoding="utf-8")
    (output / "table.tex").write_text(result.latex(), encoding="utf-8")


def _run(folder: Path, output: Path, asked: Evaluation, say: Say) -> Run:
    if (folder / CASES_NAME).is_file():
        summary = _read_summary(folder / SUMMARY_NAME)
        if summary.get("rules") != list(asked.options.describe()):
            raise EvaluationError(
                f"{folder}: was evaluated by other rules (see {SUMMARY_NAME}) than those asked for now; give the same "
                "options, or the folder of predictions"
            )
        say(f"{folder}: evaluated before, taken as it is")
        return Run(RunScores.read(folder / CASES_NAME), summary=summary)
    say(f"{folder}")
    return evaluate(folder, output, asked, say)


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart, as names of folders."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["_".join(part.strip("/") for part in of_folder[-length:]) for of_folder in parts]
        if len(set(names)) == len(names):
            return names
    if folders:
        raise EvaluationError(f"--runs: {listed(map(str, folders))} name a folder twice; name each once")
    return []


def _questions(predictions: Path, asked: Evaluation, cases: Sequence[str]) -> dict[str, QuestionEvaluation]:
    path = predictions / ANSWERS_NAME
    known = case_table(asked.references, asked.table.taskset)
    if not path.is_file() or not known.classification:
        return {}
    return evaluate_table(path, known, cases)


def _overlap_note(pairs: Sequence[Pair]) -> str:
    own = sorted({task for pair in pairs for task in pair.own})
    if own:
        return f"tasks {listed(own)} are scored by maps of their own, every other by the one map of all tasks"
    return "scored by the one map of all tasks, in which a later region overwrites an earlier one"


def _write_figures(folder: Path, run: Run, pairs: Sequence[Pair], asked: Evaluation, say: Say) -> None:
    folder.mkdir(exist_ok=True)
    by_task: dict[str, dict[str, list[float]]] = {}
    volumes = {}
    for region, task in run.scores.regions.items():
        by_task.setdefault(task, {})[region] = list(run.scores.values(region, "dice").values())
        volumes[region] = tuple(
            list(run.scores.values(region, metric).values()) for metric in ("volume_ml", "reference_volume_ml")
        )
    (folder / "dice.png").write_bytes(boxes_figure(by_task))
    unit = "ml" if asked.options.unit == "mm" else asked.options.unit
    (folder / "volumes.png").write_bytes(bland_altman_figure({name: (v[0], v[1]) for name, v in volumes.items()}, unit))
    for name, content in question_figures(run.questions).items():
        (folder / name).write_bytes(content)
    if asked.images is not None:
        write_overlays(folder, run.scores, pairs, asked.table, asked.images, say)
