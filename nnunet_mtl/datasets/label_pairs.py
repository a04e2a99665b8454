"""Pairs of predicted and reference label maps: finding them, checking them, and reading their region masks.

All cases are checked before any case is measured, and all problems are reported together, so that a user can repair a
folder of predictions in one pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.files import references_table
from nnunet_mtl.common.messages import listed, spelt
from nnunet_mtl.datasets.grid import Grid, grid_difference, grid_of
from nnunet_mtl.datasets.label_files import LabelFileError, read_label_file
from nnunet_mtl.datasets.label_table import LabelTable, MapValues, values_of_folder, values_of_tasks
from nnunet_mtl.datasets.spacing import with_thickness
from nnunet_mtl.tasks import TaskSet, read_dataset_json

_SHOWN_VALUES = 6

Labels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class CasesError(UserError):
    """Predictions and references cannot be compared; the message names every case at fault."""


class PredictedMap(NamedTuple):
    """Path of a predicted label map, and the regions of its values."""

    path: Path
    values: MapValues


@dataclass(frozen=True)
class Pair:
    """One case to compare.

    Attributes:
        case: Identifier of the case.
        reference: Path of the reference label map.
        prediction: Label map of all tasks, as nnU-Net exports it; a later region overwrites an earlier region.
        task_maps: Label map of a single task, by task, if there is one (`nnunet_mtl predict --save-per-task`); used in
            place of `prediction` for the regions of the task.
        annotated: Whether every region is annotated in the reference, (R,).
    """

    case: str
    reference: Path
    prediction: PredictedMap
    task_maps: Mapping[str, PredictedMap]
    annotated: tuple[bool, ...]

    def map_of(self, task: str, region: int) -> PredictedMap | None:
        """Return the map in which a region of a task is predicted; None if no map has the region."""
        maps = [self.task_maps[task], self.prediction] if task in self.task_maps else [self.prediction]
        return next((label_map for label_map in maps if region in label_map.values.of_region), None)


class RegionMasks(NamedTuple):
    """The masks of one region of one case, without the voxels that have the ignore label in the reference.

    Attributes:
        region: Index of the region.
        prediction: Predicted mask, (Z, Y, X); one slice for a 2D image.
        reference: Reference mask of the same shape.
        spacing_mm: Distance of voxels along each axis, (Z, Y, X).
    """

    region: int
    prediction: Mask
    reference: Mask
    spacing_mm: tuple[float, ...]


def find_pairs(
    predictions: Path, references: Path, table: LabelTable, *, fully_labelled: bool = False, parts: int = 1
) -> tuple[list[Pair], list[str]]:
    """Find the prediction of every reference.

    The annotated regions of a case come from the JSON file beside the references if it lists cases, otherwise from the
    `dataset.json` of the data set. The regions of predicted values come from the `dataset.json` that nnU-Net writes
    beside its predictions; without this file the values are those of the data set. Predictions without a reference are
    not read.

    Args:
        predictions: Folder of label maps; maps of a single task lie in a sub-folder with the task's name.
        references: Folder of label maps with the labels of the data set.
        table: Label values of the data set.
        fully_labelled: Whether every region is annotated in every reference.
        parts: Only every `parts`-th reference is used, beginning with the first: nnU-Net's `-num_parts` with
            `-part_id 0`.

    Returns:
        The pairs, and one line for every case that cannot be compared.

    Raises:
        CasesError: If there is no reference, or the JSON file beside the references has other label values.
        LabelTableError: If the predictions have no region of the data set.
        TaskSetError: If the JSON file beside the references, or the `dataset.json` beside predictions, cannot be read.
        DescribedRegionsError: If a region of the predictions has another meaning in the data set.
    """
    ending = table.file_ending
    cases = sorted(path.name.removesuffix(ending) for path in references.glob(f"[!.]*{ending}"))[::parts]
    if not cases:
        raise CasesError(f"{references}: expected references named *{ending} and found none; check -ref")
    known = case_table(references, table.taskset)
    values, task_values = values_of_folder(predictions, table), values_of_tasks(predictions, table)
    pairs, problems = [], []
    for case in cases:
        prediction = predictions / f"{case}{ending}"
        if not prediction.is_file():
            problems.append(f"{case}: no prediction {prediction}; predict this case")
        elif not fully_labelled and known.has_block and case not in known.cases:
            problems.append(
                f"{case}: not in {known.source}, so its annotated regions are unknown; list it in "
                f"{references_table(references)}, or give --fully_labelled if all regions are annotated everywhere"
            )
        else:
            annotated = (True,) * len(table.taskset.regions) if fully_labelled else known.annotated(case)
            task_maps = {
                task: PredictedMap(predictions / task / prediction.name, map_values)
                for task, map_values in task_values.items()
                if (predictions / task / prediction.name).is_file()
            }
            mapped = PredictedMap(prediction, values)
            pairs.append(Pair(case, references / prediction.name, mapped, task_maps, annotated))
    return pairs, problems


def case_table(references: Path, taskset: TaskSet) -> TaskSet:
    """Return the task set with the cases of a folder of references: the JSON file's beside them, or the data set's.

    Raises:
        TaskSetError: If the JSON file beside the references cannot be read.
        CasesError: If the JSON file has other label values than the data set.
    """
    beside = references_table(references)
    if not beside.is_file():
        return taskset
    case_tasks = TaskSet.from_dataset_json(read_dataset_json(beside), str(beside))
    values = dict(zip(taskset.regions, taskset.region_labels, strict=True))
    for name, labels in zip(case_tasks.regions, case_tasks.region_labels, strict=True):
        if labels != values.get(name, labels):
            raise CasesError(
                f"{beside}: {spelt(name)} has the values {list(labels)}, in the data set {list(values[name])}; give "
                "the data set that these references belong to with -d"
            )
    return case_tasks if case_tasks.has_cases and case_tasks.regions == taskset.regions else taskset


def refuse(problems: Sequence[str]) -> None:
    """Raise an error if any case cannot be compared.

    Raises:
        CasesError: If there is a problem; the message has one line for every problem.
    """
    if problems:
        lines = "\n".join(f"  {problem}" for problem in sorted(problems))
        raise CasesError(f"{len(problems)} problem(s), nothing was scored:\n{lines}")


def problems_of(pair: Pair, table: LabelTable) -> list[str]:
    """Read the maps of a pair; return one line for every problem that prevents a comparison."""
    problems: list[str] = []
    reference = _read(pair.reference, table, problems)
    for path, values in (pair.prediction, *pair.task_maps.values()):
        prediction = _read(path, table, problems)
        if prediction is None:
            continue
        problems += _value_problems(path, prediction.labels, set(values.known))
        if reference is not None:
            problems += _grid_problems(path, prediction, reference)
    if reference is not None:
        ignored = {table.taskset.ignore_label} - {None}
        problems += _value_problems(pair.reference, reference.labels, {*table.values, *ignored})
    return [f"{pair.case}: {problem}" for problem in problems]


def warnings_of(pair: Pair) -> list[str]:
    """Return one line for every map of a pair that is stored as floating-point numbers."""
    paths = (pair.reference, pair.prediction.path, *(predicted.path for predicted in pair.task_maps.values()))
    return [
        f"{pair.case}: {path} is a float image; its values are taken as labels" for path in paths if _is_float(path)
    ]


def region_masks(pair: Pair, table: LabelTable) -> Iterator[RegionMasks]:
    """Yield the masks of every annotated and predicted region of a pair, task by task.

    `problems_of` must have found no problem with the pair.
    """
    taskset = table.taskset
    reference = _require(pair.reference, table)
    counted = np.ones(reference.labels.shape, bool)
    if taskset.ignore_label is not None:
        counted = reference.labels != taskset.ignore_label
    maps: dict[Path, Labels] = {}  # every map is read once, and only if a task needs the map
    for number, task in enumerate(taskset.tasks):
        for index in table.regions:
            predicted = pair.map_of(task.name, index)
            if taskset.task_of_region[index] != number or not pair.annotated[index] or predicted is None:
                continue
            if predicted.path not in maps:
                maps[predicted.path] = _require(predicted.path, table).labels
            yield RegionMasks(
                index,
                np.isin(maps[predicted.path], predicted.values.of_region[index]) & counted,
                np.isin(reference.labels, taskset.region_labels[index]) & counted,
                with_thickness(reference.properties["spacing"]),
            )
        if task.name in pair.task_maps:
            maps.pop(pair.task_maps[task.name].path, None)


class _Map(NamedTuple):
    labels: Labels  # (Z, Y, X)
    properties: Mapping[str, Any]

    @property
    def grid(self) -> Grid:
        return grid_of(self.labels.shape, self.properties)


def _read(path: Path, table: LabelTable, problems: list[str]) -> _Map | None:
    try:
        return _require(path, table)
    except LabelFileError as error:
        problems.append(str(error))
        return None


def _require(path: Path, table: LabelTable) -> _Map:
    reader = determine_reader_writer_from_dataset_json(dict(table.dataset_json), verbose=False)()
    return _Map(*read_label_file(path, reader))


def _value_problems(path: Path, labels: Labels, known: set[Any]) -> list[str]:
    values = np.unique(labels)
    strange = values[[value not in known for value in values.tolist()]]
    if not len(strange):
        return []
    shown = shown_values(strange)
    if not all(float(value).is_integer() for value in strange):
        return [f"{path} is a float image and no label map: it holds {shown}; give the exported labels"]
    names = listed(str(int(value)) for value in sorted(known))
    return [f"{path} holds {shown}, not among the labels {names}; give maps of this data set"]


def shown_values(values: npt.NDArray[Any]) -> str:
    """Return the first few values of a map as text, with as many digits as tell neighbouring values apart."""
    texts = [np.format_float_positional(value, trim="-") for value in values[:_SHOWN_VALUES]]
    return ", ".join(texts) + (", ..." if len(values) > _SHOWN_VALUES else "")


def _is_float(path: Path) -> bool:
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # a format that SimpleITK does not read
        return False
    return reader.GetPixelID() in (SimpleITK.sitkFloat32, SimpleITK.sitkFloat64)


def _grid_problems(path: Path, prediction: _Map, reference: _Map) -> list[str]:
    difference = grid_difference(prediction.grid, reference.grid)
    return (
        [f"{path} is not on the grid of the reference ({difference.text}); predict from the same image"]
        if difference
        else []
    )
