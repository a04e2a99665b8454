"""What is wrong with a data set: its block, its label files, and what nnU-Net keeps of it elsewhere."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.utilities.utils import (
    get_filenames_of_train_images_and_targets,
    get_identifiers_from_splitted_dataset_folder,
)

from nnunet_mtl._messages import listed
from nnunet_mtl.errors import UserError
from nnunet_mtl.evaluation.region_postprocessing import fitted_on_restricted_maps
from nnunet_mtl.findings import Finding, one_line
from nnunet_mtl.planning.folders import raw_folder
from nnunet_mtl.tasks import TaskSet, read_dataset_json

_SHOWN_FILES = 5


class LabelFileError(UserError):
    """A label file cannot be found, or cannot be read as integers."""


def check_dataset(dataset: str, progress: Callable[[str], None]) -> Iterator[Finding]:
    """Look at a data set of `nnUNet_raw` and at what was made of it; every label file is read, nothing is changed.

    Args:
        dataset: Its id ("900") or name ("Dataset900_Union").
        progress: Called with one line of text before each label file.
    """
    try:
        raw = raw_folder(dataset)
        dataset_json = read_dataset_json(raw / "dataset.json")
        taskset = TaskSet.from_dataset_json(dataset_json, str(raw / "dataset.json"))
        labels = _label_files(raw, dataset_json)
    except UserError as error:
        yield Finding("problem", one_line(error), "nothing else of the data set was looked at: mend that first")
        return
    if taskset.has_block:
        tasks = listed(task.name for task in taskset.tasks)
        yield Finding("ok", f"{raw.name}: {len(taskset.cases)} cases in the block, tasks {tasks}")
    else:
        yield Finding("ok", f"{raw.name} has no nnunet_mtl block: one task, every case annotated")
    yield from _case_names(taskset, labels)
    yield from _label_values(dataset_json, taskset, labels, progress)
    yield from _preprocessed(raw.name, dataset_json, taskset)
    yield from _postprocessing(raw.name, taskset)


def _label_files(raw: Path, dataset_json: dict[str, Any]) -> dict[str, Path]:
    if "dataset" in dataset_json:  # nnU-Net's explicit list of files
        try:
            files = get_filenames_of_train_images_and_targets(str(raw), dataset_json)
            return {case: Path(paths["label"]) for case, paths in files.items()}
        except (AttributeError, KeyError, TypeError):
            raise LabelFileError(
                f'{raw / "dataset.json"}: dataset: must be {{case: {{"images": [file, ...], "label": file}}}}'
            ) from None
    ending = dataset_json.get("file_ending")
    if not isinstance(ending, str):
        raise LabelFileError(f'{raw / "dataset.json"}: file_ending: must be given, such as ".nii.gz"')
    if not (raw / "imagesTr").is_dir():
        raise LabelFileError(f"{raw / 'imagesTr'}: there is no such folder; nnU-Net expects the training images there")
    cases = get_identifiers_from_splitted_dataset_folder(str(raw / "imagesTr"), ending)
    return {str(case): raw / "labelsTr" / f"{case}{ending}" for case in cases}


def _case_names(taskset: TaskSet, labels: Iterable[str]) -> Iterator[Finding]:
    try:
        taskset.require_cases(labels)
    except UserError as error:
        yield Finding("problem", one_line(error), "say in the block what was annotated in them")
    surplus = sorted(set(taskset.cases) - set(labels))
    if surplus:
        text = f"cases of the block without a training image: {listed(surplus)}"
        yield Finding("warning", text, "mend the names, or remove them from the block")


def _label_values(
    dataset_json: dict[str, Any], taskset: TaskSet, labels: dict[str, Path], progress: Callable[[str], None]
) -> Iterator[Finding]:
    known = {case: label for case, label in labels.items() if case in taskset.cases or not taskset.has_block}
    wrong = []
    for number, (case, label) in enumerate(known.items(), start=1):
        progress(f"label file {number} of {len(known)}: {label.name}")
        try:
            taskset.check_leaves(case, _leaves(label, dataset_json))
        except UserError as error:
            wrong.append(one_line(error))
    for text in wrong[:_SHOWN_FILES]:
        yield Finding("problem", text, "mend the label file or the case's entry in the block")
    if len(wrong) > _SHOWN_FILES:
        yield Finding("problem", f"{len(wrong) - _SHOWN_FILES} more label files are wrong", "mend the first ones first")
    if not known:
        yield Finding("warning", "there is no training case to look at", "fill imagesTr and labelsTr")
    elif not wrong:
        yield Finding("ok", f"{len(known)} label files hold only what the annotated tasks of their cases contain")


def _leaves(label: Path, dataset_json: dict[str, Any]) -> list[int]:
    if not label.is_file():
        raise LabelFileError(f"{label}: there is no such file; a case without structures needs a label file of zeros")
    try:
        reader = determine_reader_writer_from_dataset_json(dataset_json, verbose=False)
        values = np.unique(reader().read_seg(str(label))[0])
    except Exception as error:  # each file format has its own
        raise LabelFileError(f"{label}: cannot be read: {one_line(error)}") from error
    strange = values[~np.isfinite(values) | (values != np.rint(values))]
    if strange.size:
        raise LabelFileError(f"{label}: holds {strange[0]}; the values of a label file are integers")
    return [int(value) for value in values]


def _preprocessed(name: str, dataset_json: dict[str, Any], taskset: TaskSet) -> Iterator[Finding]:
    copy = Path(nnUNet_preprocessed.get() or "", name, "dataset.json")
    if not nnUNet_preprocessed.is_set() or not copy.is_file():
        yield Finding("ok", f"{name} is not planned yet")
        return
    remedy = f"nnunet_mtl sync -d {name}"
    try:
        copied = read_dataset_json(copy)
        stale = TaskSet.from_dataset_json(copied, str(copy)).fingerprint() != taskset.fingerprint()
    except UserError as error:
        yield Finding("problem", one_line(error), remedy)
        return
    # as lists, because the order of labels is the order of the network's channels
    if list(copied["labels"].items()) != list(dataset_json["labels"].items()):
        remedy = f"nnUNetv2_plan_and_preprocess -d {name}: what is preprocessed has the old labels"
    if stale:
        yield Finding("problem", f"{copy}, which training reads, is not what nnUNet_raw says now", remedy)
    else:
        yield Finding("ok", f"{copy} has the labels and the block of nnUNet_raw")


def _postprocessing(name: str, taskset: TaskSet) -> Iterator[Finding]:
    if not nnUNet_results.is_set() or all(all(taskset.annotated(case)) for case in taskset.cases):
        return
    # validation maps hold only what is annotated in their case, so "keep the largest component" looks harmless there
    for fitted in fitted_on_restricted_maps(Path(nnUNet_results, name)):
        text = f"{fitted} was fitted on maps that hold only each case's annotated tasks; it can delete whole organs"
        yield Finding("warning", text, f"do not apply it to predictions; nnunet_mtl find-best {name} fits another")
