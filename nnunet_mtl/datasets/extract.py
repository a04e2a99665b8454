"""`nnunet_mtl extract`: one task of a partially labelled data set as a stock data set of its own.

With one such data set and one stock network per task the union becomes the Multi-Nets row of the comparisons of
partial-label methods (Wu, Pang, Sowmya, ISBI 2022, Table 1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from nnunet_mtl._messages import listed, shown
from nnunet_mtl.datasets.label_maps import LabelMapReader, refuse
from nnunet_mtl.datasets.raw_dataset import (
    RawDataset,
    RawDatasetError,
    link_images,
    link_label,
    place_of,
    plain_name,
    write_description,
    written_whole,
)
from nnunet_mtl.evaluation.cases import case_table
from nnunet_mtl.tasks import TaskSet


@dataclass(frozen=True)
class TaskLabels:
    """The labels of one task, numbered without gaps.

    Attributes:
        labels: As in `dataset.json`: nnU-Net's regions if one of them has several label values, plain integers else.
        order: `regions_class_order`; None for plain integers.
        renumbered: The new value of each value of the data set, (V,); 0 for those of other tasks.
    """

    labels: dict[str, Any]
    order: list[int] | None
    renumbered: npt.NDArray[np.uint16]

    @classmethod
    def of_task(cls, taskset: TaskSet, index: int) -> "TaskLabels":
        """Number the labels of a task anew; the order of regions is nnU-Net's of the data set.

        Args:
            taskset: Of the data set.
            index: Of the task.
        """
        regions = _regions(taskset, index)
        leaves = sorted({leaf for region in regions for leaf in taskset.region_labels[region]})
        n_values = 1 + max(leaf for labels in taskset.region_labels for leaf in labels)
        renumbered = np.zeros(n_values + (taskset.ignore_label is not None), np.uint16)
        renumbered[leaves] = range(1, len(leaves) + 1)
        values = {region: renumbered[list(taskset.region_labels[region])].tolist() for region in regions}
        plain = all(len(of_region) == 1 for of_region in values.values())
        labels: dict[str, Any] = {"background": 0}
        labels |= {taskset.regions[region]: new[0] if plain else new for region, new in values.items()}
        if taskset.ignore_label is not None:
            labels["ignore"] = len(leaves) + 1
            renumbered[taskset.ignore_label] = len(leaves) + 1
        order = [int(renumbered[taskset.regions_class_order[region]]) for region in regions]
        return cls(labels, None if plain else order, renumbered)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.labels.items())


def extract(source: Path, task: str, dataset_id: int, name: str | None = None) -> str:
    """Make a stock data set of one task.

    Images are linked, and so are label maps in which nothing changes. Training cases in which not every region of the
    task was annotated are left out; so are reference maps of such test cases, but not their images. Folds that the
    source has are kept, restricted to the cases that are.

    Args:
        source: Folder of the data set in `nnUNet_raw`.
        task: Name of the task.
        dataset_id: Of the new data set, which lies beside the source.
        name: Of the new data set; by default the source's and the task's.

    Returns:
        Text for the user: what was left out, what was made, and the next command.

    Raises:
        UserError: If the data set, the task, the id or a label file is not as it must be; nothing is written then.
    """
    raw = RawDataset.read(source)
    names = [one.name for one in raw.taskset.tasks]
    if task not in names:
        raise RawDatasetError(f"-t {shown(task)}: no such task in {source.name}; it has {listed(names)}")
    target = place_of(source, dataset_id, name or plain_name(source, task))
    index = names.index(task)
    regions = _regions(raw.taskset, index)
    kept, left_out = _annotated_cases(raw.taskset, regions, raw.training)
    if not kept:
        raise RawDatasetError(f"{source.name}: no training case for task {shown(task)} is left ({left_out})")
    splits = raw.splits(kept)
    labels = TaskLabels.of_task(raw.taskset, index)
    description = raw.description(target.name, len(kept), labels=labels.labels, regions_class_order=labels.order)
    with written_whole(target) as folder:
        reader = LabelMapReader(raw.reader(), [])
        (folder / "imagesTr").mkdir()
        for case in kept:
            link_images(case, raw.training[case].images, folder / "imagesTr", raw.file_ending)
        _write_labels({case: raw.training[case].label for case in kept}, folder / "labelsTr", labels, raw, reader)
        n_tested = _write_tests(raw, regions, folder, labels, reader)
        refuse(reader.problems)
        write_description(folder, description, splits)
    tested = f" and {n_tested} annotated test cases" if n_tested else ""
    folds = ", the same folds" if splits is not None else ""
    return (
        f"{task}: {len(kept)} of {len(raw.training)} training cases are annotated for it; {left_out}\n"
        f"wrote {target}: {len(kept)} training cases{tested}, labels {labels}{folds}; "
        f"next: nnUNetv2_plan_and_preprocess -d {dataset_id} --verify_dataset_integrity"
    )


def _regions(taskset: TaskSet, index: int) -> list[int]:
    """Return the numbers of the regions of a task, in nnU-Net's order."""
    return [region for region, owner in enumerate(taskset.task_of_region) if owner == index]


def _annotated_cases(taskset: TaskSet, regions: Sequence[int], cases: Iterable[str]) -> tuple[list[str], str]:
    """Return the cases in which all of some regions were annotated, and in words how many others there are."""
    annotated = {case: [taskset.annotated(case)[region] for region in regions] for case in cases}
    partly = sum(any(done) and not all(done) for done in annotated.values())
    without = sum(not any(done) for done in annotated.values())
    return (
        [case for case, done in annotated.items() if all(done)],
        f"left out: {partly} annotated in part, {without} not at all",
    )


def _write_labels(
    labels: dict[str, Path], folder: Path, task: TaskLabels, raw: RawDataset, reader: LabelMapReader
) -> None:
    folder.mkdir()
    for case, path in tqdm(labels.items(), desc=folder.name, unit="case"):
        n_problems = len(reader.problems)
        label = reader.read(path, len(task.renumbered))
        if label is None or len(reader.problems) > n_problems:
            continue
        there = np.flatnonzero(np.bincount(label.labels.ravel()))
        if np.array_equal(task.renumbered[there], there):
            link_label(case, path, folder, raw.file_ending)
        else:
            reader.write(folder / f"{case}{raw.file_ending}", task.renumbered[label.labels], label)


def _write_tests(
    raw: RawDataset, regions: Sequence[int], folder: Path, task: TaskLabels, reader: LabelMapReader
) -> int:
    """Link the test images, and write the references of those annotated for the task; return how many these are."""
    images = raw.images("imagesTs")
    if images:
        (folder / "imagesTs").mkdir()
    for case, files in images.items():
        link_images(case, files, folder / "imagesTs", raw.file_ending)
    references = raw.folder / "labelsTs"
    ending = raw.file_ending
    known = case_table(references, raw.taskset)
    named = [path.name.removesuffix(ending) for path in sorted(references.glob(f"[!.]*{ending}"))]
    kept, _ = _annotated_cases(known, regions, [case for case in named if case in known.cases])
    if kept:
        _write_labels({case: references / f"{case}{ending}" for case in kept}, folder / "labelsTs", task, raw, reader)
    return len(kept)
