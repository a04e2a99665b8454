"""The regions of predicted label maps, read from the `dataset.json` that nnU-Net writes beside its predictions.

Two networks may number the same regions differently, so label values are matched by the names of regions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed, spelt
from nnunet_mtl.tasks import TaskSet, read_dataset_json

# Name of the only label in a data set without regions: nnU-Net requires at least one label.
NOTHING = "nothing"


class DescribedRegionsError(UserError):
    """The label values of a folder cannot be matched with the regions of a data set."""


@dataclass(frozen=True)
class DescribedRegions:
    """The regions of label maps, matched by name with those of a data set.

    Attributes:
        path: Path of the `dataset.json` beside the predictions.
        taskset: Content of that file.
        channels: Index of a region in that file, by the region's index in the data set.
        unknown: Names of predicted regions that the data set lacks.
    """

    path: Path
    taskset: TaskSet
    channels: Mapping[int, int]
    unknown: tuple[str, ...]

    @cached_property
    def values(self) -> dict[int, tuple[int, ...]]:
        """Label values by the region's index in the data set."""
        return {region: tuple(self.taskset.region_labels[channel]) for region, channel in self.channels.items()}

    @cached_property
    def known(self) -> frozenset[int]:
        """Every label value that the maps may hold."""
        return frozenset({0}.union(*self.taskset.region_labels))


def described_regions(folder: Path, taskset: TaskSet, file_ending: str | None) -> DescribedRegions:
    """Match the regions of a folder's label maps with those of a data set.

    Args:
        folder: Folder of predictions with a `dataset.json`.
        taskset: Task set of the data set.
        file_ending: File ending of the data set's label maps; None if the data set names none.

    Raises:
        TaskSetError: If the description cannot be read.
        DescribedRegionsError: If the file endings differ, or one region lies inside another in only one of the two
            descriptions: equal names then mean different regions.
    """
    path = folder / "dataset.json"
    dataset_json = read_dataset_json(path)
    described = TaskSet.from_dataset_json(dataset_json, str(path))
    if dataset_json.get("file_ending") != file_ending:
        raise DescribedRegionsError(
            f"{path}: file_ending {dataset_json.get('file_ending')}, the data set's is {file_ending}; "
            "give predictions of a data set with the same one"
        )
    places = {name: number for number, name in enumerate(taskset.regions)}
    nameless = {"background", NOTHING if NOTHING not in places else "background"}
    named = {name: channel for channel, name in enumerate(described.regions) if name not in nameless}
    regions = DescribedRegions(
        path,
        described,
        {places[name]: channel for name, channel in named.items() if name in places},
        tuple(name for name in named if name not in places),
    )
    problem = next(_nesting_differences(regions, taskset), "")
    if problem:
        raise DescribedRegionsError(f"{path}: {problem}; rename the region, or predict with the data set's regions")
    return regions


def _nesting_differences(predicted: DescribedRegions, taskset: TaskSet) -> Iterator[str]:
    for inner, outer in permutations(predicted.values, 2):
        in_data_set = set(taskset.region_labels[inner]) <= set(taskset.region_labels[outer])
        in_predictions = set(predicted.values[inner]) <= set(predicted.values[outer])
        if in_data_set != in_predictions:
            names = [spelt(taskset.regions[number]) for number in (inner, outer)]
            words = ("is not part", "is part") if in_data_set else ("is part", "is not part")
            yield f"{names[0]} {words[0]} of {names[1]} there and {words[1]} of it in the data set"


def not_in_common(found: DescribedRegions, taskset: TaskSet) -> str:
    """Return in words which regions the maps lack and which further regions they have; empty text for none."""
    missing = [
        name
        for number, name in enumerate(taskset.regions)
        if number not in found.channels and tuple(taskset.region_labels[number]) != (0,)
    ]
    parts = [f"does not predict {listed(missing)}"] if missing else []
    parts += [f"predicts {listed(found.unknown)}, which the data set does not have"] if found.unknown else []
    return " and ".join(parts)
