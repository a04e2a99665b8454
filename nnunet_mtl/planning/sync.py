"""Copies the task block to the preprocessed folder, where training reads it.

nnU-Net copies `dataset.json` into the preprocessed folder at planning only: a later change in the raw folder has no
effect until the block is copied again.
"""

import json
from typing import Any

from nnunet_mtl.common.files import write_json
from nnunet_mtl.planning.folders import PlanningError, preprocessed_folder, raw_folder
from nnunet_mtl.tasks import TaskSet, read_dataset_json

_BLOCK = "nnunet_mtl"
# Keys that planning and preprocessing use: if one changes, the preprocessed files change.
_NEEDS_PLANNING = ("labels", "regions_class_order", "channel_names", "modality", "file_ending")


def sync(dataset: str | int) -> str:
    """Copy the task block, and nothing else, from the raw to the preprocessed `dataset.json`.

    Returns:
        One line that says whether something changed.

    Raises:
        PlanningError: If the data set does not exist or is not planned, or labels or channels differ.
        TaskSetError: If the raw block is refused; nothing is then written.
    """
    source = raw_folder(dataset) / "dataset.json"
    target = preprocessed_folder(dataset) / "dataset.json"
    raw, preprocessed = read_dataset_json(source), read_dataset_json(target)
    tasks = TaskSet.from_dataset_json(raw, str(source))
    for key in _NEEDS_PLANNING:
        # As text, because the order of labels, channels and tasks has a meaning.
        if _as_text(raw, key) != _as_text(preprocessed, key):
            raise PlanningError(
                f"{target}: {key!r} differs from {source}; run nnUNetv2_plan_and_preprocess -d {dataset} again"
            )
    if _as_text(raw, _BLOCK) == _as_text(preprocessed, _BLOCK):
        return f"{target}: up to date ({_summary(tasks)})"
    if tasks.has_block:
        preprocessed[_BLOCK] = raw[_BLOCK]
    else:
        preprocessed.pop(_BLOCK)
    write_json(target, preprocessed)
    return f"{target}: changed ({_summary(tasks)})"


def _as_text(dataset_json: dict[str, Any], key: str) -> str:
    return json.dumps(dataset_json.get(key))


def _summary(tasks: TaskSet) -> str:
    if not tasks.has_block:
        return f"no {_BLOCK} block: one task, every case annotated"
    return f"tasks {', '.join(task.name for task in tasks.tasks)}; {len(tasks.cases)} cases"
