"""Reading a data set in nnU-Net's raw format, and writing new data sets whose images are links to its files."""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.files import write_json
from nnunet_mtl.common.messages import listed, shown
from nnunet_mtl.common.names import name_problem
from nnunet_mtl.datasets.per_task.region_tasks import with_region_tasks
from nnunet_mtl.tasks import TaskSet, read_dataset_json, write_dataset_json

SPLITS_NAME = "splits_final.json"
Splits = list[dict[str, list[str]]]


class RawDatasetError(UserError):
    """A data set cannot be read, or a new data set cannot be made from it."""


class CaseFiles(NamedTuple):
    """The files of a case: one image for every channel, in channel order, and the label map."""

    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class RawDataset:
    """A data set in `nnUNet_raw` with tasks and the annotated regions of every case.

    Attributes:
        folder: Path of `DatasetXXX_Name`.
        dataset_json: Content of `dataset.json`.
        taskset: Tasks and cases from `dataset.json`.
    """

    folder: Path
    dataset_json: Mapping[str, Any]
    taskset: TaskSet

    @classmethod
    def read(cls, folder: Path, *, regions_are_tasks: bool = False) -> "RawDataset":
        """Read `dataset.json`; no image is read.

        Args:
            folder: Path of `DatasetXXX_Name`.
            regions_are_tasks: In a data set without a block, make every region a task that is annotated in every case;
                the parent of a task is the smallest region that contains the task's region.

        Raises:
            TaskSetError: If `dataset.json` cannot be read or is refused.
            RegionNameError: If the name of a region cannot be the name of a task.
            RawDatasetError: If `dataset.json` has no block, or names no file ending.
        """
        path = folder / "dataset.json"
        dataset_json = read_dataset_json(path)
        taskset = TaskSet.from_dataset_json(dataset_json, str(path))
        if regions_are_tasks and not taskset.has_block and taskset.has_regions:
            taskset = with_region_tasks(taskset, path)
        elif not taskset.has_block:
            regions = "; extract takes its regions for tasks, without --with_block" if taskset.has_regions else ""
            raise RawDatasetError(
                f"{path}: has no nnunet_mtl block, so it is one task already; give a data set of several tasks with -d"
                f"{regions}"
            )
        if not isinstance(dataset_json.get("file_ending"), str):
            raise RawDatasetError(f'{path}: file_ending: must be given, such as ".nii.gz"')
        return cls(folder, dataset_json, taskset)

    @property
    def file_ending(self) -> str:
        """The ending of images and label maps, with its dot."""
        return str(self.dataset_json["file_ending"])

    @cached_property
    def training(self) -> dict[str, CaseFiles]:
        """The training cases in alphabetical order.

        Raises:
            RawDatasetError: If there is no training case.
            TaskSetError: If the block lacks a training case.
        """
        if "dataset" in self.dataset_json:
            cases = self.listed_cases()
        else:
            labels = self.folder / "labelsTr"
            images = self.images("imagesTr")
            cases = {case: CaseFiles(files, labels / f"{case}{self.file_ending}") for case, files in images.items()}
        if not cases:
            raise RawDatasetError(
                f"{self.folder / 'imagesTr'}: holds no image named CASE_0000{self.file_ending}; check the folder"
            )
        self.taskset.require_cases(cases)
        return dict(sorted(cases.items()))

    def listed_cases(self) -> dict[str, CaseFiles]:
        """Return the training cases that `dataset.json` lists with their files.

        Raises:
            RawDatasetError: If the list has another form than nnU-Net reads.
        """
        try:
            # nnU-Net changes the mapping that it is given, hence the copy.
            files = get_filenames_of_train_images_and_targets(str(self.folder), deepcopy(dict(self.dataset_json)))
            cases = {
                str(case): CaseFiles(tuple(map(Path, paths["images"])), Path(paths["label"]))
                for case, paths in files.items()
            }
        except (AttributeError, KeyError, TypeError):
            raise RawDatasetError(
                f'{self.folder / "dataset.json"}: dataset: must be {{case: {{"images": [file, ...], "label": file}}}}'
            ) from None
        if strange := [case for case in cases if "/" in case]:
            # Files are named after cases, so a slash would put a file into another folder.
            raise RawDatasetError(
                f"{self.folder / 'dataset.json'}: dataset: the name of a case must not contain a slash, as "
                f"{listed(strange)} does; rename it"
            )
        return cases

    def images(self, part: str) -> dict[str, tuple[Path, ...]]:
        """Return the images in a folder such as `imagesTs` by case; empty if the folder is missing."""
        pattern = re.compile(rf"([^.].*)_\d{{4}}{re.escape(self.file_ending)}")
        files: dict[str, tuple[Path, ...]] = {}
        folder = self.folder / part
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if match := pattern.fullmatch(path.name):
                files[match[1]] = (*files.get(match[1], ()), path)
        return files

    def reader(self) -> Any:
        """Return nnU-Net's reader and writer of this data set.

        Raises:
            RawDatasetError: If none of nnU-Net's readers can read the images.
        """
        example = next((str(files[0]) for files in self.images("imagesTr").values()), None)
        try:
            return determine_reader_writer_from_dataset_json(dict(self.dataset_json), example, verbose=False)()
        except RuntimeError:
            raise RawDatasetError(
                f"{example or self.folder}: none of nnU-Net's readers reads it; mend the file or file_ending"
            ) from None

    def splits(self, cases: Collection[str]) -> Splits | None:
        """Return the folds of this data set, restricted to some cases; None if the data set has no folds yet.

        Raises:
            RawDatasetError: If the folds cannot be read, or a fold is left without training or validation cases.
        """
        places = [self.folder / SPLITS_NAME]
        if nnUNet_preprocessed.is_set():
            places.insert(0, Path(nnUNet_preprocessed, self.folder.name, SPLITS_NAME))
        path = next((place for place in places if place.is_file()), None)
        return None if path is None else _restricted(path, cases, self.folder.name)

    def description(self, name: str, n_training: int, **changed: Any) -> dict[str, Any]:
        """Return the `dataset.json` of a new data set without a block; the order of keys is kept.

        Args:
            name: Name of the new data set.
            n_training: Number of training cases.
            changed: Further keys and their new values; None removes a key.
        """
        new = {"name": name, "numTraining": n_training, "nnunet_mtl": None, "dataset": None, **changed}
        kept = {key: new.get(key, value) for key, value in self.dataset_json.items()}
        return {key: value for key, value in (kept | new).items() if value is not None}


def _restricted(path: Path, cases: Collection[str], source: str) -> Splits:
    try:
        splits = [
            {part: [str(case) for case in fold[part] if case in cases] for part in ("train", "val")}
            for fold in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, TypeError, KeyError):
        raise RawDatasetError(
            f'{path}: is no list of folds {{"train": [case, ...], "val": [case, ...]}}; make it again with '
            f"`nnunet_mtl make-splits -d {source} --overwrite`"
        ) from None
    empty = [f"fold {number} ({part})" for number, fold in enumerate(splits) for part in fold if not fold[part]]
    if empty:
        raise RawDatasetError(
            f"{path}: without the cases that are left out nothing is left of {', '.join(empty)}; make folds in which "
            f"every task is annotated (`nnunet_mtl make-splits -d {source} --overwrite`) and train on those"
        )
    return splits


def place_of(source: Path, dataset_id: int, name: str) -> Path:
    """Return the folder of a new data set, beside the data set that it is made from.

    Raises:
        RawDatasetError: If the id is out of range or used in one of nnU-Net's three folders, or the name is not valid.
    """
    if not 1 <= dataset_id <= 999:
        raise RawDatasetError(f"-o {dataset_id}: a data set id lies between 1 and 999")
    if not re.fullmatch(r"[\w.-]+", name):
        raise RawDatasetError(f"--name {shown(name)}: use letters, digits, '-', '_' and '.' only")
    if problem := name_problem(name):
        raise RawDatasetError(f"--name {shown(name)}: the name of a data set {problem}; give another")
    start = f"Dataset{dataset_id:03d}"
    beside = {path.name for path in source.parent.glob(f"{start}*")}
    taken = sorted(beside.union(map(str, find_candidate_datasets(dataset_id))))
    if taken:
        raise RawDatasetError(f"-o {dataset_id}: the id is taken by {listed(taken)}; give another one, or delete that")
    return source.parent / f"{start}_{name}"


def plain_name(folder: Path, ending: str) -> str:
    """Return a name for a data set made from the one in `folder`: its name and an ending, other characters as `_`."""
    name = re.sub(r"^Dataset\d{3}_", "", folder.name)
    return re.sub(r"[^\w.-]", "_", f"{name}_{ending}")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `target` at the end; after an error nothing is left.

    Raises:
        RawDatasetError: If `target` holds files already, or a file cannot be read or written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RawDatasetError(f"{target}: is there already; give another -o, or delete it")
    aside = target.with_name(f".{target.name}.writing")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # left by a process that was killed
        aside.mkdir(parents=True)
        yield aside
        if target.is_dir():
            target.rmdir()  # some systems do not rename onto an empty folder
        aside.rename(target)
    except OSError as error:
        raise RawDatasetError(
            f"{error.filename}: cannot be read or written ({error.strerror}); check the folder, nothing was written"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """Make `target` a hard link to a file, or a copy where the file system has no hard links.

    Raises:
        OSError: If the file is missing, or the link cannot be written.
    """
    real = source.resolve()  # moving the folder would break a link to a symbolic link
    try:
        os.link(real, target)
    except OSError:
        shutil.copy2(real, target)


def link_images(
    case: str, images: Sequence[Path], folder: Path, ending: str, channels: Sequence[int] | None = None
) -> None:
    """Link the images of a case under nnU-Net's names, with the spacing file that nnU-Net keeps beside TIFF images.

    Args:
        case: Name of the case.
        images: One file for every channel.
        folder: Folder for the links.
        ending: File ending of the images.
        channels: Channels to link, which are numbered 0, 1 and so on in the new folder; None links all. A channel that
            the case lacks (such as the regression target of a test case) is left out.

    Raises:
        OSError: If a file is missing, or the folder cannot be written to.
    """
    kept = images if channels is None else [images[channel] for channel in channels if channel < len(images)]
    for channel, image in enumerate(kept):
        link(image, folder / f"{case}_{channel:04d}{ending}")
    link_spacing(images[0], f"_0000{ending}", folder / f"{case}.json")


def link_label(case: str, label: Path, folder: Path, ending: str) -> None:
    """Link the label map of a case, with the spacing file that nnU-Net keeps beside TIFF images.

    Raises:
        OSError: If the label map is missing, or the folder cannot be written to.
    """
    link(label, folder / f"{case}{ending}")
    link_spacing(label, ending, folder / f"{case}.json")


def link_spacing(file: Path, ending: str, target: Path) -> None:
    """Link the spacing file beside a TIFF file, if there is one.

    Args:
        file: The TIFF file.
        ending: End of the TIFF file's name that `.json` replaces in the name of the spacing file.
        target: Path of the link.

    Raises:
        OSError: If the link cannot be written.
    """
    spacing = file.with_name(f"{file.name.removesuffix(ending)}.json")
    if spacing.is_file():
        link(spacing, target)


def write_description(folder: Path, dataset_json: Mapping[str, Any], splits: Splits | None) -> None:
    """Write `dataset.json` and, beside it, the folds, which nnU-Net's planning copies from there.

    Raises:
        TaskSetError: If the content of `dataset.json` is refused; nothing is written then.
    """
    TaskSet.from_dataset_json(dataset_json, str(folder / "dataset.json"))
    write_dataset_json(folder / "dataset.json", dataset_json)
    if splits is not None:
        write_json(folder / SPLITS_NAME, splits)
