"""Evaluate one run: predictions and references in, `cases.csv`, `summary.json`, the result table and figures out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.files import write_json
from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.described_regions import not_in_common
from nnunet_mtl.datasets.label_pairs import Pair, case_table, find_pairs, refuse
from nnunet_mtl.datasets.label_table import LabelTable, described
from nnunet_mtl.evaluation.answers.answer_comparison import AnsweredCases
from nnunet_mtl.evaluation.answers.question_evaluation import QuestionEvaluation, evaluate_table
from nnunet_mtl.evaluation.metrics.length_unit import LengthUnit
from nnunet_mtl.evaluation.metrics.region_metrics import MetricOptions
from nnunet_mtl.evaluation.report.result_table import METRICS_OF_TABLE, result_table
from nnunet_mtl.evaluation.report.run_figures import write_figures
from nnunet_mtl.evaluation.report.selected_overlays import overlays, picture_problems
from nnunet_mtl.evaluation.runs.case_metrics import check_cases, measure_cases
from nnunet_mtl.evaluation.runs.run_metrics import CASES_NAME, RunMetrics

ANSWERS_NAME, SUMMARY_NAME = "classification.csv", "summary.json"

PrintLine = Callable[[str], None]


class EvaluationError(UserError):
    """An option, a folder or an earlier evaluation does not fit."""


@dataclass(frozen=True)
class Evaluation:
    """How every run is evaluated.

    Attributes:
        references: Folder of reference label maps.
        table: What the values of label maps mean.
        options: How the metrics are computed.
        fully_labelled: Whether every region is annotated in every reference.
        n_processes: How many cases are measured at once.
        images: Folder of the images that overlays show; None for no overlays.
        figures: Whether figures are drawn.
    """

    references: Path
    table: LabelTable
    options: MetricOptions
    fully_labelled: bool = False
    n_processes: int = 1
    images: Path | None = None
    figures: bool = True


@dataclass(frozen=True)
class Run:
    """One evaluated run.

    Attributes:
        metrics: Metrics of the segmentations.
        questions: Evaluation of the answers by question; empty if the run has no `classification.csv`.
        summary: Content of `summary.json`.
    """

    metrics: RunMetrics
    questions: Mapping[str, QuestionEvaluation] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answered(self) -> dict[str, AnsweredCases]:
        """The cases that enter the metrics of every question."""
        questions = self.summary.get("classification", {})
        return {
            name: AnsweredCases(question["n_cases"], frozenset(question["unanswered"]))
            for name, question in questions.items()
        }

    @property
    def areas(self) -> dict[str, float | None]:
        """The AUC of every question that the run answers; None where the AUC is not available."""
        questions = self.summary.get("classification", {})
        return {name: question["metrics"].get("auc") for name, question in questions.items()}


def evaluate_run(predictions: Path, output: Path, evaluation: Evaluation, print_line: PrintLine) -> Run:
    """Evaluate one run and write `cases.csv`, `summary.json`, the table and the figures.

    Args:
        predictions: Folder of label maps, and of the `classification.csv` if there is one.
        output: Folder of the results, made if it is missing; files of an earlier evaluation are replaced.
        evaluation: References and options.
        print_line: Called with one line of text at a time.

    Raises:
        UserError: If anything is wrong with the input; nothing is written then.
    """
    return measure_run(check_run(predictions, evaluation, print_line), output, evaluation, print_line)


@dataclass(frozen=True)
class CheckedRun:
    """A run whose files have been checked: pairs to measure, and the evaluation of the answers."""

    predictions: Path
    pairs: Sequence[Pair]
    questions: Mapping[str, QuestionEvaluation]

    @property
    def answered(self) -> dict[str, AnsweredCases]:
        """The cases that enter the metrics of every question."""
        answers = {name: question.answered for name, question in self.questions.items()}
        return {
            name: AnsweredCases(len(labelled.cases), frozenset(labelled.unanswered))
            for name, labelled in answers.items()
        }


def check_run(predictions: Path, evaluation: Evaluation, print_line: PrintLine) -> CheckedRun:
    """Check every file of a run before anything is measured, and evaluate the answers.

    Raises:
        UserError: If anything is wrong with the input.
    """
    pairs, problems = find_pairs(
        predictions, evaluation.references, evaluation.table, fully_labelled=evaluation.fully_labelled
    )
    map_problems, warnings = check_cases(pairs, evaluation.table, evaluation.n_processes)
    refuse([*problems, *map_problems])
    questions = _questions(predictions, evaluation, [pair.case for pair in pairs], print_line)
    if evaluation.figures and evaluation.images is not None:
        warnings += picture_problems(pairs, evaluation.table, evaluation.images)
    for line in (*_region_differences(predictions, evaluation.table), *warnings):
        print_line(line)
    return CheckedRun(predictions, pairs, questions)


def measure_run(checked: CheckedRun, output: Path, evaluation: Evaluation, print_line: PrintLine) -> Run:
    """Measure a checked run and write the results to a folder, which is made if it is missing."""
    for line in evaluation.options.describe():
        print_line(line)
    predictions, pairs, questions = checked.predictions, checked.pairs, checked.questions
    rows = measure_cases(pairs, evaluation.table, evaluation.options, evaluation.n_processes)
    metrics = RunMetrics(tuple(rows), evaluation.table.taskset, evaluation.options.unit)
    summary = {
        "predictions": str(predictions),
        "references": str(evaluation.references),
        "rules": list(evaluation.options.describe()),
        "overlaps": _overlap_note(pairs),
        **metrics.summary(),
        "classification": {name: question.to_mapping() for name, question in questions.items()},
    }
    run = Run(metrics, questions, summary)
    output.mkdir(parents=True, exist_ok=True)
    metrics.write(output / CASES_NAME)
    write_json(output / SUMMARY_NAME, summary)
    write_tables(output, {predictions.name or str(predictions): run}, evaluation.table, evaluation.options.unit)
    if evaluation.figures:
        pictures = () if evaluation.images is None else overlays(metrics, pairs, evaluation.table, evaluation.images)
        write_figures(output / "figures", metrics, questions, pictures, print_line)
    return run


def last_line(run: Run, output: Path) -> str:
    """Return the headline of an evaluated run: mean Dice by slot, AUC by question, and the folder of the results."""
    figures = [f"{len(run.metrics.cases)} cases"]
    for slot, dice in run.summary["slots"].items():
        if dice["mean_dice"] is not None:
            counts = _counts(dice["n_cases"], dice["n_cases"] + dice["n_missing"])
            figures.append(f"mean Dice of {slot} {dice['mean_dice']:.3f} ({counts})")
    for name, question in run.questions.items():
        area = question.metrics.get("auc")
        counts = _counts(len(question.answered.cases), question.answered.n_labelled)
        figures.append(f"AUC of {name} {'not available' if area is None else f'{area:.3f}'} ({counts})")
    return f"{', '.join(figures)}; everything is in {output}"


def _counts(counted: int, total: int) -> str:
    return f"{counted} of {total} case{'' if total == 1 else 's'}"


def write_tables(output: Path, runs: Mapping[str, Run], table: LabelTable, unit: LengthUnit) -> None:
    """Write the result table of the runs as `table.md` and `table.tex`."""
    taskset = table.taskset
    tasks = {task.name: dict(zip(task.regions, task.slots, strict=True)) for task in taskset.tasks}
    result = result_table(
        {name: run.metrics.means(METRICS_OF_TABLE) for name, run in runs.items()},
        tasks,
        {name: run.metrics.n_cases(METRICS_OF_TABLE) for name, run in runs.items()},
        unit,
    )
    (output / "table.md").write_text(result.markdown(), encoding="utf-8")
    (output / "table.tex").write_text(result.latex(), encoding="utf-8")


def _region_differences(predictions: Path, table: LabelTable) -> list[str]:
    regions = described(predictions, table)
    difference = "" if regions is None else not_in_common(regions, table.taskset)
    return [f"{regions.path}: {difference}: not scored"] if regions is not None and difference else []


def _questions(
    predictions: Path, evaluation: Evaluation, cases: Sequence[str], print_line: PrintLine
) -> dict[str, QuestionEvaluation]:
    path = predictions / ANSWERS_NAME
    if not path.is_file():
        return {}
    known = case_table(evaluation.references, evaluation.table.taskset)
    if not known.classification:
        print_line(f"{path}: is not read: {known.source} has no question")
        return {}
    questions = evaluate_table(path, known, cases)
    for question in questions.values():
        for line in question.answered.notes(path):
            print_line(line)
    return questions


def _overlap_note(pairs: Sequence[Pair]) -> str:
    with_map = sorted({task for pair in pairs for task in pair.task_maps})
    if with_map:
        return f"tasks {listed(with_map)} are scored by maps of their own, every other by the one map of all tasks"
    return "scored by the one map of all tasks, in which a later region overwrites an earlier one"
