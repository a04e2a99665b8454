"""Post-processing with nnU-Net's functions, judged for every region on the cases in which the region is annotated.

Maps of the final validation hold only the annotated regions of their case. On such maps nnU-Net's search selects "keep
the largest foreground component", which deletes whole organs from a map of all tasks. Here every rule keeps the largest
component of one region and gives the dropped voxels to the region around, so that no other region changes.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing,
    remove_all_but_largest_component_from_segmentation,
)

from nnunet_mtl.common.files import write_json
from nnunet_mtl.tasks import TaskSet

Rule = tuple[Any, dict[str, Any]]
DiceTable = npt.NDArray[np.float64]
_MARK = "nnunet_mtl"


@dataclass(frozen=True)
class RegionRule:
    """Keep the largest component of one region.

    Attributes:
        region: Index of the region.
        labels: Label values of the region, with those of regions inside it.
        replacement: Value of dropped voxels: the value of the region around, or 0.
        inner: Indices of the regions inside the region, which lose their voxels in a dropped component.
    """

    region: int
    labels: tuple[int, ...]
    replacement: int
    inner: tuple[int, ...]

    def as_nnunet(self) -> Rule:
        """Return nnU-Net's function and the keyword arguments for it."""
        return remove_all_but_largest_component_from_segmentation, {
            "labels_or_regions": self.labels,
            "background_label": self.replacement,
        }


def region_rules(tasks: TaskSet) -> Iterator[RegionRule]:
    """Yield the rules that are valid for maps of all tasks; outer regions come before the regions inside them.

    A region that shares voxels with a region of another task has no rule: where a vessel is painted over the liver, the
    liver may be cut into several components.
    """
    order = sorted(range(len(tasks.regions)), key=lambda region: -len(tasks.region_labels[region]))
    for region in order:
        if (rule := _rule(tasks, region)) is not None:
            yield rule


def _rule(tasks: TaskSet, region: int) -> RegionRule | None:
    labels = set(tasks.region_labels[region])
    task_index = tasks.task_of_region[region]
    name = tasks.tasks[task_index].name
    if labels == {0} or tasks.tasks[task_index].overlaps or any(name in task.overlaps for task in tasks.tasks):
        return None
    inner, outer = [], []
    for other, values in enumerate(map(set, tasks.region_labels)):
        if other == region or values.isdisjoint(labels):
            continue
        if values < labels and task_index in _with_ancestors(tasks, tasks.task_of_region[other]):
            inner.append(other)
        elif labels < values:
            outer.append(other)
        else:
            return None
    replacement = 0
    if outer:
        replacement = tasks.regions_class_order[min(outer, key=lambda other: len(tasks.region_labels[other]))]
        if outer != [other for other, values in enumerate(tasks.region_labels) if replacement in values]:
            return None
    return RegionRule(region, tasks.region_labels[region], replacement, tuple(inner))


def _with_ancestors(tasks: TaskSet, task: int) -> list[int]:
    """Return a task, its parent, the parent's parent and so on."""
    names = [other.name for other in tasks.tasks]
    line = [task]
    while (parent := tasks.tasks[line[-1]].parent) in names:
        line.append(names.index(parent))
    return line


@dataclass(frozen=True)
class Maps:
    """Folders of predictions and references, and the annotated regions of every predicted case.

    Attributes:
        predictions: Folder of predicted label maps.
        references: Folder of reference label maps with the same names.
        ending: File ending of both.
        reader: nnU-Net's reader of the data set.
        annotated: Whether each of the R regions is annotated, by case, for every predicted case.
        tasks: Task set of the data set.
    """

    predictions: Path
    references: Path
    ending: str
    reader: Any
    annotated: Mapping[str, tuple[bool, ...]]
    tasks: TaskSet


@dataclass(frozen=True)
class Judgement:
    """The effect of a rule on its region.

    Attributes:
        rule: The rule.
        n_cases: Number of cases in which the region is annotated.
        before: Mean Dice over these cases without the rule; NaN if no case has the region, predicted or in reference.
        after: Mean Dice over these cases with the rule.
        kept: Whether the rule is applied: the region gains, and no region inside it loses.
    """

    rule: RegionRule
    n_cases: int
    before: float
    after: float
    kept: bool


def judge(maps: Maps, n_processes: int) -> list[Judgement]:
    """Try every rule in turn; a rule is applied after all earlier rules that were kept."""
    judged: list[Judgement] = []
    with get_context("spawn").Pool(n_processes) as pool:
        for rule in region_rules(maps.tasks):
            cases = [case for case, annotated in maps.annotated.items() if annotated[rule.region]]
            chain = [known.rule.as_nnunet() for known in judged if known.kept]
            scores = pool.starmap(_dice, [(maps, case, chain, rule) for case in cases])
            judged.append(_judgement(rule, scores))
    return judged


def _dice(maps: Maps, case: str, chain: Sequence[Rule], rule: RegionRule) -> DiceTable:
    """Return the Dice of a rule's region and of those inside it, before and after the rule, (2, 1 + inner)."""
    name = f"{case}{maps.ending}"
    predicted, reference = (
        maps.reader.read_seg(str(folder / name))[0][0] for folder in (maps.predictions, maps.references)
    )
    ignored = None if maps.tasks.ignore_label is None else reference == maps.tasks.ignore_label
    before = _apply(predicted, chain)
    stages = (before, _apply(before, [rule.as_nnunet()]))
    scores = np.full((2, 1 + len(rule.inner)), np.nan)
    for column, region in enumerate((rule.region, *rule.inner)):
        if not maps.annotated[case][region]:
            continue
        labels = maps.tasks.region_labels[region]
        truth = region_or_label_to_mask(reference, labels)
        for row, stage in enumerate(stages):
            tp, fp, fn, _ = compute_tp_fp_fn_tn(truth, region_or_label_to_mask(stage, labels), ignored)
            scores[row, column] = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else np.nan
    return scores


def _apply(segmentation: Any, rules: Sequence[Rule]) -> Any:
    return apply_postprocessing(segmentation, [function for function, _ in rules], [words for _, words in rules])


def _judgement(rule: RegionRule, scores: Sequence[DiceTable]) -> Judgement:
    before, after = np.stack(scores, axis=1) if scores else np.full((2, 1, 1 + len(rule.inner)), np.nan)
    # If the region is in neither map after the rule, it has no Dice any more, which is no loss.
    change = np.nan_to_num(after - before).mean(axis=0)
    kept = bool(change[0] > 0 and (change[1:] >= 0).all())
    return Judgement(rule, len(scores), mean(before[:, 0]), mean(after[:, 0]), kept)


def mean(values: Any) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")


def write_mark(
    folder: Path, judged: Sequence[Judgement], tasks: TaskSet, beside: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write `postprocessing.json`, which records how `postprocessing.pkl` beside it was judged.

    Args:
        folder: Folder of both files.
        judged: The judged rules; empty if every case is annotated for every region, where nnU-Net's search is right.
        tasks: Task set of the data set.
        beside: Further content of the file.
    """
    rules = [
        {
            "region": tasks.regions[known.rule.region],
            "cases": known.n_cases,
            "dice_before": None if np.isnan(known.before) else known.before,
            "dice_after": None if np.isnan(known.after) else known.after,
            "kept": known.kept,
        }
        for known in judged
    ]
    mark = {"sha256": _digest(folder / "postprocessing.pkl"), "judged_by_region": rules}
    write_json(folder / "postprocessing.json", {**beside, _MARK: mark})


def fitted_on_restricted_maps(results: Path, model: str = "*") -> list[Path]:
    """Return every `postprocessing.pkl` that nnU-Net's search wrote, which is not valid for partially annotated data.

    Args:
        results: Folder of a data set in `nnUNet_results`.
        model: Pattern of a model folder's name; ensembles with the model are searched too.
    """
    member = f"*{model}*".replace("***", "*").replace("**", "*")  # glob reads a double asterisk as any depth of folders
    places = (f"{model}/*", f"{model}/*/validation", f"ensembles/{member}")
    paths = {path for place in places for path in results.glob(f"{place}/postprocessing.pkl")}
    return sorted(path for path in paths if not _is_marked(path))


def _is_marked(postprocessing: Path) -> bool:
    try:
        content = json.loads(postprocessing.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(content[_MARK]["sha256"] == _digest(postprocessing))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
