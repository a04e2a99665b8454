"""The figures of an evaluated run."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from nnunet_mtl.common.messages import one_line
from nnunet_mtl.evaluation.answer_figures import question_figures
from nnunet_mtl.evaluation.figures import bland_altman_figure, boxes_figure
from nnunet_mtl.evaluation.question_evaluation import QuestionEvaluation
from nnunet_mtl.evaluation.run_scores import RunScores


def write_figures(
    folder: Path,
    scores: RunScores,
    questions: Mapping[str, QuestionEvaluation],
    more: Iterable[tuple[str, Callable[[], bytes]]],
    say: Callable[[str], None],
) -> None:
    """Draw what can be drawn: everything is scored by now, and no picture is worth losing that.

    Args:
        folder: Made if it is not there; pictures of an earlier evaluation in it are replaced or removed.
        scores: Of the segmentations.
        questions: Of the answers.
        more: Names of other pictures, and what draws them.
        say: Called with a line for every picture that cannot be drawn.
    """
    folder.mkdir(exist_ok=True)
    drawings: list[tuple[str, Callable[[], bytes]]] = [
        ("dice.png", lambda: boxes_figure(_dice_by_task(scores))),
        ("volumes.png", lambda: bland_altman_figure(_volumes(scores))),
        *question_figures(questions),
        *more,
    ]
    for name, draw in drawings:
        (folder / name).unlink(missing_ok=True)  # of an earlier evaluation
        try:
            content = draw()
        except Exception as error:  # noqa: BLE001 - readers and matplotlib raise anything
            say(f"no picture {folder / name}: {one_line(error)}")
        else:
            (folder / name).write_bytes(content)


def _dice_by_task(scores: RunScores) -> dict[str, dict[str, list[float]]]:
    by_task: dict[str, dict[str, list[float]]] = {}
    for region, task in scores.regions.items():
        by_task.setdefault(task, {})[region] = list(scores.values(region, "dice").values())
    return by_task


def _volumes(scores: RunScores) -> dict[str, tuple[list[float], list[float]]]:
    found = {}
    for region in scores.regions:
        ours, theirs = (scores.values(region, name) for name in ("volume_ml", "reference_volume_ml"))
        found[region] = (list(ours.values()), list(theirs.values()))
    return found
