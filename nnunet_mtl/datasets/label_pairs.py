"""Which predictions are compared with which references, and what is wrong with them.

Everything that is wrong is found before anything is scored, and said for every case at once: a folder of predictions is
mended in one go or not at all.
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
    """Predictions and references cannot be compared; every case that is in the way is named."""


class PredictedMap(NamedTuple):
    """A predicted label map, and what its values mean."""

    path: Path
    values: MapValues


@dataclass(frozen=True)
class Pair:
    """One case to compare.

    Attributes:
        case: Its identifier.
        reference: Label map.
        prediction: Label map of all tasks, as nnU-Net exports it; a later region overwrites an earlier one in it.
        own: By task, its own label map where there is one (`nnunet_mtl predict --save-per-task`); used instead.
        annotated: Which regions were annotated in the reference, (R,).
    """

    case: str
    reference: Path
    prediction: PredictedMap
    own: Mapping[str, PredictedMap]
    annotated: tuple[bool, ...]

    def map_of(self, task: str, region: int) -> PredictedMap | None:
        """Return the map in which a region of a task is predicted; None if it is in none."""
        maps = [self.own[task], self.prediction] if task in self.own else [self.prediction]
        return next((one for one in maps if region in one.values.of_region), None)


class RegionMasks(NamedTuple):
    """One region of one case.

    Attributes:
        region: Index of the region.
        prediction: (Z, Y, X), one slice for a 2D image; without the voxels that the reference ignores.
        reference: Likewise.
        spacing_mm: Of their axes.
    """

    region: int
    prediction: Mask
    reference: Mask
    spacing_mm: tuple[float, ...]


def find_pairs(
    predictions: Path, references: Path, table: LabelTable, *, fully_labelled: bool = False, parts: int = 1
) -> tuple[list[Pair], list[str]]:
    """Find the prediction of every reference.

    What was annotated is looked up in the JSON file beside the references if it lists cases, and else in the
    `dataset.json` of the data set. What the values of predictions mean is looked up in the `dataset.json` that nnU-Net
    puts beside them; without one they are the data set's. Predictions without a reference are not read.

    Args:
        predictions: Folder of label maps, with a folder of the task's name for each task that has maps of its own.
        references: Folder of label maps with the labels of the data set.
        table: Of the data set.
        fully_labelled: Whether every region is annotated in every reference.
        parts: Only every `parts`-th reference counts, from the first on: nnU-Net's `-num_parts` with `-part_id 0`.

    Returns:
        The pairs, and the problems: a line for every case that cannot be compared.

    Raises:
        CasesError: If there is no reference at all, or no region of the data set is predicted.
        TaskSetError: If the JSON file beside the references, or the `dataset.json` beside predictions, cannot be read.
        DescribedRegionsError: If names beside predictions do not mean what they mean in the data set.
    """
    ending = table.file_ending
    cases = sorted(path.name.removesuffix(ending) for path in references.glob(f"[!.]*{ending}"))[::parts]
    if not cases:
        raise CasesError(f"{references}: expected references named *{ending} and found none; check -ref")
    known = case_table(references, table.taskset)
    values, own_values = values_of_folder(predictions, table), values_of_tasks(predictions, table)
    pairs, problems = [], []
    for case in cases:
        prediction = predictions / f"{case}{ending}"
        if not prediction.is_file():
            problems.append(f"{case}: no prediction {prediction}; predict this case")
        elif not fully_labelled and known.has_block and case not in known.cases:
            problems.append(
                f"{case}: not in {known.source}, so nobody knows what was annotated; list it in "
                f"{references_table(references)}, or give --fully_labelled if everything was in every reference"
            )
        else:
            annotated = (True,) * len(table.taskset.regions) if fully_labelled else known.annotated(case)
            own = {
                task: PredictedMap(predictions / task / prediction.name, of_task)
                for task, of_task in own_values.items()
                if (predictions / task / prediction.name).is_file()
            }
            mapped = PredictedMap(prediction, values)
            pairs.append(Pair(case, references / prediction.name, mapped, own, annotated))
    return pairs, problems


def case_table(references: Path, taskset: TaskSet) -> TaskSet:
    """Return the task set that knows the cases of a folder of references: the one beside them, or the data set's.

    Raises:
        TaskSetError: If the one beside them cannot be read.
        CasesError: If its label values are not the data set's.
    """
    beside = references_table(references)
    if not beside.is_file():
        return taskset
    found = TaskSet.from_dataset_json(read_dataset_json(beside), str(beside))
    values = dict(zip(taskset.regions, taskset.region_labels, strict=True))
    for name, here in zip(found.regions, found.region_labels, strict=True):
        if here != values.get(name, here):
            raise CasesError(
                f"{beside}: {spelt(name)} has the values {list(here)}, in the data set {list(values[name])}; give the "
                "data set that these references belong to with -d"
            )
    return found if found.has_cases and found.regions == taskset.regions else taskset


def refuse(problems: Sequence[str]) -> None:
    """Refuse cases that cannot be compared.

    Raises:
        CasesError: If there is any problem; its message has a line for each.
    """
    if problems:
        lines = "\n".join(f"  {problem}" for problem in sorted(problems))
        raise CasesError(f"{len(problems)} problem(s), nothing was scored:\n{lines}")


def problems_of(pair: Pair, table: LabelTable) -> list[str]:
    """Read the maps of a pair and return a line for everything that forbids to compare them."""
    found: list[str] = []
    reference = _read(pair.reference, table, found)
    for path, values in (pair.prediction, *pair.own.values()):
        prediction = _read(path, table, found)
        if prediction is None:
            continue
        found += _value_problems(path, prediction.labels, set(values.known))
        if reference is not None:
            found += _grid_problems(path, prediction, reference)
    if reference is not None:
        ignored = {table.taskset.ignore_label} - {None}
        found += _value_problems(pair.reference, reference.labels, {*table.values, *ignored})
    return [f"{pair.case}: {problem}" for problem in found]


def warnings_of(pair: Pair) -> list[str]:
    """Return a line for every map of a pair that is stored as floating-point numbers, which labels are not."""
    paths = (pair.reference, pair.prediction.path, *(predicted.path for predicted in pair.own.values()))
    return [
        f"{pair.case}: {path} is a float image; its values are taken as labels" for path in paths if _is_float(path)
    ]


def region_masks(pair: Pair, table: LabelTable) -> Iterator[RegionMasks]:
    """Yield every annotated region of a pair that `problems_of` finds nothing wrong with, one task after the other.

    Regions that are not among those the maps hold are left out.
    """
    taskset = table.taskset
    reference = _require(pair.reference, table)
    counted = np.ones(reference.labels.shape, bool)
    if taskset.ignore_label is not None:
        counted = reference.labels != taskset.ignore_label
    read: dict[Path, Labels] = {}  # every map once, and only if a task needs it
    for number, task in enumerate(taskset.tasks):
        for index in table.regions:
            predicted = pair.map_of(task.name, index)
            if taskset.task_of_region[index] != number or not pair.annotated[index] or predicted is None:
                continue
            if predicted.path not in read:
                read[predicted.path] = _require(predicted.path, table).labels
            yield RegionMasks(
                index,
                np.isin(read[predicted.path], predicted.values.of_region[index]) & counted,
                np.isin(reference.labels, taskset.region_labels[index]) & counted,
                with_thickness(reference.properties["spacing"]),
            )
        if task.name in pair.own:
            read.pop(pair.own[task.name].path, None)


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
    found = np.unique(labels)
    strange = found[[value not in known for value in found.tolist()]]
    if not len(strange):
        return []
    shown = shown_values(strange)
    if not all(float(value).is_integer() for value in strange):
        return [f"{path} is a float image and no label map: it holds {shown}; give the exported labels"]
    names = listed(str(int(value)) for value in sorted(known))
    return [f"{path} holds {shown}, not among the labels {names}; give maps of this data set"]


def shown_values(values: npt.NDArray[Any]) -> str:
    """Return the first of some values of a map, each in as many digits as tell it from its neighbours."""
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
