"""What the values of a folder's label maps mean: the `dataset.json` that nnU-Net puts beside its predictions.

Another network numbers its labels in another way, so values are matched by the names of their regions or not at all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed, spelt
from nnunet_mtl.tasks import TaskSet, read_dataset_json

# Stands for the regions of a data set that keeps none: nnU-Net cannot do without a label.
NOTHING = "nothing"


class DescribedRegionsError(UserError):
    """The values of a folder's label maps cannot be matched with the regions of a data set."""


@dataclass(frozen=True)
class DescribedRegions:
    """The regions of label maps, matched by name with those of a data set.

    Attributes:
        path: Of the description.
        taskset: What it says.
        channels: The number of each region in it, by the region's number in the data set.
        unknown: Names of regions that the data set does not have.
    """

    path: Path
    taskset: TaskSet
    channels: Mapping[int, int]
    unknown: tuple[str, ...]

    @cached_property
    def values(self) -> dict[int, tuple[int, ...]]:
        """The values of each region, by the region's number in the data set."""
        return {region: tuple(self.taskset.region_labels[channel]) for region, channel in self.channels.items()}

    @cached_property
    def known(self) -> frozenset[int]:
        """Every value that the maps may hold."""
        return frozenset({0}.union(*self.taskset.region_labels))


def described_regions(folder: Path, taskset: TaskSet, file_ending: str | None) -> DescribedRegions:
    """Match the regions of a folder's label maps with those of a data set.

    Args:
        folder: Holds a `dataset.json`.
        taskset: Of the data set.
        file_ending: Of the label maps; None where nothing is said of it.

    Raises:
        TaskSetError: If the description cannot be read.
        DescribedRegionsError: If its maps have another ending, or a region lies inside another one here and not there:
            equal names then do not mean the same.
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
    found = DescribedRegions(
        path,
        described,
        {places[name]: channel for name, channel in named.items() if name in places},
        tuple(name for name in named if name not in places),
    )
    problem = next(_nested_otherwise(found, taskset), "")
    if problem:
        raise DescribedRegionsError(f"{path}: {problem}; rename the region, or predict with the data set's regions")
    return found


def _nested_otherwise(found: DescribedRegions, taskset: TaskSet) -> Iterator[str]:
    for inner, outer in permutations(found.values, 2):
        here = set(taskset.region_labels[inner]) <= set(taskset.region_labels[outer])
        there = set(found.values[inner]) <= set(found.values[outer])
        if here != there:
            names = [spelt(taskset.regions[number]) for number in (inner, outer)]
            words = ("is not part", "is part") if here else ("is part", "is not part")
            yield f"{names[0]} {words[0]} of {names[1]} there and {words[1]} of it in the data set"


def not_in_common(found: DescribedRegions, taskset: TaskSet) -> str:
    """Say which regions of a data set the maps do not have, and of which others they do; empty if they agree."""
    missing = [
        name
        for number, name in enumerate(taskset.regions)
        if number not in found.channels and tuple(taskset.region_labels[number]) != (0,)
    ]
    parts = [f"does not predict {listed(missing)}"] if missing else []
    parts += [f"predicts {listed(found.unknown)}, which the data set does not have"] if found.unknown else []
    return " and ".join(parts)
