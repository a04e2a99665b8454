"""Evaluate and compare several runs; earlier evaluations are read and not repeated."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_mtl.common.files import write_json
from nnunet_mtl.common.messages import listed, one_line, shown
from nnunet_mtl.common.names import name_problem, twins
from nnunet_mtl.evaluation.answers.answer_comparison import compare_answers, require_same_answers
from nnunet_mtl.evaluation.evaluate_run import (
    SUMMARY_NAME,
    CheckedRun,
    Evaluation,
    EvaluationError,
    PrintLine,
    Run,
    check_run,
    measure_run,
    write_tables,
)
from nnunet_mtl.evaluation.metrics.length_unit import with_unit
from nnunet_mtl.evaluation.runs.ranking import Method
from nnunet_mtl.evaluation.runs.run_comparison import compare_runs
from nnunet_mtl.evaluation.runs.run_metrics import CASES_NAME, RunMetrics

COMPARISON_NAME = "comparison.json"


def evaluate_runs(
    folders: Sequence[Path],
    output: Path,
    evaluation: Evaluation,
    print_line: PrintLine,
    *,
    single_task: Sequence[Path] = (),
    method: Method = "aggregate",
) -> dict[str, Any]:
    """Evaluate and compare runs: a folder of results for every run, and one `comparison.json` and table for all runs.

    Args:
        folders: Folders of predictions, or of earlier evaluations (with a `cases.csv`), which are not repeated.
        output: Folder of the results.
        evaluation: References and options.
        print_line: Called with one line of text at a time.
        single_task: Folders, as in `folders`, of the single-task runs that the multi-task gain is relative to.
        method: How runs are ranked, see `rank_runs`.

    Returns:
        Content of `comparison.json`.

    Raises:
        UserError: If anything is wrong with the input.
    """
    single_names = [f"single_task_{name}" for name in _names(single_task)]
    places = dict(zip([*_names(folders), *single_names], [*folders, *single_task], strict=True))
    # All runs are checked before any run is measured, which may take hours.
    checked = {name: _earlier_or_checked(folder, evaluation, print_line) for name, folder in places.items()}
    require_same_answers({name: run.answered for name, run in checked.items()})
    runs = {
        name: run if isinstance(run, Run) else measure_run(run, output / name, evaluation, print_line)
        for name, run in checked.items()
    }
    baseline = [runs.pop(name) for name in single_names]
    comparison = compare_runs(
        {name: run.metrics for name, run in runs.items()},
        [run.metrics for run in baseline],
        method=method,
        areas={name: run.areas for name, run in runs.items()},
        single_areas=[run.areas for run in baseline],
    )
    # An earlier evaluation holds the metrics of the answers but not the answers, so such a run is left out.
    comparison["answers"] = compare_answers(
        {
            name: {question: evaluated.answered for question, evaluated in run.questions.items()}
            for name, run in runs.items()
        }
    )
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / COMPARISON_NAME, with_unit(comparison, evaluation.options.unit))
    write_tables(output, runs, evaluation.table, evaluation.options.unit)
    return comparison


def _earlier_or_checked(folder: Path, evaluation: Evaluation, print_line: PrintLine) -> Run | CheckedRun:
    if not (folder / CASES_NAME).is_file():
        print_line(f"{folder}")
        return check_run(folder, evaluation, print_line)
    summary = _read_summary(folder / SUMMARY_NAME)
    if summary.get("rules") != list(evaluation.options.describe()):
        raise EvaluationError(
            f"{folder}: was evaluated with other options (see {SUMMARY_NAME}) than those of this command; give the "
            "same options, or the folder of predictions"
        )
    print_line(f"{folder}: evaluated before, read and not evaluated again")
    return Run(RunMetrics.read(folder / CASES_NAME, evaluation.table.taskset), summary=summary)


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
    return isinstance(content, dict) and all(
        isinstance(question, dict) and keys <= question.keys() for question in content.values()
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """Return a name for every folder: the shortest ends of the paths that differ on every file system."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["_".join(part.strip("/") for part in folder_parts[-length:]) for folder_parts in parts]
        if twins(names) is None and len(set(names)) == len(names):
            return [_require_folder_name(name, folder) for name, folder in zip(names, folders, strict=True)]
    if folders:
        raise EvaluationError(
            f"--runs: {listed(map(str, folders))} name a folder twice, or differ only in case or Unicode form; name "
            "every folder once"
        )
    return []


def _require_folder_name(name: str, folder: Path) -> str:
    if problem := name_problem(name):
        raise EvaluationError(
            f"--runs {folder}: its results would be in a folder {shown(name)}, whose name {problem}; rename the folder"
        )
    return name
