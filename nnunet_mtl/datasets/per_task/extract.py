"""`nnunet_mtl extract`: some tasks of a partially labelled data set as a data set of their own.

With one stock data set and one stock network per task the union becomes the Multi-Nets row of the comparisons of
partial-label methods (Wu, Pang, Sowmya, ISBI 2022, Table 1). With the block kept, the same multi-task trainer learns a
task alone: the single-task runs that the multi-task gain is over (Kim, Purdie, McIntosh, 2023, arXiv:2309.03837).
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
    """Make a data set of some tasks.

    Images are linked, and so are label maps in which nothing changes. Folds that the source has are kept, restricted to
    the cases that are.

    A stock data set has the training cases in which every region of the tasks was annotated, and the reference maps of
    such test cases. A data set with the block has those in which anything of the tasks was annotated or a question is
    answered, and what nnU-Net knows of the source's images (`dataset_fingerprint.json`), so that it is planned alike.

    Args:
        source: Folder of the data set in `nnUNet_raw`.
        tasks: Their names; none for questions alone, whose label maps are empty.
        dataset_id: Of the new data set, which lies beside the source.
        name: Of the new data set; by default the source's and what is extracted.
        questions: Names of image-level questions; with the block alone.
        with_block: Keep the block, restricted to these tasks and questions.

    Returns:
        Text for the user: what was left out, what was made, and the next command.

    Raises:
        UserError: If the data set, a name, the id or a label file is not as it must be; nothing is written then.
    """
    raw = RawDataset.read(source, regions_are_tasks=not with_block)
    chosen = Chosen.from_names(raw.taskset, tasks, questions, source.name)
    _refuse_without_block(chosen, with_block)
    target = place_of(source, dataset_id, name or plain_name(source, "_".join(chosen.names)))
    made = _with_block(raw, chosen) if with_block else _stock(raw, chosen)
    if not made.cases:
        what = "task" if len(chosen.names) == 1 else "tasks"
        names = ", ".join(repr(one) for one in chosen.names)
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
    """What is to be made.

    Attributes:
        chosen: Its tasks and questions.
        labels: Of the new maps.
        cases: Training cases, in their order.
        left_out: Why others are not among them, in words.
        keys: Of the new `dataset.json`, where it differs.
        notes: Lines for the user.
        channels: Numbers of the channels that are kept; None for all.
        taskset: What is known of the cases in the new data set; None for a stock one.
        fingerprint: The source's, to be planned by; None for one of its own.
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
        """Say which of the source's training cases there are."""
        them = "it" if len(self.chosen.names) == 1 else "them"
        names = ", ".join(self.chosen.names)
        return f"{names}: {len(self.cases)} of {n_cases} training cases are annotated for {them}; {self.left_out}"

    def values(self, source: TaskSet, cases: Iterable[str]) -> dict[str, Values]:
        """Return the new value of each label value, (V,), by case.

        Args:
            source: What the source knows of these cases.
            cases: Their names.
        """
        if self.taskset is None:
            return dict.fromkeys(cases, self.labels.renumbered)
        return {case: self.labels.of_case(source, case) for case in cases}


def _refuse_without_block(chosen: Chosen, with_block: bool) -> None:
    odd = [*chosen.regressions, *chosen.questions]
    if odd and not with_block:
        raise RawDatasetError(
            f"{odd[0]}: stock nnU-Net learns segmentations alone; add --with_block and train it with ours"
        )


def _stock(raw: RawDataset, chosen: Chosen) -> _Extract:
    labels = TaskLabels.of_tasks(raw.taskset, chosen.segmentations)
    kept, left_out = annotated_cases(raw.taskset, labels.regions, raw.training)
    channels = channels_kept(raw.taskset, None)
    keys = {"labels": labels.labels, "regions_class_order": labels.order, **channel_names(raw.dataset_json, channels)}
    return _Extract(chosen, labels, kept, left_out, keys, channels=channels)


def _with_block(raw: RawDataset, chosen: Chosen) -> _Extract:
    labels = TaskLabels.of_tasks(raw.taskset, chosen.segmentations, plain=False)
    if not labels.regions:  # nnU-Net's ignore label would choose the patches, and there is nothing to ignore
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
    """Find what nnU-Net knows of the source's images; without foreground it could not plan by anything else."""
    if nnUNet_preprocessed.is_set():
        path = Path(nnUNet_preprocessed, raw.folder.name, FINGERPRINT_NAME)
        if path.is_file():
            read_fingerprint(path)  # a broken one would be found by the planning of the new data set, far from here
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
    """Return the cases in which all of some regions were annotated, and in words how many others there are."""
    annotated = {case: [taskset.annotated(case)[region] for region in regions] for case in cases}
    partly = sum(any(done) and not all(done) for done in annotated.values())
    without = sum(not any(done) for done in annotated.values())
    return (
        [case for case, done in annotated.items() if all(done)],
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
        there = np.flatnonzero(np.bincount(label.labels.ravel()))
        if np.array_equal(renumbered[there], there):
            link_label(case, path, folder, raw.file_ending)
        else:
            reader.write(folder / f"{case}{raw.file_ending}", renumbered[label.labels], label)


def _write_tests(raw: RawDataset, made: _Extract, folder: Path, reader: LabelMapReader) -> int:
    """Link the test images, and write the references of those annotated; return how many these are."""
    images = raw.images("imagesTs")
    if images:
        (folder / "imagesTs").mkdir()
    # Nobody predicts from a target.
    channels = channels_kept(raw.taskset, None)
    for case, files in images.items():
        link_images(case, files, folder / "imagesTs", raw.file_ending, channels)
    references, ending = raw.folder / "labelsTs", raw.file_ending
    known = case_table(references, raw.taskset)
    there = [path.name.removesuffix(ending) for path in sorted(references.glob(f"[!.]*{ending}"))]
    cases = [case for case in there if case in known.cases or not known.has_block]
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
