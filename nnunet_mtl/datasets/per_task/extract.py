"""`nnunet_mtl extract`: writes some tasks of a partially labelled data set as a new data set.

One stock data set and one stock network per task give the row Multi-Nets in comparisons of partial-label methods (Wu,
Pang, Sowmya, ISBI 2022, Table 1). With the block kept, a multi-task trainer learns one task alone: such single-task
runs are the reference of the multi-task gain (Kim, Purdie, McIntosh, 2023, arXiv:2309.03837).
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from nnunet_mtl.common.files import references_table
from nnunet_mtl.datasets.fingerprint import FINGERPRINT_NAME, read_fingerprint
from nnunet_mtl.datasets.label_maps import LabelMapReader, refuse
from nnunet_mtl.datasets.label_pairs import case_table
from nnunet_mtl.datasets.per_task.extracted_block import Chosen, channel_names, channels_kept, dropped, restricted
from nnunet_mtl.datasets.per_task.extracted_labels import TaskLabels, Values
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
from nnunet_mtl.tasks import TaskSet, write_dataset_json


def extract(
    source: Path,
    tasks: Sequence[str],
    dataset_id: int,
    name: str | None = None,
    *,
    questions: Sequence[str] = (),
    with_block: bool = False,
) -> str:
    """Write a data set that holds some tasks of another data set.

    Images are linked, and so are label maps that do not change. The source's folds are kept for the cases that are
    kept.

    A stock data set has the cases with every region of the tasks annotated. A data set with the block has the cases
    with any annotation of the tasks or any answer to the questions; it also gets the source's
    `dataset_fingerprint.json`, so that nnU-Net plans both data sets alike. The rule holds for training and test cases.

    Args:
        source: Folder of the data set in `nnUNet_raw`.
        tasks: Names of the tasks; empty for questions alone, whose label maps are empty.
        dataset_id: Number of the new data set, which lies beside the source.
        name: Name of the new data set; by default the source's name with the names of tasks and questions.
        questions: Names of image-level questions; need `with_block`.
        with_block: Keep the block, restricted to these tasks and questions.

    Returns:
        Text for the user: cases left out, the data set written, and the next command.

    Raises:
        UserError: If the data set, a name, the id or a label file is invalid; nothing is written then.
    """
    raw = RawDataset.read(source, regions_are_tasks=not with_block)
    chosen = Chosen.from_names(raw.taskset, tasks, questions, source.name)
    _refuse_without_block(chosen, with_block)
    target = place_of(source, dataset_id, name or plain_name(source, "_".join(chosen.names)))
    made = _with_block(raw, chosen) if with_block else _stock(raw, chosen)
    if not made.cases:
        what = "task" if len(chosen.names) == 1 else "tasks"
        names = ", ".join(repr(name) for name in chosen.names)
        raise RawDatasetError(f"{source.name}: no training case for {what} {names} is left ({made.left_out})")
    splits = raw.splits(made.cases)
    with written_whole(target) as folder:
        reader = LabelMapReader(raw.reader(), [])
        (folder / "imagesTr").mkdir()
        for case in made.cases:
            link_images(case, raw.training[case].images, folder / "imagesTr", raw.file_ending, made.channels)
        labels = {case: raw.training[case].label for case in made.cases}
        _write_labels(labels, folder / "labelsTr", made.values(raw.taskset, labels), raw, reader)
        n_tested = _write_tests(raw, made, folder, reader)
        refuse(reader.problems)
        write_description(folder, raw.description(target.name, len(made.cases), **made.keys), splits)
        if made.fingerprint is not None:
            _copy_fingerprint(made.fingerprint, target.name)
    lines = [made.summary(len(raw.training)), *made.notes]
    tested = f" and {n_tested} annotated test cases" if n_tested else ""
    folds = ", the same folds" if splits is not None else ""
    planned = f", planned as {source.name}" if made.fingerprint is not None else ""
    lines.append(
        f"wrote {target}: {len(made.cases)} training cases{tested}, labels {made.labels}{folds}{planned}; "
        f"next: nnUNetv2_plan_and_preprocess -d {dataset_id} --verify_dataset_integrity"
    )
    return "\n".join(lines)


@dataclass(frozen=True)
class _Extract:
    """The plan of a new data set.

    Attributes:
        chosen: Tasks and questions that are kept.
        labels: Labels of the new maps.
        cases: Training cases that are kept, in their order.
        left_out: Text for the user: how many cases are left out, and why.
        keys: Keys of `dataset.json` that differ from the source's.
        notes: Lines for the user.
        channels: Numbers of the channels that are kept; None for all.
        taskset: Task set of the new data set with its case table; None for a stock data set.
        fingerprint: The source's fingerprint file for planning; None to let nnU-Net make a new one.
    """

    chosen: Chosen
    labels: TaskLabels
    cases: Sequence[str]
    left_out: str
    keys: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    channels: Sequence[int] | None = None
    taskset: TaskSet | None = None
    fingerprint: Path | None = None

    def summary(self, n_cases: int) -> str:
        """Return a line for the user: how many of the source's `n_cases` training cases are kept."""
        them = "it" if len(self.chosen.names) == 1 else "them"
        names = ", ".join(self.chosen.names)
        return f"{names}: {len(self.cases)} of {n_cases} training cases are annotated for {them}; {self.left_out}"

    def values(self, source: TaskSet, cases: Iterable[str]) -> dict[str, Values]:
        """Return by case the new value of every label value, (V,).

        Args:
            source: The source's task set with these cases.
            cases: Names of the cases.
        """
        if self.taskset is None:
            return dict.fromkeys(cases, self.labels.renumbered)
        return {case: self.labels.of_case(source, case) for case in cases}


def _refuse_without_block(chosen: Chosen, with_block: bool) -> None:
    unsupported = [*chosen.regressions, *chosen.questions]
    if unsupported and not with_block:
        raise RawDatasetError(
            f"{unsupported[0]}: stock nnU-Net learns segmentations alone; add --with_block and train it with ours"
        )


def _stock(raw: RawDataset, chosen: Chosen) -> _Extract:
    labels = TaskLabels.of_tasks(raw.taskset, chosen.segmentations)
    kept, left_out = annotated_cases(raw.taskset, labels.regions, raw.training)
    channels = channels_kept(raw.taskset, None)
    keys = {"labels": labels.labels, "regions_class_order": labels.order, **channel_names(raw.dataset_json, channels)}
    return _Extract(chosen, labels, kept, left_out, keys, channels=channels)


def _with_block(raw: RawDataset, chosen: Chosen) -> _Extract:
    labels = TaskLabels.of_tasks(raw.taskset, chosen.segmentations, plain=False)
    if not labels.regions:  # without labels nnU-Net would centre patches on the ignore label, so that goes too
        labels.renumbered[:] = 0
    taskset = restricted(raw.taskset, chosen)
    kept = [case for case in raw.training if case in taskset.cases]
    taskset = replace(taskset, cases={case: taskset.cases[case] for case in kept})
    notes = tuple(dropped(raw.taskset, taskset))
    if not chosen.segmentations:
        learners = "the joint trainer it is compared with" + ("" if chosen.regressions else ", or nnUNetTrainerSTLCls")
        notes += (f"without a segmentation task every label map is empty; train with {learners}",)
    channels = channels_kept(raw.taskset, chosen)
    keys = {
        "labels": labels.labels,
        "regions_class_order": labels.order,
        "nnunet_mtl": taskset.to_block(),
        **channel_names(raw.dataset_json, channels),
    }
    left_out = f"left out: {len(raw.training) - len(kept)} of which nothing about that is known"
    return _Extract(chosen, labels, kept, left_out, keys, notes, channels, taskset, _fingerprint(raw, chosen))


def _fingerprint(raw: RawDataset, chosen: Chosen) -> Path | None:
    """Return the source's fingerprint file; refuse if it is missing and nnU-Net has no foreground to make another."""
    if nnUNet_preprocessed.is_set():
        path = Path(nnUNet_preprocessed, raw.folder.name, FINGERPRINT_NAME)
        if path.is_file():
            read_fingerprint(path)  # refuse a broken file now, not later when the new data set is planned
            return path
    if not chosen.segmentations:
        raise RawDatasetError(
            f"{raw.folder.name}: without a segmentation task nnU-Net has no foreground to plan by; let it look at the "
            f"source first: nnUNetv2_extract_fingerprint -d {raw.folder.name[7:10]}"
        )
    return None


def _copy_fingerprint(path: Path, name: str) -> None:
    place = Path(nnUNet_preprocessed, name)
    place.mkdir()
    shutil.copyfile(path, place / FINGERPRINT_NAME)


def annotated_cases(taskset: TaskSet, regions: Sequence[int], cases: Iterable[str]) -> tuple[list[str], str]:
    """Return the cases in which all given regions were annotated, and a text that counts the other cases."""
    annotated = {case: [taskset.annotated(case)[region] for region in regions] for case in cases}
    partly = sum(any(known) and not all(known) for known in annotated.values())
    without = sum(not any(known) for known in annotated.values())
    return (
        [case for case, known in annotated.items() if all(known)],
        f"left out: {partly} annotated in part, {without} not at all",
    )


def _write_labels(
    labels: Mapping[str, Path], folder: Path, values: Mapping[str, Values], raw: RawDataset, reader: LabelMapReader
) -> None:
    folder.mkdir()
    for case, path in tqdm(labels.items(), desc=folder.name, unit="case"):
        n_problems, renumbered = len(reader.problems), values[case]
        label = reader.read(path, len(renumbered))
        if label is None or len(reader.problems) > n_problems:
            continue
        present = np.flatnonzero(np.bincount(label.labels.ravel()))
        if np.array_equal(renumbered[present], present):
            link_label(case, path, folder, raw.file_ending)
        else:
            reader.write(folder / f"{case}{raw.file_ending}", renumbered[label.labels], label)


def _write_tests(raw: RawDataset, made: _Extract, folder: Path, reader: LabelMapReader) -> int:
    """Link the test images and write the references of annotated test cases; return the number of references."""
    images = raw.images("imagesTs")
    if images:
        (folder / "imagesTs").mkdir()
    # test images are input for prediction, so they have no target channels
    channels = channels_kept(raw.taskset, None)
    for case, files in images.items():
        link_images(case, files, folder / "imagesTs", raw.file_ending, channels)
    references, ending = raw.folder / "labelsTs", raw.file_ending
    known = case_table(references, raw.taskset)
    names = [path.name.removesuffix(ending) for path in sorted(references.glob(f"[!.]*{ending}"))]
    cases = [case for case in names if case in known.cases or not known.has_block]
    if made.taskset is None:
        kept, _ = annotated_cases(known, made.labels.regions, cases)
    else:
        answered = restricted(known, made.chosen)
        kept = [case for case in cases if case in answered.cases]
    if kept:
        labels = {case: references / f"{case}{ending}" for case in kept}
        _write_labels(labels, folder / "labelsTs", made.values(known, kept), raw, reader)
    if kept and made.taskset is not None:
        table = {case: answered.cases[case].to_json() for case in kept}
        described = raw.description(raw.folder.name, len(raw.training), **made.keys)
        described["nnunet_mtl"] = described["nnunet_mtl"] | {"cases": table}
        write_dataset_json(references_table(folder / "labelsTs"), described)
    return len(kept)
