"""A data set in nnU-Net's raw format, and stock data sets that are made from it without storing an image twice."""

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
    """A data set cannot be read, or another one cannot be made from it."""


class CaseFiles(NamedTuple):
    """The files of a case: one image per channel, in their order, and its label map."""

    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class RawDataset:
    """A data set of `nnUNet_raw` that says what was annotated in which case.

    Attributes:
        folder: `DatasetXXX_Name`.
        dataset_json: Its description.
        taskset: What the description says of tasks and cases.
    """

    folder: Path
    dataset_json: Mapping[str, Any]
    taskset: TaskSet

    @classmethod
    def read(cls, folder: Path, *, regions_are_tasks: bool = False) -> "RawDataset":
        """Read the description; no image is looked at.

        Args:
            folder: `DatasetXXX_Name`.
            regions_are_tasks: Take every region of a data set without a block for a task, annotated in every case,
                whose parent is the smallest region that contains it.

        Raises:
            TaskSetError: If it cannot be read or is refused.
            RegionNameError: If a region has no name for a task.
            RawDatasetError: If it has no block, or names no file ending.
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
            RawDatasetError: If there is none.
            TaskSetError: If the block says nothing of one of them.
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
            RawDatasetError: If the list is not as nnU-Net reads it.
        """
        try:
            # nnU-Net writes the paths it finds into what it is given.
            files = get_filenames_of_train_images_and_targets(str(self.folder), deepcopy(dict(self.dataset_json)))
            found = {
                str(case): CaseFiles(tuple(map(Path, of_case["images"])), Path(of_case["label"]))
                for case, of_case in files.items()
            }
        except (AttributeError, KeyError, TypeError):
            raise RawDatasetError(
                f'{self.folder / "dataset.json"}: dataset: must be {{case: {{"images": [file, ...], "label": file}}}}'
            ) from None
        if strange := [case for case in found if "/" in case]:
            # files are named after cases, and would lie elsewhere
            raise RawDatasetError(
                f"{self.folder / 'dataset.json'}: dataset: the name of a case must not contain a slash, as "
                f"{listed(strange)} does; rename it"
            )
        return found

    def images(self, part: str) -> dict[str, tuple[Path, ...]]:
        """Return the images of every case of a folder such as `imagesTs`; empty where there is no such folder."""
        pattern = re.compile(rf"([^.].*)_\d{{4}}{re.escape(self.file_ending)}")
        found: dict[str, tuple[Path, ...]] = {}
        folder = self.folder / part
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if match := pattern.fullmatch(path.name):
                found[match[1]] = (*found.get(match[1], ()), path)
        return found

    def reader(self) -> Any:
        """Return the reader and writer nnU-Net uses for this data set.

        Raises:
            RawDatasetError: If none of nnU-Net's can read the images.
        """
        example = next((str(files[0]) for files in self.images("imagesTr").values()), None)
        try:
            return determine_reader_writer_from_dataset_json(dict(self.dataset_json), example, verbose=False)()
        except RuntimeError:
            raise RawDatasetError(
                f"{example or self.folder}: none of nnU-Net's readers reads it; mend the file or file_ending"
            ) from None

    def splits(self, cases: Collection[str]) -> Splits | None:
        """Return this data set's folds with these cases alone; None where it has no folds of its own yet.

        Raises:
            RawDatasetError: If the folds cannot be read, or one is left without a training or a validation case.
        """
        places = [self.folder / SPLITS_NAME]
        if nnUNet_preprocessed.is_set():
            places.insert(0, Path(nnUNet_preprocessed, self.folder.name, SPLITS_NAME))
        path = next((place for place in places if place.is_file()), None)
        return None if path is None else _restricted(path, cases, self.folder.name)

    def description(self, name: str, n_training: int, **changed: Any) -> dict[str, Any]:
        """Return a stock description of a data set made from this one, key order kept.

        Args:
            name: Of the new data set.
            n_training: How many training cases it has.
            changed: Other keys and their values; None for a key that it does not have.
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
    """Return the folder, beside its source, of a data set that is to be made.

    Raises:
        RawDatasetError: If the id is out of range or taken, in any of nnU-Net's three folders, or the name is no name.
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
    """Return a name, without odd characters, for what is made from the data set in `folder`: its name and an ending."""
    own = re.sub(r"^Dataset\d{3}_", "", folder.name)
    return re.sub(r"[^\w.-]", "_", f"{own}_{ending}")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a folder to write into that takes the place of `target` at the end; if anything fails, nothing is left.

    Raises:
        RawDatasetError: If `target` holds files already, or something cannot be read or written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RawDatasetError(f"{target}: is there already; give another -o, or delete it")
    aside = target.with_name(f".{target.name}.writing")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
        aside.mkdir(parents=True)
        yield aside
        if target.is_dir():
            target.rmdir()  # not everywhere is an empty folder replaced
        aside.rename(target)
    except OSError as error:
        raise RawDatasetError(
            f"{error.filename}: cannot be read or written ({error.strerror}); check the folder, nothing was written"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """Make `target` a hard link to a file, or a copy where the file system has no such links.

    Raises:
        OSError: If the file is not there, or the place cannot be written to.
    """
    real = source.resolve()  # a link to a symbolic link would be broken by moving the folder
    try:
        os.link(real, target)
    except OSError:
        shutil.copy2(real, target)


def link_images(
    case: str, images: Sequence[Path], folder: Path, ending: str, channels: Sequence[int] | None = None
) -> None:
    """Link the images of a case, and the spacing that nnU-Net keeps beside TIFF images, under nnU-Net's names.

    Args:
        case: Its name.
        images: A file per channel.
        folder: To link into.
        ending: Of the files.
        channels: Numbers of those to link, which are then 0, 1 and so on; None for all. A channel that is not there
            (nobody has the target of a test case) is left out.

    Raises:
        OSError: If a file is not there, or the folder cannot be written to.
    """
    kept = images if channels is None else [images[channel] for channel in channels if channel < len(images)]
    for channel, image in enumerate(kept):
        link(image, folder / f"{case}_{channel:04d}{ending}")
    link_spacing(images[0], f"_0000{ending}", folder / f"{case}.json")


def link_label(case: str, label: Path, folder: Path, ending: str) -> None:
    """Link the label map of a case likewise.

    Raises:
        OSError: If it is not there, or the folder cannot be written to.
    """
    link(label, folder / f"{case}{ending}")
    link_spacing(label, ending, folder / f"{case}.json")


def link_spacing(file: Path, ending: str, target: Path) -> None:
    """Link the spacing beside a TIFF file, if there is any.

    Args:
        file: The TIFF file.
        ending: What its name has more than that of the spacing.
        target: The link.

    Raises:
        OSError: If the place cannot be written to.
    """
    spacing = file.with_name(f"{file.name.removesuffix(ending)}.json")
    if spacing.is_file():
        link(spacing, target)


def write_description(folder: Path, dataset_json: Mapping[str, Any], splits: Splits | None) -> None:
    """Write `dataset.json`, and the folds where nnU-Net's planning looks for them and copies them from.

    Raises:
        TaskSetError: If the description could not be read again.
    """
    TaskSet.from_dataset_json(dataset_json, str(folder / "dataset.json"))
    write_dataset_json(folder / "dataset.json", dataset_json)
    if splits is not None:
        write_json(folder / SPLITS_NAME, splits)
