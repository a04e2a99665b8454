"""The whole evaluation: predictions and references in, tables and figures out."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.files import write_json
from nnunet_mtl.common.messages import listed, one_line, shown
from nnunet_mtl.common.names import name_problem, twins
from nnunet_mtl.datasets.described_regions import not_in_common
from nnunet_mtl.datasets.label_pairs import Pair, case_table, find_pairs, refuse
from nnunet_mtl.datasets.label_table import LabelTable, described
from nnunet_mtl.evaluation.answer_comparison import AnsweredCases, compare_answers, require_same_answers
from nnunet_mtl.evaluation.case_scores import check_cases, score_cases
from nnunet_mtl.evaluation.comparison import compare_runs
from nnunet_mtl.evaluation.question_evaluation import QuestionEvaluation, evaluate_table
from nnunet_mtl.evaluation.ranking import Method
from nnunet_mtl.evaluation.run_figures import write_figures
from nnunet_mtl.evaluation.run_scores import CASES_NAME, RunScores
from nnunet_mtl.evaluation.segmentation import Options
from nnunet_mtl.evaluation.selected_overlays import overlays, picture_problems
from nnunet_mtl.evaluation.tables import METRICS_OF_TABLE, result_table
from nnunet_mtl.evaluation.units import LengthUnit, with_unit

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
    def answered(self) -> dict[str, AnsweredCases]:
        """The cases behind the figures of each question."""
        questions = self.summary.get("classification", {})
        return {
            name: AnsweredCases(question["n_cases"], frozenset(question["unanswered"]))
            for name, question in questions.items()
        }

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
    return _scored(_checked(predictions, asked, say), output, asked, say)


@dataclass(frozen=True)
class _Checked:
    """A run in whose files nothing is wrong: what is to be scored, and its answers."""

    predictions: Path
    pairs: Sequence[Pair]
    questions: Mapping[str, QuestionEvaluation]

    @property
    def answered(self) -> dict[str, AnsweredCases]:
        found = {name: question.answered for name, question in self.questions.items()}
        return {name: AnsweredCases(len(one.cases), frozenset(one.unanswered)) for name, one in found.items()}


def _checked(predictions: Path, asked: Evaluation, say: Say) -> _Checked:
    pairs, problems = find_pairs(predictions, asked.references, asked.table, fully_labelled=asked.fully_labelled)
    found, warnings = check_cases(pairs, asked.table, asked.n_processes)
    refuse([*problems, *found])
    questions = _questions(predictions, asked, [pair.case for pair in pairs], say)
    if asked.figures and asked.images is not None:
        warnings += picture_problems(pairs, asked.table, asked.images)
    for line in (*_unlike(predictions, asked.table), *warnings):
        say(line)
    return _Checked(predictions, pairs, questions)


def _scored(checked: _Checked, output: Path, asked: Evaluation, say: Say) -> Run:
    for line in asked.options.describe():
        say(line)
    predictions, pairs, questions = checked.predictions, checked.pairs, checked.questions
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
        pictures = () if asked.images is None else overlays(scores, pairs, asked.table, asked.images)
        write_figures(output / "figures", scores, questions, pictures, say)
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
    single_names = [f"single_task_{name}" for name in _names(single_task)]
    places = dict(zip([*_names(folders), *single_names], [*folders, *single_task], strict=True))
    # Whatever is wrong with any of them is told before hours are spent on another one.
    checked = {name: _earlier_or_checked(folder, asked, say) for name, folder in places.items()}
    require_same_answers({name: run.answered for name, run in checked.items()})
    runs = {
        name: run if isinstance(run, Run) else _scored(run, output / name, asked, say) for name, run in checked.items()
    }
    baseline = [runs.pop(name) for name in single_names]
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
            of_cases = _of_cases(of_slot["n_cases"], of_slot["n_cases"] + of_slot["n_missing"])
            figures.append(f"mean Dice of {slot} {of_slot['mean_dice']:.3f} ({of_cases})")
    for name, question in run.questions.items():
        area = question.metrics.get("auc")
        of_cases = _of_cases(len(question.answered.cases), question.answered.n_labelled)
        figures.append(f"AUC of {name} {'not available' if area is None else f'{area:.3f}'} ({of_cases})")
    return f"{', '.join(figures)}; everything is in {output}"


def _of_cases(counted: int, there: int) -> str:
    return f"{counted} of {there} case{'' if there == 1 else 's'}"


def write_tables(output: Path, runs: Mapping[str, Run], table: LabelTable, unit: LengthUnit) -> None:
    """Write the table of the runs as `table.md` and `table.tex`."""
    taskset = table.taskset
    tasks = {task.name: dict(zip(task.regions, task.slots, strict=True)) for task in taskset.tasks}
    result = result_table(
        {name: run.scores.means(METRICS_OF_TABLE) for name, run in runs.items()},
        tasks,
        {name: run.scores.n_cases(METRICS_OF_TABLE) for name, run in runs.items()},
        unit,
    )
    (output / "table.md").write_text(result.markdown(), encoding="utf-8")
    (output / "table.tex").write_text(result.latex(), encoding="utf-8")


def _earlier_or_checked(folder: Path, asked: Evaluation, say: Say) -> Run | _Checked:
    if not (folder / CASES_NAME).is_file():
        say(f"{folder}")
        return _checked(folder, asked, say)
    summary = _read_summary(folder / SUMMARY_NAME)
    if summary.get("rules") != list(asked.options.describe()):
        raise EvaluationError(
            f"{folder}: was evaluated by other rules (see {SUMMARY_NAME}) than those asked for now; give the same "
            "options, or the folder of predictions"
        )
    say(f"{folder}: evaluated before, taken as it is")
    return Run(RunScores.read(folder / CASES_NAME), summary=summary)


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        problem = f"is no JSON ({one_line(error)})"
    else:
        if isinstance(content, dict) and _holds_questions(content.get("classification", {})):
            return content
        problem = "is not what `nnunet_mtl evaluate` writes"
    raise EvaluationError(f"{path}: {problem}; give the folder of predictions, which is then evaluated again")


def _holds_questions(content: Any) -> bool:
    keys = {"metrics", "n_cases", "unanswered"}
    return isinstance(content, dict) and all(isinstance(one, dict) and keys <= one.keys() for one in content.values())


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart on any file system, as names of folders."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["_".join(part.strip("/") for part in of_folder[-length:]) for of_folder in parts]
        if twins(names) is None and len(set(names)) == len(names):
            return [_checked_name(name, folder) for name, folder in zip(names, folders, strict=True)]
    if folders:
        raise EvaluationError(
            f"--runs: {listed(map(str, folders))} name a folder twice, or differ only in case or Unicode form; name "
            "each once"
        )
    return []


def _checked_name(name: str, folder: Path) -> str:
    if problem := name_problem(name):
        raise EvaluationError(
            f"--runs {folder}: its results would be in a folder {shown(name)}, whose name {problem}; rename the folder"
        )
    return name


def _unlike(predictions: Path, table: LabelTable) -> list[str]:
    found = described(predictions, table)
    difference = "" if found is None else not_in_common(found, table.taskset)
    return [f"{found.path}: {difference}: not scored"] if found is not None and difference else []


def _questions(predictions: Path, asked: Evaluation, cases: Sequence[str], say: Say) -> dict[str, QuestionEvaluation]:
    path = predictions / ANSWERS_NAME
    if not path.is_file():
        return {}
    known = case_table(asked.references, asked.table.taskset)
    if not known.classification:
        say(f"{path}: is not looked at, {known.source} asks no question")
        return {}
    questions = evaluate_table(path, known, cases)
    for question in questions.values():
        for line in question.answered.notes(path):
            say(line)
    return questions


def _overlap_note(pairs: Sequence[Pair]) -> str:
    own = sorted({task for pair in pairs for task in pair.own})
    if own:
        return f"tasks {listed(own)} are scored by maps of their own, every other by the one map of all tasks"
    return "scored by the one map of all tasks, in which a later region overwrites an earlier one"
