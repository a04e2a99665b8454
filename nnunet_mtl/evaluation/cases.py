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

from nnunet_mtl._messages import listed
from nnunet_mtl.errors import UserError
from nnunet_mtl.evaluation.spacing import with_thickness
from nnunet_mtl.files import references_table
from nnunet_mtl.findings import one_line
from nnunet_mtl.task_maps import task_maps
from nnunet_mtl.tasks import TaskSet, read_dataset_json

# Headers store coordinates as 32-bit floats: a slice at -777.5 mm comes back to within a ten-thousandth of that.
_TOLERANCE_MM = 1e-3
_SHOWN_VALUES = 6

Labels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class CasesError(UserError):
    """Predictions and references cannot be compared; every case that is in the way is named."""


class LabelTable(NamedTuple):
    """What the values of label maps mean.

    Attributes:
        dataset_json: nnU-Net's description, for the file ending and the reader.
        taskset: Regions and tasks.
    """

    dataset_json: Mapping[str, Any]
    taskset: TaskSet

    @property
    def file_ending(self) -> str:
        """The ending of label maps, with its dot."""
        return str(self.dataset_json["file_ending"])

    @property
    def regions(self) -> tuple[int, ...]:
        """Indices of the regions that are not background, which is an output of its own without regions."""
        return tuple(index for index, labels in enumerate(self.taskset.region_labels) if tuple(labels) != (0,))


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
    prediction: Path
    own: Mapping[str, Path]
    annotated: tuple[bool, ...]


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
    `dataset.json` of the data set. Predictions without a reference are not read.

    Args:
        predictions: Folder of label maps, with a folder of the task's name for each task that has maps of its own.
        references: Folder of label maps with the labels of the data set.
        table: Of the data set.
        fully_labelled: Whether every region is annotated in every reference.
        parts: Only every `parts`-th reference counts, from the first on: nnU-Net's `-num_parts` with `-part_id 0`.

    Returns:
        The pairs, and the problems: a line for every case that cannot be compared.

    Raises:
        CasesError: If there is no reference at all.
        TaskSetError: If the JSON file beside the references cannot be read.
    """
    ending = table.file_ending
    cases = sorted(path.name.removesuffix(ending) for path in references.glob(f"[!.]*{ending}"))[::parts]
    if not cases:
        raise CasesError(f"{references}: expected references named *{ending} and found none; check -ref")
    known = case_table(references, table.taskset)
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
            own = {task.name: predictions / task.name / prediction.name for task in table.taskset.tasks}
            own = {task: path for task, path in own.items() if path.is_file()}
            pairs.append(Pair(case, references / prediction.name, prediction, own, annotated))
    return pairs, problems


def case_table(references: Path, taskset: TaskSet) -> TaskSet:
    """Return the task set that knows the cases of a folder of references: the one beside them, or the data set's."""
    beside = references_table(references)
    if not beside.is_file():
        return taskset
    found = TaskSet.from_dataset_json(read_dataset_json(beside), str(beside))
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
    own = _own_values(table)
    maps = [(pair.prediction, _values(table)), *((path, own[task]) for task, path in pair.own.items())]
    for path, values in maps:
        prediction = _read(path, table, found)
        if prediction is None:
            continue
        found += _value_problems(path, prediction.labels, values)
        if reference is not None:
            found += _grid_problems(path, prediction, reference)
    if reference is not None:
        ignored = {table.taskset.ignore_label} - {None}
        found += _value_problems(pair.reference, reference.labels, _values(table) | ignored)
    return [f"{pair.case}: {problem}" for problem in found]


def warnings_of(pair: Pair) -> list[str]:
    """Return a line for every map of a pair that is stored as floating-point numbers, which labels are not."""
    paths = (pair.reference, pair.prediction, *pair.own.values())
    return [
        f"{pair.case}: {path} is a float image; its values are taken as labels" for path in paths if _is_float(path)
    ]


def region_masks(pair: Pair, table: LabelTable) -> Iterator[RegionMasks]:
    """Yield every annotated region of a pair that `problems_of` finds nothing wrong with, one task after the other."""
    taskset = table.taskset
    reference = _require(pair.reference, table)
    counted = np.ones(reference.labels.shape, bool)
    if taskset.ignore_label is not None:
        counted = reference.labels != taskset.ignore_label
    own = {label_map.name: label_map for label_map in task_maps(taskset, tuple(pair.own), table.dataset_json)}
    union: Labels | None = None  # read once, and only if a task needs it
    for number, task in enumerate(taskset.tasks):
        wanted = [i for i in table.regions if taskset.task_of_region[i] == number and pair.annotated[i]]
        if not wanted:
            continue
        if task.name in pair.own:
            predicted = _require(pair.own[task.name], table).labels
        else:
            predicted = union = _require(pair.prediction, table).labels if union is None else union
        for index in wanted:
            values = taskset.region_labels[index]
            of_map = values
            if task.name in own:
                described = own[task.name].dataset_json["labels"][taskset.regions[index]]
                of_map = tuple(described) if isinstance(described, list) else (described,)
            yield RegionMasks(
                index,
                np.isin(predicted, of_map) & counted,
                np.isin(reference.labels, values) & counted,
                with_thickness(reference.properties["spacing"]),
            )


class _Map(NamedTuple):
    labels: Labels  # (Z, Y, X)
    properties: Mapping[str, Any]


def _read(path: Path, table: LabelTable, problems: list[str]) -> _Map | None:
    try:
        return _require(path, table)
    except Exception as error:  # noqa: BLE001 - readers raise anything, and the other cases are to be named too
        problems.append(f"{path} cannot be read ({one_line(error)}); write it again")
        return None


def _require(path: Path, table: LabelTable) -> _Map:
    reader = determine_reader_writer_from_dataset_json(dict(table.dataset_json), verbose=False)()
    labels, properties = reader.read_seg(str(path))
    return _Map(labels[0], properties)


def _values(table: LabelTable) -> set[Any]:
    return {0, *(value for labels in table.taskset.region_labels for value in labels)}


def _own_values(table: LabelTable) -> dict[str, set[Any]]:
    names = tuple(task.name for task in table.taskset.tasks)
    described = {
        label_map.name: label_map.dataset_json["labels"]
        for label_map in task_maps(table.taskset, names, table.dataset_json)
    }
    return {
        name: set(np.concatenate([np.atleast_1d(value) for value in labels.values()]))
        for name, labels in described.items()
    }


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
    difference = grid_difference(prediction, reference)
    return (
        [f"{path} is not on the grid of the reference ({difference}); predict from the same image"]
        if difference
        else []
    )


def grid_difference(prediction: _Map, reference: _Map) -> str:
    """Say where two label maps' grids differ, in words; empty where they do not."""
    if prediction.labels.shape != reference.labels.shape:
        return f"{prediction.labels.shape} voxels against {reference.labels.shape}"
    of_prediction, of_reference = prediction.properties, reference.properties
    # Of nnU-Net's readers only SimpleITK's gives origin and direction; the others give the spacing.
    pairs = [("spacing", of_prediction["spacing"], of_reference["spacing"])]
    if "sitk_stuff" in of_prediction:
        for key in ("origin", "direction"):
            pairs.append((key, of_prediction["sitk_stuff"][key], of_reference["sitk_stuff"][key]))
    for name, found, expected in pairs:
        if not np.allclose(found, expected, rtol=0, atol=_TOLERANCE_MM):
            return f"{name} {_rounded(found)} against {_rounded(expected)}"
    return ""


def _rounded(numbers: Sequence[float]) -> str:
    return "(" + ", ".join(f"{number:.4g}" for number in numbers) + ")"
