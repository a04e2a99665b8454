"""The cases of an input folder, by nnU-Net's names: `CASE_0000.ending`, `CASE_0001.ending`, one file per channel."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mtl._messages import listed
from nnunet_mtl.errors import UserError
from nnunet_mtl.integrity import file_problem


class InputError(UserError):
    """Images cannot be predicted from as they are."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        name: Identifier of the case.
        channels: The image files by channel number.
        previous_stage: Label map of the previous stage of a cascade, if there is one.
    """

    name: str
    channels: Mapping[int, Path]
    previous_stage: Path | None = None

    @property
    def images(self) -> list[str]:
        """The image files in the order of their channels."""
        return [str(self.channels[number]) for number in sorted(self.channels)]

    def check(self, n_channels: int) -> None:
        """Refuse a case of which a file is missing or not whole.

        Raises:
            InputError: Naming every such file.
        """
        problems = [f"channel {number:04d} is missing" for number in range(n_channels) if number not in self.channels]
        strange = [path.name for number, path in self.channels.items() if number >= n_channels]
        if strange:
            problems.append(f"{listed(strange)} is too much, the model reads {n_channels} channel(s)")
        files = [*self.channels.values(), *([self.previous_stage] if self.previous_stage else [])]
        problems += [f"{path}: {problem}" for path in files if (problem := file_problem(path))]
        if problems:
            raise InputError("; ".join(problems))


def find_cases(
    folder: Path, ending: str, *, previous_stage: Path | None = None, part: int = 0, parts: int = 1
) -> list[CaseFiles]:
    """Return the cases of a folder in nnU-Net's order.

    Args:
        folder: Holds the images.
        ending: Of the image files, as in the model's `dataset.json`.
        previous_stage: Folder of the previous stage's label maps, for a cascade.
        part: Which part of the cases, from 0 on.
        parts: In how many parts the cases are shared out.

    Raises:
        InputError: If the folder is not there or holds no case, or there is no such part.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the images with -i")
    if not 0 <= part < parts:
        raise InputError(f"-part_id {part}: must be 0 to {parts - 1} with -num_parts {parts}")
    channels: dict[str, dict[int, Path]] = {}
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
    for path in sorted(folder.iterdir()):
        match = pattern.fullmatch(path.name)
        if match and not path.name.startswith("."):
            channels.setdefault(match[1], {})[int(match[2])] = path
    if not channels:
        raise InputError(f"{folder}: no image in it; expected files named CASE_0000{ending}")
    names = sorted(channels)[part::parts]
    if previous_stage is None:
        return [CaseFiles(name, channels[name]) for name in names]
    return [CaseFiles(name, channels[name], previous_stage / f"{name}{ending}") for name in names]


def number_of_channels(dataset_json: Mapping[str, Any]) -> int:
    """Return how many image files a case has (`modality` is nnU-Net's older name of the key)."""
    return len(dataset_json["modality"] if "modality" in dataset_json else dataset_json["channel_names"])
