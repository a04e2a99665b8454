"""Pictures of the worst, the median and the best case: what the mean of a metric looks like."""

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_mtl.evaluation.cases import LabelTable, Pair
from nnunet_mtl.evaluation.missing import ranked
from nnunet_mtl.evaluation.overlay import overlay_figure, read_upright
from nnunet_mtl.evaluation.run_scores import RunScores


def select_cases(scores: RunScores, metric: str = "dice") -> dict[str, str]:
    """Return the worst, median and best case by the mean of a metric over their regions; fewer of fewer than three."""
    order = ranked({case: scores.mean_of_case(case, metric) for case in scores.cases})
    if not order:
        return {}
    chosen = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
    return {rank: case for place, (rank, case) in enumerate(chosen.items()) if place < len(order)}


def write_overlays(
    folder: Path, scores: RunScores, pairs: Sequence[Pair], table: LabelTable, images: Path, say: Callable[[str], None]
) -> None:
    """Write `worst.png`, `median.png` and `best.png`, each with the case's first channel; a missing image is told.

    Only regions that were annotated in the case are drawn, in the reference and in the prediction.

    Args:
        folder: Where to.
        scores: By which cases are chosen.
        pairs: Where their maps are.
        table: What the values mean.
        images: Folder of images as nnU-Net names them.
        say: Called with a line.
    """
    by_case = {pair.case: pair for pair in pairs}
    for rank, case in select_cases(scores).items():
        image = images / f"{case}_0000{table.file_ending}"
        if not image.is_file():
            say(f"no picture of the {rank} case: {image} is not there")
            continue
        pair = by_case[case]
        regions = {
            table.taskset.regions[index]: table.taskset.region_labels[index]
            for index in table.regions
            if pair.annotated[index]
        }
        values, spacing_mm = read_upright(image)
        truth, prediction = (read_upright(path)[0] for path in (pair.reference, pair.prediction))
        (folder / f"{rank}.png").write_bytes(overlay_figure(values, truth, prediction, regions, spacing_mm=spacing_mm))
