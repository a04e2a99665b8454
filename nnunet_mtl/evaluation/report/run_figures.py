"""Draw and write all figures of an evaluated run."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from nnunet_mtl.common.messages import one_line
from nnunet_mtl.evaluation.answers.question_evaluation import QuestionEvaluation
from nnunet_mtl.evaluation.report.answer_figures import question_figures
from nnunet_mtl.evaluation.report.metric_plots import bland_altman_figure, boxes_figure
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics


def write_figures(
    folder: Path,
    metrics: RunMetrics,
    questions: Mapping[str, QuestionEvaluation],
    more: Iterable[tuple[str, Callable[[], bytes]]],
    print_line: Callable[[str], None],
) -> None:
    """Draw every figure that can be drawn; a figure that fails never stops the evaluation.

    Args:
        folder: Folder of the figures, made if it is missing; figures of an earlier evaluation are replaced or removed.
        metrics: Metrics of the segmentations.
        questions: Evaluation of the answers, by question.
        more: File names and drawing functions of further figures.
        print_line: Called with one line for every figure that cannot be drawn.
    """
    folder.mkdir(exist_ok=True)
    drawings: list[tuple[str, Callable[[], bytes]]] = [
        ("dice.png", lambda: boxes_figure(_dice_by_task(metrics))),
        ("volumes.png", lambda: bland_altman_figure(_volumes(metrics))),
        *question_figures(questions),
        *more,
    ]
    for name, draw in drawings:
        (folder / name).unlink(missing_ok=True)  # a figure of an earlier evaluation
        try:
            content = draw()
        except Exception as error:  # noqa: BLE001 - readers and matplotlib raise anything
            print_line(f"no picture {folder / name}: {one_line(error)}")
        else:
            (folder / name).write_bytes(content)


def _dice_by_task(metrics: RunMetrics) -> dict[str, dict[str, list[float]]]:
    by_task: dict[str, dict[str, list[float]]] = {}
    for region, task in metrics.annotated_regions.items():
        by_task.setdefault(task, {})[region] = list(metrics.values(region, "dice").values())
    return by_task


def _volumes(metrics: RunMetrics) -> dict[str, tuple[list[float], list[float]]]:
    volumes = {}
    for region in metrics.annotated_regions:
        predicted, reference = (metrics.values(region, name) for name in ("volume_ml", "reference_volume_ml"))
        volumes[region] = (list(predicted.values()), list(reference.values()))
    return volumes
