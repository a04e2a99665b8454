"""Overlays of the worst, the median and the best case of a run."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.file_integrity import file_problem
from nnunet_mtl.datasets.label_pairs import Pair
from nnunet_mtl.datasets.label_table import LabelTable
from nnunet_mtl.evaluation.report.overlay import overlay_figure, read_upright
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics


def select_cases(run: RunMetrics, metric: str = "dice") -> dict[str, str]:
    """Return the worst, median and best case by the mean of a metric over regions; fewer if there are fewer cases."""
    order = run.ranked_cases(metric)
    if not order:
        return {}
    chosen = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
    return {rank: case for place, (rank, case) in enumerate(chosen.items()) if place < len(order)}


def overlays(
    run: RunMetrics, pairs: Sequence[Pair], table: LabelTable, images: Path
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the file names `worst.png`, `median.png` and `best.png`, each with a function that returns PNG bytes.

    The annotated regions of the case are painted on channel 0 of the image, from the reference and the prediction.

    Args:
        run: Metrics by which the cases are chosen.
        pairs: Label maps of the cases.
        table: What the values of the label maps mean.
        images: Folder of images with nnU-Net's names.
    """
    by_case = {pair.case: pair for pair in pairs}
    for rank, case in select_cases(run).items():
        yield f"{rank}.png", partial(_overlay, by_case[case], table, image_of(by_case[case], table, images))


def image_of(pair: Pair, table: LabelTable, images: Path) -> Path:
    """Return the path of a case's first channel."""
    return images / f"{pair.case}_0000{table.file_ending}"


def picture_problems(pairs: Sequence[Pair], table: LabelTable, images: Path) -> list[str]:
    """Return one line for every image on which nothing can be painted; only headers are read."""
    problems, missing = [], []
    for pair in pairs:
        image = image_of(pair, table, images)
        if not image.is_file():
            missing.append(pair.case)
            continue
        size, expected = _size(image), _size(pair.reference)
        if size is None:
            problems.append(f"{pair.case}: no picture can be made, {image} cannot be read as an image")
        elif expected is not None and size != expected:
            problems.append(
                f"{pair.case}: no picture can be made, {image} has {size} voxels (x first), its label map {expected}; "
                "check --images"
            )
    if missing:
        problems.append(
            f"{images}: {len(missing)} of {len(pairs)} cases have no image CASE_0000{table.file_ending}, so no "
            f"picture: {listed(missing)}"
        )
    return problems


def _size(path: Path) -> tuple[int, ...] | None:
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return tuple(reader.GetSize())


def _overlay(pair: Pair, table: LabelTable, image: Path) -> bytes:
    if problem := file_problem(image):
        raise ValueError(f"{image}: {problem}")
    regions = {
        table.taskset.regions[index]: table.taskset.region_labels[index]
        for index in table.regions
        if pair.annotated[index]
    }
    values, spacing_mm = read_upright(image)
    truth = read_upright(pair.reference)[0]
    prediction = _in_values_of_data_set(read_upright(pair.prediction.path)[0], pair, table)
    try:
        return overlay_figure(values, truth, prediction, regions, spacing_mm=spacing_mm)
    except ValueError as error:
        raise ValueError(f"{image}: {error}") from None


def _in_values_of_data_set(labels: npt.NDArray[Any], pair: Pair, table: LabelTable) -> npt.NDArray[Any]:
    """Convert a predicted map to the values of the data set; as in nnU-Net, a later region overwrites earlier ones."""
    taskset = table.taskset
    region_values = pair.prediction.values.of_region
    if all(region_values.get(index) == taskset.region_labels[index] for index in table.regions):
        return labels
    painted = np.zeros(labels.shape, np.int64)
    for index in (index for index in table.regions if index in region_values):
        value = taskset.regions_class_order[index] if taskset.has_regions else taskset.region_labels[index][0]
        painted[np.isin(labels, region_values[index])] = value
    return painted
