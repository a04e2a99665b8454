"""Post-processing of nnU-Net's own functions, judged region by region on the cases in which a region is annotated.

Maps of the final validation hold only what is annotated in their case. nnU-Net's own search finds "keep the largest
foreground component" right on them, which deletes whole organs from a map of all tasks. Here every rule keeps the
largest component of one region and gives what it drops to the region around it, so that nothing else is touched.
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
Scores = npt.NDArray[np.float64]
_MARK = "nnunet_mtl"


@dataclass(frozen=True)
class RegionRule:
    """Keep the largest component of one region.

    Attributes:
        region: Its number.
        labels: Its label values; a component holds what lies inside the region too.
        replacement: Value that dropped voxels get: of the region around it, or 0.
        inner: Numbers of the regions inside it, which lose what lies in a dropped component.
    """

    region: int
    labels: tuple[int, ...]
    replacement: int
    inner: tuple[int, ...]

    def as_nnunet(self) -> Rule:
        """Return nnU-Net's function and its arguments."""
        return remove_all_but_largest_component_from_segmentation, {
            "labels_or_regions": self.labels,
            "background_label": self.replacement,
        }


def region_rules(tasks: TaskSet) -> Iterator[RegionRule]:
    """Yield the rules that can be valid for maps of all tasks, outer regions before what lies inside them.

    There is none for a region that another task's region cuts or shares voxels with: where a vessel is painted over the
    liver, the largest component of the liver is not the liver.
    """
    order = sorted(range(len(tasks.regions)), key=lambda region: -len(tasks.region_labels[region]))
    for region in order:
        if (rule := _rule(tasks, region)) is not None:
            yield rule


def _rule(tasks: TaskSet, region: int) -> RegionRule | None:
    labels = set(tasks.region_labels[region])
    own = tasks.task_of_region[region]
    name = tasks.tasks[own].name
    if labels == {0} or tasks.tasks[own].overlaps or any(name in task.overlaps for task in tasks.tasks):
        return None
    inner, outer = [], []
    for other, values in enumerate(map(set, tasks.region_labels)):
        if other == region or values.isdisjoint(labels):
            continue
        if values < labels and own in _line(tasks, tasks.task_of_region[other]):
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


def _line(tasks: TaskSet, task: int) -> list[int]:
    """Return a task and those around it."""
    names = [other.name for other in tasks.tasks]
    line = [task]
    while (parent := tasks.tasks[line[-1]].parent) in names:
        line.append(names.index(parent))
    return line


@dataclass(frozen=True)
class Maps:
    """Predictions and their references.

    Attributes:
        predictions: Folder of the label maps.
        references: Folder of label maps of the same names.
        ending: Of both.
        reader: nnU-Net's.
        annotated: Which of the R regions are annotated, by case, for every predicted case.
        tasks: The data set's.
    """

    predictions: Path
    references: Path
    ending: str
    reader: Any
    annotated: Mapping[str, tuple[bool, ...]]
    tasks: TaskSet


@dataclass(frozen=True)
class Judgement:
    """What a rule did to its region.

    Attributes:
        rule: The rule.
        n_cases: Cases in which the region is annotated.
        before: Mean Dice over them without the rule; NaN where the region is in none, predicted or not.
        after: The same with the rule.
        kept: Whether the rule is to be applied: its region gains, and no region inside it loses.
    """

    rule: RegionRule
    n_cases: int
    before: float
    after: float
    kept: bool


def judge(maps: Maps, n_processes: int) -> list[Judgement]:
    """Try every rule in turn, after those that were kept before it."""
    judged: list[Judgement] = []
    with get_context("spawn").Pool(n_processes) as pool:
        for rule in region_rules(maps.tasks):
            cases = [case for case, annotated in maps.annotated.items() if annotated[rule.region]]
            chain = [known.rule.as_nnunet() for known in judged if known.kept]
            scores = pool.starmap(_dice, [(maps, case, chain, rule) for case in cases])
            judged.append(_judgement(rule, scores))
    return judged


def _dice(maps: Maps, case: str, chain: Sequence[Rule], rule: RegionRule) -> Scores:
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


def _judgement(rule: RegionRule, scores: Sequence[Scores]) -> Judgement:
    before, after = np.stack(scores, axis=1) if scores else np.full((2, 1, 1 + len(rule.inner)), np.nan)
    # where nothing is left of what was not there either, the region has no Dice any more; that is no loss
    change = np.nan_to_num(after - before).mean(axis=0)
    kept = bool(change[0] > 0 and (change[1:] >= 0).all())
    return Judgement(rule, len(scores), mean(before[:, 0]), mean(after[:, 0]), kept)


def mean(values: Any) -> float:
    """Return the mean of those values that are numbers, NaN if none is."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")


def write_mark(
    folder: Path, judged: Sequence[Judgement], tasks: TaskSet, beside: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write `postprocessing.json`, which says how `postprocessing.pkl` beside it was judged.

    Args:
        folder: Of both.
        judged: The rules; none where every case is annotated for everything, and nnU-Net's own search was right.
        tasks: Of the data set.
        beside: What else the file is to hold.
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
    """Return each `postprocessing.pkl` that nnU-Net's own search wrote: not valid for partially annotated data.

    Args:
        results: Folder of a data set in `nnUNet_results`.
        model: Pattern of the name of a model's folder; ensembles it belongs to are looked at too.
    """
    member = f"*{model}*".replace("***", "*").replace("**", "*")  # a double asterisk is another pattern
    places = (f"{model}/*", f"{model}/*/validation", f"ensembles/{member}")
    found = {path for place in places for path in results.glob(f"{place}/postprocessing.pkl")}
    return sorted(path for path in found if not _is_marked(path))


def _is_marked(postprocessing: Path) -> bool:
    try:
        content = json.loads(postprocessing.with_suffix(".json").read_text(encoding="utf-8"))
        return bool(content[_MARK]["sha256"] == _digest(postprocessing))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
