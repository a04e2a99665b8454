"""Dice of exported label maps against references, per case, region and task.

Read from the label maps that `nnUNetv2_predict` writes. In one map a later region overwrites an earlier one, so where
regions of different tasks overlap (a vessel inside the liver), the earlier region scores with the overlap only if the
later region's label is among its own labels. These scores are of that map; they are not scores of each task's own
probabilities.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from nnunet_mtl.errors import UserError
from nnunet_mtl.tasks import TaskSet

# Headers store coordinates as 32-bit floats: a slice at -777.5 mm comes back to within a ten-thousandth of that.
_TOLERANCE_MM = 1e-3


class ScoresError(UserError):
    """Predictions and references cannot be compared."""


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
        return _mean(_mean(case.get(region, math.nan) for case in self.cases.values()) for region in regions)

    def mean_dice_of_case(self, case: str) -> float:
        """Return the mean over the regions that have a Dice in this case; NaN where none has."""
        return _mean(self.cases[case].values())

    def ranked_cases(self) -> list[str]:
        """Return the cases that have a Dice, from the lowest to the highest mean over their regions."""
        means = {case: self.mean_dice_of_case(case) for case in self.cases}
        return sorted((case for case in means if not math.isnan(means[case])), key=lambda case: (means[case], case))

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-able values; NaN becomes null, which JSON has."""
        return {
            "mean": _json_number(self.mean_dice(self.regions)),
            "tasks": {task: _json_number(self.mean_dice(regions)) for task, regions in self.tasks.items()},
            "slots": {slot: _json_number(self.mean_dice(regions)) for slot, regions in self.slots.items()},
            "regions": {
                region: {"dice": _json_number(self.mean_dice([region])), "cases": self.number_of_cases(region)}
                for region in self.regions
            },
            "cases": {
                case: {region: _json_number(dice) for region, dice in regions.items()}
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
        ScoresError: If there is no reference, or if predictions are missing or lie on another grid (naming every one).
        TaskSetError: If a case is not in the task set and `fully_labelled` is false.
    """
    ending = str(dataset_json["file_ending"])
    cases = sorted(path.name.removesuffix(ending) for path in references.glob(f"[!.]*{ending}"))[::parts]
    if not cases:
        raise ScoresError(f"{references}: expected references named *{ending} and found none")
    missing = [case for case in cases if not (predictions / f"{case}{ending}").is_file()]
    if missing:
        raise ScoresError(
            f"{predictions}: no prediction for {', '.join(missing)}; predict these cases, then score again"
        )
    reader = determine_reader_writer_from_dataset_json(dict(dataset_json), verbose=False)()
    scored, displaced = {}, []
    for case in cases:
        prediction, of_prediction = reader.read_seg(str(predictions / f"{case}{ending}"))
        reference, of_reference = reader.read_seg(str(references / f"{case}{ending}"))
        difference = _grid_difference(prediction, of_prediction, reference, of_reference)
        if difference:
            displaced.append(f"{case} ({difference})")
            continue
        annotated = [True] * len(taskset.regions) if fully_labelled else taskset.annotated(case)
        scored[case] = _case_dice(prediction, reference, taskset, annotated)
    if displaced:
        raise ScoresError(
            f"{predictions}: not on the grid of the reference: {', '.join(displaced)}; predict from the images that "
            f"the references in {references} were drawn on"
        )
    return Scores(cases=scored, tasks=_regions_by_task(taskset), slots=_regions_by_slot(taskset))


def _case_dice(
    prediction: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    taskset: TaskSet,
    annotated: Sequence[bool],
) -> dict[str, float]:
    ignored = None if taskset.ignore_label is None else reference == taskset.ignore_label
    dice = {}
    for index in _scored_regions(taskset):
        if annotated[index]:
            masks = (
                region_or_label_to_mask(labels, taskset.region_labels[index]) for labels in (reference, prediction)
            )
            true_positive, false_positive, false_negative, _ = (int(n) for n in compute_tp_fp_fn_tn(*masks, ignored))
            total = 2 * true_positive + false_positive + false_negative
            dice[taskset.regions[index]] = 2 * true_positive / total if total else math.nan
    return dice


def _scored_regions(taskset: TaskSet) -> list[int]:
    """Return the indices of the regions that are not background, which is an output of its own without regions."""
    return [index for index, labels in enumerate(taskset.region_labels) if tuple(labels) != (0,)]


def _regions_by_task(taskset: TaskSet) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for index in _scored_regions(taskset):
        task = taskset.tasks[taskset.task_of_region[index]].name
        names[task] = (*names.get(task, ()), taskset.regions[index])
    return names


def _regions_by_slot(taskset: TaskSet) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for index in _scored_regions(taskset):
        slot = taskset.slot_names[taskset.slot_of_region[index]]
        names[slot] = (*names.get(slot, ()), taskset.regions[index])
    return names


def _grid_difference(
    prediction: npt.NDArray[np.float32],
    of_prediction: Mapping[str, Any],
    reference: npt.NDArray[np.float32],
    of_reference: Mapping[str, Any],
) -> str:
    """Say where two label maps' grids differ, in words; empty where they do not."""
    if prediction.shape != reference.shape:
        return f"{prediction.shape[1:]} voxels against {reference.shape[1:]}"
    # Of nnU-Net's readers only SimpleITK's gives origin and direction; the others give the spacing.
    pairs = [("spacing", of_prediction["spacing"], of_reference["spacing"])]
    if "sitk_stuff" in of_prediction:
        for key in ("origin", "direction"):
            pairs.append((key, of_prediction["sitk_stuff"][key], of_reference["sitk_stuff"][key]))
    for name, found, expected in pairs:
        if not np.allclose(found, expected, rtol=0, atol=_TOLERANCE_MM):
            return f"{name} {_rounded(found)} against {_rounded(expected)}"
    return ""


def _rounded(numbers: Iterable[float]) -> str:
    return "(" + ", ".join(f"{number:.4g}" for number in numbers) + ")"


def _mean(numbers: Iterable[float]) -> float:
    """Return the mean of those that are numbers, NaN if none is."""
    finite = [number for number in numbers if not math.isnan(number)]
    return sum(finite) / len(finite) if finite else math.nan


def _json_number(number: float) -> float | None:
    return None if math.isnan(number) else number
