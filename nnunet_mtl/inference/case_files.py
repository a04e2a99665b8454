"""The cases of an input folder, as nnU-Net lists them: `CASE_0000.ending`, `CASE_0001.ending` and so on.

Most files hold one channel; a colour picture holds three, and a 4D NIfTI as many as its fourth axis is long. Therefore
a missing channel is noticed when the files are read, not from their names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.utilities.utils import create_paths_fn, get_identifiers_from_splitted_dataset_folder
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed, one_line
from nnunet_mtl.datasets.file_integrity import file_problem


class InputError(UserError):
    """The input folder or an image of it cannot be used."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        name: Identifier of the case.
        images: The image files in the order of their numbers, as nnU-Net reads them.
        previous_stage: Label map of the previous stage of a cascade; None without cascade.
    """

    name: str
    images: tuple[Path, ...]
    previous_stage: Path | None = None

    def check(self) -> None:
        """Refuse a case with a missing or damaged file.

        Raises:
            InputError: If there is such a file; the message names all of them.
        """
        files = (*self.images, *([self.previous_stage] if self.previous_stage else []))
        problems = [f"{path}: {problem}" for path in files if (problem := file_problem(path))]
        if problems:
            raise InputError("; ".join(problems))

    def read(self, reader: Any, n_channels: int) -> tuple[npt.NDArray[np.floating[Any]], dict[str, Any]]:
        """Read the image of a case.

        Args:
            reader: nnU-Net's reader and writer.
            n_channels: Number of channels that the model reads.

        Returns:
            The image, (C, Z, Y, X), and its properties as nnU-Net's reader returns them.

        Raises:
            InputError: If a file is missing, damaged or unreadable, or the files hold more or fewer channels.
        """
        self.check()
        try:
            image, properties = reader.read_images([str(path) for path in self.images])
        except Exception as error:  # readers raise anything, mostly without the name of the file
            names = ", ".join(str(path) for path in self.images)
            raise InputError(f"{names}: cannot be read ({one_line(error)}); write it again") from error
        if len(image) != n_channels:
            raise InputError(self._wrong_number(len(image), n_channels))
        return image, properties

    def _wrong_number(self, n_read: int, n_channels: int) -> str:
        names = listed(path.name for path in self.images)
        text = f"{names}: {n_read} channel(s) in {len(self.images)} file(s), the model reads {n_channels}"
        if n_read != len(self.images):  # files of several channels, whose numbers are not numbers of channels
            return text
        numbers = self.numbers
        missing = [f"channel {number:04d} is missing" for number in range(n_channels) if number not in numbers]
        strange = [path.name for path, number in zip(self.images, numbers, strict=True) if number >= n_channels]
        return "; ".join([text, *missing, *([f"{listed(strange)} is too much"] if strange else [])])

    @property
    def numbers(self) -> list[int]:
        """The numbers in the names of the image files."""
        return [int(path.name[len(self.name) + 1 :][:4]) for path in self.images]


def find_cases(
    folder: Path, ending: str, *, previous_stage: Path | None = None, part: int = 0, parts: int = 1
) -> list[CaseFiles]:
    """Return the cases of a folder as nnU-Net lists them, without hidden files.

    Args:
        folder: Folder of the images.
        ending: File ending of the images, as in the model's `dataset.json`.
        previous_stage: Folder of the previous stage's label maps, for a cascade.
        part: Number of the part of the cases that is returned, from 0 on.
        parts: Number of parts among which the cases are shared out.

    Raises:
        InputError: If the folder does not exist or holds no case, or `part` is not below `parts`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the images with -i")
    if not 0 <= part < parts:
        raise InputError(f"-part_id {part}: must be 0 to {parts - 1} with -num_parts {parts}")
    names = [str(name) for name in get_identifiers_from_splitted_dataset_folder(str(folder), ending)]
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    cases = []
    for name in names:
        # the function that nnU-Net's listing calls for every case, in a pool of processes
        images = create_paths_fn(str(folder), files, ending, name)
        if images and name and not name.startswith("."):
            previous = None if previous_stage is None else previous_stage / f"{name}{ending}"
            cases.append(CaseFiles(name, tuple(map(Path, images)), previous))
    if not cases:
        raise InputError(f"{folder}: no image in it; expected files named CASE_0000{ending}")
    gaps = [case.name for case in cases if case.numbers != list(range(len(case.images)))]
    if gaps:
        tqdm.write(f"{listed(gaps)}: files are not numbered 0000, 0001, ...; read in their order, as by nnU-Net")
    return cases[part::parts]


def number_of_channels(dataset_json: Mapping[str, Any]) -> int:
    """Return how many channels an image has (`modality` is nnU-Net's older name of the key)."""
    return len(dataset_json["modality"] if "modality" in dataset_json else dataset_json["channel_names"])
