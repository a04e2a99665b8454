"""The command `nnunet_mtl postprocess`: connected components are kept or dropped by a rule for every region."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from nnunet_mtl.common.messages import did_you_mean, listed
from nnunet_mtl.datasets.component_rules import (
    ComponentRule,
    ComponentRuleError,
    apply_rules,
    published_rules,
    read_rules,
    share_rules,
)
from nnunet_mtl.datasets.described_regions import described_regions
from nnunet_mtl.datasets.label_maps import LabelMapError, LabelMapReader, membership, painted, refuse
from nnunet_mtl.datasets.raw_dataset import RawDataset, written_whole
from nnunet_mtl.tasks import TaskSet, read_dataset_json, write_dataset_json


def postprocess(source: Path, folder: Path, output: Path, rules: str = "published", smallest: float = 0.1) -> str:
    """Apply component rules to a folder of predictions, and to the maps of single tasks in its sub-folders.

    Args:
        source: Folder of the data set in `nnUNet_raw`, whose regions the rules name.
        folder: Folder of label maps and the `dataset.json` that nnU-Net writes beside its predictions. A sub-folder
            with the name of a task holds the maps of that task (`nnunet_mtl predict --save-per-task`).
        output: Folder for the new maps, which keep their names, and for every `dataset.json`.
        rules: "published", "components" (in every region, components below a share of the largest are dropped), or the
            path of a JSON file.
        smallest: The share for "components", 0 to 1.

    Returns:
        Text for the user: the regions without a rule, the number of cases and the output folder.

    Raises:
        UserError: If the rules or any map are at fault; nothing is written then.
    """
    raw = RawDataset.read(source)
    chosen = _chosen(rules, raw.taskset, smallest)
    if not chosen:
        raise ComponentRuleError(
            f"--rules {rules}: has no rule for {listed(raw.taskset.regions)}; write rules.json, see "
            "docs/postprocessing.md"
        )
    problems: list[str] = []
    reader = LabelMapReader(raw.reader(), problems)
    inner = [task.name for task in raw.taskset.tasks if (folder / task.name).is_dir()]
    with written_whole(output) as new:
        n_cases = _process(folder, new, raw, chosen, reader)
        for name in inner:
            (new / name).mkdir()
            _process(folder / name, new / name, raw, chosen, reader)
        refuse(problems)
    unruled = [region for region in raw.taskset.regions if region not in chosen]
    text = f"processed {n_cases} cases by {len(chosen)} rules: {output}"
    return f"no rule for {listed(unruled)}: left as predicted\n{text}" if unruled else text


def _chosen(rules: str, taskset: TaskSet, smallest: float) -> dict[str, ComponentRule]:
    if rules == "published":
        return published_rules(taskset.regions)
    if rules == "components":
        labels = dict(zip(taskset.regions, taskset.region_labels, strict=True))
        return share_rules({region: values for region, values in labels.items() if values != (0,)}, smallest)
    return _from_file(Path(rules), taskset)


def _from_file(path: Path, taskset: TaskSet) -> dict[str, ComponentRule]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        similar = did_you_mean(str(path), ("published", "components"))
        raise ComponentRuleError(
            f"--rules {path}: cannot be read ({error.strerror}){similar}; check the path"
        ) from None
    except ValueError as error:
        raise ComponentRuleError(f"--rules {path}: is no JSON ({error}); see docs/postprocessing.md") from None
    return read_rules(content, taskset.regions, str(path))


def _process(
    folder: Path, output: Path, raw: RawDataset, rules: Mapping[str, ComponentRule], reader: LabelMapReader
) -> int:
    """Process the maps of one folder; return the number of maps."""
    dataset_json: dict[str, Any] = read_dataset_json(folder / "dataset.json")
    ending = str(dataset_json.get("file_ending", raw.file_ending))
    taskset = described_regions(folder, raw.taskset, dataset_json.get("file_ending")).taskset
    cases = sorted(path for path in folder.glob(f"[!.]*{ending}") if path.is_file())
    if not cases:
        raise LabelMapError(f"{folder}: no prediction named *{ending}; check -i")
    write_dataset_json(output / "dataset.json", dataset_json)
    n_values = 1 + max(value for labels in taskset.region_labels for value in labels)
    members = membership(taskset.region_labels, n_values)
    # If labels are no regions, background is an output channel that follows from the other channels.
    regions = [index for index, labels in enumerate(taskset.region_labels) if tuple(labels) != (0,)]
    order = taskset.regions_class_order if taskset.has_regions else [labels[0] for labels in taskset.region_labels]
    for path in tqdm(cases, desc=folder.name, unit="case"):
        label_map = reader.read(path, n_values)
        if label_map is None or reader.problems:
            continue
        masks = {taskset.regions[index]: members[label_map.labels, index] for index in regions}
        kept = apply_rules(masks, rules)
        table = np.stack([kept[name].ravel() for name in masks], axis=1)
        values = painted(table, [order[index] for index in regions]).reshape(label_map.labels.shape)
        changed = np.logical_or.reduce([kept[name] != mask for name, mask in masks.items()])
        reader.write(output / path.name, np.where(changed, values, label_map.labels), label_map)
    return len(cases)
