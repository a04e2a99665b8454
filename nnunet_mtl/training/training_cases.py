"""Refuses, before the first step, cases and labels that contradict the case table."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import load_pickle

from nnunet_mtl.tasks import TaskSet, TaskSetError


def refuse_unknown_cases(tasks: TaskSet, datasets: Sequence[Any], *, rank: int) -> None:
    """Refuse cases that are not in the case table and, on rank 0, cases with foreground of un-annotated regions.

    Args:
        tasks: The task set with its case table.
        datasets: nnU-Net's data sets.
        rank: Rank of the process.

    Raises:
        TaskSetError: Naming the cases.
    """
    for dataset in datasets:
        tasks.require_cases(dataset.identifiers)
    if rank == 0:
        refuse_unknown_foreground(tasks, datasets)


def refuse_unknown_foreground(tasks: TaskSet, datasets: Iterable[Any]) -> None:
    """Refuse preprocessed cases with foreground of a region that is not annotated in the case.

    A kidney in the label map of a case annotated for the liver alone means that the case table or the label map is
    wrong, and training would hide the fault. nnU-Net's preprocessing recorded where every region lies, so no image is
    read.

    Args:
        tasks: The task set with its case table.
        datasets: nnU-Net's data sets, with `source_folder` and `identifiers`.

    Raises:
        TaskSetError: If there are such cases; the message names the first ten.
    """
    findings = []
    if not tasks.has_block:
        return
    for dataset in datasets:
        for case in dataset.identifiers:
            properties = load_pickle(os.path.join(dataset.source_folder, f"{case}.pkl"))
            findings += [f"{case} ({region})" for region in _unknown_foreground(tasks, case, properties)]
    if findings:
        unique = sorted(set(findings))  # in fold "all" a case is in both data sets
        shown = ", ".join(unique[:10]) + (f" and {len(unique) - 10} more" if len(unique) > 10 else "")
        raise TaskSetError(
            f"dataset.json: nnunet_mtl.cases: labels of regions that are not annotated in their case: {shown}. "
            "Where a region was annotated, add it to `annotated` and run `nnunet_mtl sync`; where it was not, set its "
            "labels to 0 in labelsTr and preprocess again"
        )


def _unknown_foreground(tasks: TaskSet, case: str, properties: dict[str, Any]) -> list[str]:
    annotated = tasks.annotated(case)
    known = {leaf for known, leaves in zip(annotated, tasks.region_labels, strict=True) if known for leaf in leaves}
    # nnU-Net's keys are the labels as written: 2, (1, 2), (2, 1), or (1, 1) for a region of one leaf
    locations = {
        frozenset(np.atleast_1d(key).tolist()): voxels for key, voxels in properties["class_locations"].items()
    }
    unknown = []
    for region, leaves, is_annotated in zip(tasks.regions, tasks.region_labels, annotated, strict=True):
        # a leaf may also belong to an annotated region, as that of a vessel in the liver
        if not is_annotated and len(locations.get(frozenset(leaves), ())) and not known.intersection(leaves):
            unknown.append(region)
    return unknown
