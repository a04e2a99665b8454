"""Dice of exported label maps against references, per case, region and task.

Read from the label maps that `nnUNetv2_predict` writes. In one map a later region overwrites an earlier one, so where
regions of different tasks overlap (a vessel inside the liver), the earlier region scores with the overlap only if the
later region's label is among its own labels. These scores are of that map; they are not scores of each task's own
probabilities.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nnunet_mtl.datasets.label_pairs import find_pairs, problems_of, refuse, region_masks
from nnunet_mtl.datasets.label_table import LabelTable
from nnunet_mtl.evaluation.missing import json_number, mean_of_present, ranked
from nnunet_mtl.evaluation.overlap import Overlap
from nnunet_mtl.tasks import TaskSet


@dataclass(frozen=True)
class Scores:
    """Dice of several cases; NaN means that neither reference nor prediction holds the region.

    Attributes:
        cases: Dice of every annotated region by case, then by region; what is not annotated is not there.
        tasks: Regions by task, in output order.
        slots: Regions by the name of the slot they use (`organ`, `tumour`), in output order.
    """

    cases: Mapping[str, Mapping[str, float]]
    tasks: Mapping[str, tuple[str, ...]]
    slots: Mapping[str, tuple[str, ...]]

    @property
    def regions(self) -> tuple[str, ...]:
        """Every scored region, task by task."""
        return tuple(region for regions in self.tasks.values() for region in regions)

    def number_of_cases(self, region: str) -> int:
        """Return in how many cases the region has a Dice: annotated, and there in reference or prediction."""
        return sum(not math.isnan(case.get(region, math.nan)) for case in self.cases.values())

    def mean_dice(self, regions: Iterable[str]) -> float:
        """Return the mean over the regions of their means over cases, so that a rare region weighs as a common one.

        NaN where none of the regions has a Dice in any case.
        """
        return mean_of_present(
            mean_of_present(case.get(region, math.nan) for case in self.cases.values()) for region in regions
        )

    def mean_dice_of_case(self, case: str) -> float:
        """Return the mean over the regions that have a Dice in this case; NaN where none has."""
        return mean_of_present(self.cases[case].values())

    def ranked_cases(self) -> list[str]:
        """Return the cases that have a Dice, from the lowest to the highest mean over their regions."""
        return ranked({case: self.mean_dice_of_case(case) for case in self.cases})

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-able values; NaN becomes null, which JSON has."""
        return {
            "mean": json_number(self.mean_dice(self.regions)),
            "tasks": {task: json_number(self.mean_dice(regions)) for task, regions in self.tasks.items()},
            "slots": {slot: json_number(self.mean_dice(regions)) for slot, regions in self.slots.items()},
            "regions": {
                region: {"dice": json_number(self.mean_dice([region])), "cases": self.number_of_cases(region)}
                for region in self.regions
            },
            "cases": {
                case: {region: json_number(dice) for region, dice in regions.items()}
                for case, regions in self.cases.items()
            },
        }


def dice_table(
    predictions: Path,
    references: Path,
    taskset: TaskSet,
    dataset_json: Mapping[str, Any],
    *,
    fully_labelled: bool,
    parts: int = 1,
) -> Scores:
    """Score every reference in a folder with the prediction of the same name.

    A Dice is NaN where a region is in neither map and 0 where it is in one only. Voxels with nnU-Net's ignore label in
    the reference count for nothing. Predictions without a reference are not read.

    Args:
        predictions: Folder of label maps as nnU-Net exports them.
        references: Folder of label maps with the labels of `dataset_json`.
        taskset: Regions and tasks; also says what is annotated where `fully_labelled` is false.
        dataset_json: The data set's description, for the file ending and the reader.
        fully_labelled: Whether every region is annotated in every reference; otherwise a case counts for the regions
            that its entry in the task set names, and must have one.
        parts: Only every `parts`-th reference counts, from the first on: nnU-Net's `-num_parts` with `-part_id 0`.

    Returns:
        The scores of every case.

    Raises:
        CasesError: If there is no reference, or naming every case that cannot be scored.
    """
    table = LabelTable(dataset_json, taskset)
    pairs, problems = find_pairs(predictions, references, table, fully_labelled=fully_labelled, parts=parts)
    refuse([*problems, *chain.from_iterable(problems_of(pair, table) for pair in pairs)])
    scored = {
        pair.case: {
            taskset.regions[masks.region]: Overlap.of(masks.prediction, masks.reference).dice
            for masks in region_masks(pair, table)
        }
        for pair in pairs
    }
    return Scores(cases=scored, tasks=_regions_by_task(table), slots=_regions_by_slot(table))


def _regions_by_task(table: LabelTable) -> dict[str, tuple[str, ...]]:
    taskset = table.taskset
    names: dict[str, tuple[str, ...]] = {}
    for index in table.regions:
        task = taskset.tasks[taskset.task_of_region[index]].name
        names[task] = (*names.get(task, ()), taskset.regions[index])
    return names


def _regions_by_slot(table: LabelTable) -> dict[str, tuple[str, ...]]:
    taskset = table.taskset
    names: dict[str, tuple[str, ...]] = {}
    for index in table.regions:
        slot = taskset.slot_names[taskset.slot_of_region[index]]
        names[slot] = (*names.get(slot, ()), taskset.regions[index])
    return names
