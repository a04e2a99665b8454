"""Checks of a data set: its block, its files, its folds, and the copies and results that nnU-Net made of it."""

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results

from nnunet_mtl.checks.file_checks import CaseToCheck, Fault, check_files, findings_of
from nnunet_mtl.checks.findings import Finding
from nnunet_mtl.checks.fold_checks import check_folds
from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed, one_line, shown
from nnunet_mtl.datasets.raw_dataset import RawDataset
from nnunet_mtl.datasets.region_postprocessing import fitted_on_restricted_maps
from nnunet_mtl.inference.case_files import number_of_channels
from nnunet_mtl.planning.folders import raw_folder
from nnunet_mtl.tasks import TaskSet, read_dataset_json

# Files that macOS and Windows leave in folders; macOS also puts "._NAME" beside every file.
_HIDDEN = (".DS_Store", "Thumbs.db")


class DatasetFilesError(UserError):
    """The files of a data set cannot be found, or no reader of nnU-Net reads them."""


def check_dataset(dataset: str, progress: Callable[[str], None]) -> Iterator[Finding]:
    """Check a data set of `nnUNet_raw` and what nnU-Net made of it. Every file is read, and nothing is changed.

    Args:
        dataset: Id ("900") or name ("Dataset900_Union") of the data set.
        progress: Called with one line of text after each case.
    """
    try:
        folder = raw_folder(dataset)
        dataset_json = read_dataset_json(folder / "dataset.json")
        taskset = TaskSet.from_dataset_json(dataset_json, str(folder / "dataset.json"))
        if not isinstance(dataset_json.get("file_ending"), str):
            raise DatasetFilesError(f'{folder / "dataset.json"}: file_ending: must be given, such as ".nii.gz"')
        raw = RawDataset(folder, dataset_json, taskset)
        files = _case_files(raw)
    except UserError as error:
        yield Finding("problem", one_line(error), "nothing else of the data set was looked at: mend that first")
        return
    if taskset.has_block:
        tasks = listed(task.name for task in taskset.tasks)
        yield Finding("ok", f"{folder.name}: {len(taskset.cases)} cases in the block, tasks {tasks}")
    else:
        yield Finding("ok", f"{folder.name} has no nnunet_mtl block: one task, every case annotated")
    yield from _description(raw, len(files))
    yield from _stray_files(raw)
    yield from _case_names(taskset, files)
    values = yield from _files(raw, files, progress)
    # a label map that cannot be read may hold anything
    foreground = len(values) < len(files) or any(max(of_map) > 0 for of_map in values.values())
    yield from check_folds(folder.name, taskset, list(files), foreground=foreground)
    yield from _preprocessed(folder.name, dataset_json, taskset)
    yield from _postprocessing(folder.name, taskset)


def _case_files(raw: RawDataset) -> dict[str, tuple[tuple[Path, ...], Path]]:
    """Return image files and label file of every training case, whether or not the block knows it."""
    if "dataset" in raw.dataset_json:  # nnU-Net's explicit list of files
        return {case: (files.images, files.label) for case, files in raw.listed_cases().items()}
    if not (raw.folder / "imagesTr").is_dir():
        raise DatasetFilesError(
            f"{raw.folder / 'imagesTr'}: there is no such folder; nnU-Net expects the training images there"
        )
    labels = raw.folder / "labelsTr"
    return {case: (images, labels / f"{case}{raw.file_ending}") for case, images in raw.images("imagesTr").items()}


def _description(raw: RawDataset, n_cases: int) -> Iterator[Finding]:
    path = raw.folder / "dataset.json"
    expected = raw.dataset_json.get("numTraining")
    if expected != n_cases:
        text = f"{path}: numTraining is {shown(expected)}, but there are {n_cases} training cases"
        yield Finding("problem", text, f'write "numTraining": {n_cases}, or add the missing images')


def _stray_files(raw: RawDataset) -> Iterator[Finding]:
    hidden = [path for path in sorted(raw.folder.rglob("*")) if _is_hidden(path.name, raw.file_ending)]
    if hidden:
        # nnU-Net takes a hidden image for a case, and ignores other hidden files
        taken = any(path.name.endswith(raw.file_ending) for path in hidden)
        details = tuple(str(path.relative_to(raw.folder)) for path in hidden)
        text = f"{len(hidden)} hidden file(s) of an operating system in {raw.folder}, such as {details[0]}: delete them"
        yield Finding("problem" if taken else "warning", text, details=details, told=0)
    named = re.compile(rf".+_\d{{4}}{re.escape(raw.file_ending)}")
    images = raw.folder / "imagesTr"
    strays = [path for path in sorted(images.glob(f"[!.]*{raw.file_ending}")) if not named.fullmatch(path.name)]
    if strays and "dataset" not in raw.dataset_json:
        text = f"{len(strays)} file(s) in {images} are not named CASE_0000{raw.file_ending}"
        remedy = "name them so, with the number of their channel, or move them elsewhere"
        yield Finding("problem", text, remedy, tuple(path.name for path in strays))


def _is_hidden(name: str, ending: str) -> bool:
    return name.startswith("._") or name in _HIDDEN or (name.startswith(".") and name.endswith(ending))


def _case_names(taskset: TaskSet, labels: Iterable[str]) -> Iterator[Finding]:
    try:
        taskset.require_cases(labels)
    except UserError as error:
        yield Finding("problem", one_line(error), "say in the block what was annotated in them")
    surplus = sorted(set(taskset.cases) - set(labels))
    if surplus:
        text = f"cases of the block without a training image: {listed(surplus)}"
        yield Finding("warning", text, "mend the names, or remove them from the block")


def _files(
    raw: RawDataset, files: dict[str, tuple[tuple[Path, ...], Path]], progress: Callable[[str], None]
) -> Generator[Finding, None, dict[str, tuple[float, ...]]]:
    """Open every file; return by training case the different values of its label map, if the map can be read."""
    values: dict[str, tuple[float, ...]] = {}
    try:
        n_channels = number_of_channels(raw.dataset_json)
        reader = _reader(raw)
    except (KeyError, TypeError):
        text = f'{raw.folder / "dataset.json"}: "channel_names" is missing'
        yield Finding("problem", text, 'add nnU-Net\'s channel names, such as {"0": "CT"}')
        return values
    except UserError as error:
        yield Finding("problem", one_line(error), "no image or label file was looked at")
        return values
    exactly = range(n_channels, n_channels + 1)
    cases = [CaseToCheck(case, images, label, exactly) for case, (images, label) in files.items()]
    cases += _test_cases(raw, n_channels)
    if not files:
        yield Finding("warning", "there is no training case to look at", "fill imagesTr and labelsTr")
    faults: list[Fault] = []
    n_right = 0
    try:
        for case in check_files(cases, reader, progress):
            faults += case.faults
            known = not raw.taskset.has_block or case.name in raw.taskset.cases
            if case.name in files and case.values:
                values[case.name] = case.values
            if known and case.name in files and case.values is not None:
                wrong = _wrong_values(raw.taskset, case.name, files[case.name][1], case.values)
                faults += wrong
                n_right += not wrong
    except UserError as error:
        yield Finding("problem", one_line(error))
    yield from findings_of(faults)
    if files and n_right == len(files):
        text = f"{n_right} label files hold only what the annotated tasks of their cases contain"
        yield Finding("ok", text)
    if cases and not faults:
        yield Finding("ok", f"the files of {len(cases)} cases are whole, and each case's lie on one grid")
    return values


def _reader(raw: RawDataset) -> type[Any]:
    if raw.file_ending.lower() in Tiff3DIO.supported_file_endings:
        # TIFF files hold slices or volumes, which only an image tells
        with redirect_stderr(StringIO()):
            return type(raw.reader())
    try:
        reader: type[Any] = determine_reader_writer_from_dataset_json(dict(raw.dataset_json), verbose=False)
    except RuntimeError:
        raise DatasetFilesError(
            f"{raw.folder / 'dataset.json'}: file_ending: none of nnU-Net's readers reads {shown(raw.file_ending)}"
        ) from None
    return reader


def _test_cases(raw: RawDataset, n_channels: int) -> Iterator[CaseToCheck]:
    # test cases may lack the regression targets, which are the last channels
    channels = range(n_channels - len(raw.taskset.regressions), n_channels + 1)
    for case, images in raw.images("imagesTs").items():
        label = raw.folder / "labelsTs" / f"{case}{raw.file_ending}"
        yield CaseToCheck(f"{case} (imagesTs)", images, label if label.is_file() else None, channels)


def _wrong_values(taskset: TaskSet, case: str, label: Path, values: Sequence[float]) -> list[Fault]:
    strange = [value for value in values if not float(value).is_integer()]
    if strange:
        return [Fault("values", f"{label}: holds {strange[0]}; the values of a label file are integers")]
    try:
        taskset.check_leaves(case, [int(value) for value in values])
    except UserError as error:
        return [Fault("values", one_line(error))]
    return []


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
