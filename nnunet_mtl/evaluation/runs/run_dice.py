"""Dice of a run and nothing else: without surfaces a run of small images is measured in seconds.

Dice is measured on the label maps that `nnUNetv2_predict` writes. In one map a later region overwrites an earlier one:
where regions of different tasks overlap (a vessel inside the liver), the earlier region keeps the overlap only if the
later region's label is among the earlier region's own labels. The Dice of such a map is therefore not the Dice of the
probabilities of each task.
"""

import math
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from nnunet_mtl.datasets.label_pairs import find_pairs, problems_of, refuse, region_masks
from nnunet_mtl.datasets.label_table import LabelTable
from nnunet_mtl.evaluation.metrics.overlap import Overlap
from nnunet_mtl.evaluation.metrics.region_metrics import METRICS
from nnunet_mtl.evaluation.runs.case_metrics import CaseMetrics
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics
from nnunet_mtl.tasks import TaskSet


def run_dice(
    predictions: Path,
    references: Path,
    taskset: TaskSet,
    dataset_json: Mapping[str, Any],
    *,
    fully_labelled: bool,
    parts: int = 1,
) -> RunMetrics:
    """Measure the Dice of every reference in a folder with the prediction of the same name.

    A Dice is NaN where a region is in neither map, and 0 where the region is in one map only. Voxels with nnU-Net's
    ignore label in the reference are left out. Predictions without a reference are not read.

    Args:
        predictions: Folder of label maps as nnU-Net exports them.
        references: Folder of label maps with the labels of `dataset_json`.
        taskset: Regions and tasks, and, where `fully_labelled` is false, the annotated regions of every case.
        dataset_json: The data set's description, for the file ending and the reader.
        fully_labelled: Whether every region is annotated in every reference. If not, every case needs an entry in the
            task set, and only the regions named there are measured.
        parts: Only every `parts`-th reference is measured, beginning with the first: nnU-Net's `-num_parts` with
            `-part_id 0`.

    Returns:
        The run; every metric but `dice` is NaN.

    Raises:
        CasesError: If there is no reference, or naming every case that cannot be measured.
    """
    table = LabelTable(dataset_json, taskset)
    pairs, problems = find_pairs(predictions, references, table, fully_labelled=fully_labelled, parts=parts)
    refuse([*problems, *chain.from_iterable(problems_of(pair, table) for pair in pairs)])
    rows = []
    for pair in pairs:
        for masks in region_masks(pair, table):
            overlap = Overlap.of(masks.prediction, masks.reference)
            task = taskset.tasks[taskset.task_of_region[masks.region]].name
            metrics = {**dict.fromkeys(METRICS, math.nan), "dice": overlap.dice}
            rows.append(CaseMetrics(pair.case, task, taskset.regions[masks.region], metrics, overlap))
    return RunMetrics(tuple(rows), taskset)
