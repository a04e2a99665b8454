"""Five real scans with lesion masks, fetched by name from the package index, as a partially labelled union.

The source distribution of PyRadiomics carries two brain MR, one breast MR and two lung CT with one annotated lesion
each. They show that the output of real scanners passes the whole chain; five cases show nothing about accuracy.
The scans are not part of this package: pip fetches the release by name and version, and every file is compared with a
checksum before it is read.
"""

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import SimpleITK
from packaging.requirements import Requirement

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.grid import grid_difference, grid_of_image
from nnunet_mtl.tasks import TaskSet, write_dataset_json

Progress = Callable[[str], None]


class RealDataError(UserError):
    """The release cannot be fetched, or is not the one whose checksums are known."""


@dataclass(frozen=True)
class Release:
    """A source distribution on the package index, and those of its files that are used.

    Attributes:
        name: Name on the package index.
        version: Version on the package index.
        sha256: Checksum of the archive, hexadecimal.
        members: Checksum of every used file by its path inside the archive's one top folder.
    """

    name: str
    version: str
    sha256: str
    members: Mapping[str, str]

    @property
    def requirement(self) -> str:
        """The pinned requirement, as pip reads it."""
        return f"{self.name}=={self.version}"


PYRADIOMICS = Release(
    name="pyradiomics",
    version="3.0.1",
    sha256="47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    members=MappingProxyType(
        {
            "data/brain1_image.nrrd": "fffdb111ee8b428ede7256707393c927a7d5be912f0604cf3c6f1bd5fc9644cf",
            "data/brain1_label.nrrd": "ae6d8e6b84f7e99d68c210ee2fa6aaaefa0b2df0a84f55efca4feebe2b216059",
            "data/brain2_image.nrrd": "d35a1c6a3e1eb72bae97c5515472fbe057fb38ee8e1e199215d1c3c6f292332e",
            "data/brain2_label.nrrd": "15189c024936ecc337649b9a10c475117c7c40df0d53c22163f9a2023ed741a5",
            "data/breast1_image.nrrd": "0e8b668f3ce9b9aacff20dc3c216866f43069ff96b269fb45b76f5e205a431e2",
            "data/breast1_label.nrrd": "07085bb0e36a956de5bd1c1c1b5f8bdf2ce80952125b13cbd352412c108c8950",
            "data/lung1_image.nrrd": "379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
            "data/lung1_label.nrrd": "e9d9a88054d7bc1d3034193ff907ce6b8c6ba28a7bc3a16f23728982d1b6b50a",
            "data/lung2_image.nrrd": "aa2b94eec79127ed786798ac8dc3c013010e1692d5787bebfae1a1e9685a4651",
            "data/lung2_label.nrrd": "cef52738dc51aab69a48fe30639da956d2b911b1c2920439c091fab84727657a",
        }
    ),
)

# The release's set-up reads a module that Python 3.12 removed, and pip runs that set-up even to download only.
_NEWEST_PYTHON = (3, 11)

_TASK_OF_CASE = {"brain1": "brain", "brain2": "brain", "breast1": "breast", "lung1": "lung", "lung2": "lung"}
_LEAF_OF_TASK = {"brain": 1, "breast": 2, "lung": 3}


def fetch_real_cases(
    folder: Path, *, source: Path | None = None, progress: Progress, release: Release = PYRADIOMICS
) -> Path:
    """Bring the release's archive to this machine and check it.

    An archive that is already in `folder` is used again. pip itself compares the checksum before it runs the
    release's set-up code, and the archive is compared once more when it has arrived.

    Args:
        folder: Where the archive is kept; made if missing.
        source: An archive that the user fetched by other means; nothing is downloaded then.
        progress: Called with one line per step.
        release: The release to fetch.

    Returns:
        The checked archive: `source`, or a file in `folder`.

    Raises:
        RealDataError: If the archive cannot be fetched or has another checksum.
    """
    if source is not None:
        if not source.is_file():
            raise RealDataError(f"--source {source}: no such file; expected the archive of {_described(release)}")
        _check_archive(source, release, f"--source {source}")
        progress(f"Using {source}: the checksum is right")
        return source
    archive = folder / f"{release.name}-{release.version}.tar.gz"
    if archive.is_file() and _sha256(archive) == release.sha256:
        progress(f"Using {archive}: the checksum is right")
        return archive
    _require_downloader(release)
    folder.mkdir(parents=True, exist_ok=True)
    progress(f"Downloading {release.requirement} with pip")
    with tempfile.TemporaryDirectory(dir=folder) as arriving:
        arrived = _download(Path(arriving), release)
        _check_archive(arrived, release, "what pip downloaded")
        os.replace(arrived, archive)
    progress(f"Downloaded {archive} ({archive.stat().st_size / 1e6:.1f} MB): the checksum is right")
    return archive


def write_real_dataset(archive: Path, folder: Path, progress: Progress, release: Release = PYRADIOMICS) -> None:
    """Write the five cases in nnU-Net's raw format, each annotated for its own task only.

    Images keep their scanner's grid and intensities. `imagesTs` holds the training images once more, because there are
    no other images. So scores on them show that the chain works, and say nothing about accuracy.

    Args:
        archive: As returned by `fetch_real_cases`.
        folder: The data set's folder in `nnUNet_raw`; must be missing or empty.
        progress: Called with one line per case.
        release: The release whose checksums the archive must have.

    Raises:
        RealDataError: If the archive has another checksum or the folder holds files already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise RealDataError(f"{folder}: holds files already; expected a new or an empty folder")
    _check_archive(archive, release, str(archive))
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as unpacked:
        _extract_members(archive, Path(unpacked), release)
        for case, task in _TASK_OF_CASE.items():
            image = SimpleITK.ReadImage(str(Path(unpacked, f"{case}_image.nrrd")))
            label = _as_label(
                SimpleITK.ReadImage(str(Path(unpacked, f"{case}_label.nrrd"))), image, _LEAF_OF_TASK[task]
            )
            for images in ("imagesTr", "imagesTs"):
                SimpleITK.WriteImage(image, str(folder / images / f"{case}_0000.nii.gz"), useCompression=True)
            SimpleITK.WriteImage(label, str(folder / "labelsTr" / f"{case}.nii.gz"), useCompression=True)
            progress(f"Wrote {case} ({task}): {_times(image.GetSize())} voxels of {_times(image.GetSpacing())} mm")
    description = _dataset_json()
    TaskSet.from_dataset_json(description, str(folder / "dataset.json"))
    write_dataset_json(folder / "dataset.json", description)


def _dataset_json() -> dict[str, Any]:
    # The repeated integer makes a plain label a region: only for regions nnU-Net gives every output its own sigmoid.
    labels: dict[str, Any] = {"background": 0}
    labels |= {f"{task}_lesion": [leaf, leaf] for task, leaf in _LEAF_OF_TASK.items()}
    return {
        # For a channel "CT" nnU-Net would clip MR and CT to the intensity range of all lesions; other names z-score.
        "channel_names": {"0": "scan"},
        "labels": labels,
        "regions_class_order": list(_LEAF_OF_TASK.values()),
        "numTraining": len(_TASK_OF_CASE),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "nnunet_mtl": {
            "version": 1,
            "tasks": {task: {"regions": [f"{task}_lesion"], "slots": ["lesion"]} for task in _LEAF_OF_TASK},
            "cases": {case: {"annotated": [task]} for case, task in _TASK_OF_CASE.items()},
        },
    }


def _as_label(mask: SimpleITK.Image, image: SimpleITK.Image, leaf: int) -> SimpleITK.Image:
    """Return the mask's foreground with value `leaf` on the grid of `image`, as 8-bit integers."""
    if grid_difference(grid_of_image(mask), grid_of_image(image)):
        mask = SimpleITK.Resample(mask, image, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0)
    label: SimpleITK.Image = SimpleITK.Cast(mask != 0, SimpleITK.sitkUInt8) * leaf
    # nnU-Net's readers require equal geometry; the comparison above allows a tolerance.
    label.CopyInformation(image)
    return label


def _require_downloader(release: Release) -> None:
    if sys.version_info[:2] > _NEWEST_PYTHON:
        newest = ".".join(map(str, _NEWEST_PYTHON))
        raise RealDataError(
            f"the set-up of {release.requirement} runs on Python {newest} or older, this is {sys.version.split()[0]}: "
            f"use an older Python, or {_by_hand(release)}"
        )
    # With an older setuptools, which new environments of Python 3.11 have, pip cannot read the release's metadata.
    missing = [name for name in ("pip", "setuptools>=70.1", "numpy") if not _is_installed(Requirement(name))]
    if missing:
        raise RealDataError(
            f"downloading {release.requirement} needs {', '.join(missing)} in this Python environment: install it, or "
            f"{_by_hand(release)}"
        )


def _is_installed(requirement: Requirement) -> bool:
    # Metadata are read because a search for the module pip makes setuptools unload modules.
    first = next(iter(importlib.metadata.distributions(name=requirement.name)), None)  # Python imports the first one
    return first is not None and first.version in requirement.specifier


def _download(folder: Path, release: Release) -> Path:
    requirements = folder / "requirements.txt"
    # Only a requirements file can carry a checksum.
    requirements.write_text(f"{release.requirement} --hash=sha256:{release.sha256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--no-binary", release.name]
    pip += ["--disable-pip-version-check", "--no-input", "--require-hashes", "-r", str(requirements), "-d", str(folder)]
    result = subprocess.run(pip, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("*.tar.gz"))
    if result.returncode or not archives:
        complaints = [line for line in result.stderr.splitlines() if line.strip().lower().startswith("error")]
        reason = complaints[-1].strip() if complaints else "no reason given"
        raise RealDataError(
            f"pip could not download {release.requirement} ({reason}): check the network, or {_by_hand(release)}"
        )
    return archives[0]


def _extract_members(archive: Path, folder: Path, release: Release) -> None:
    """Write the used files into `folder` without subfolders, so that no path of the archive is ever followed."""
    members: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if member.name.startswith("/") or ".." in parts:
                    raise RealDataError(f"{archive}: {member.name!r} leads out of its folder; nothing was extracted")
                members["/".join(parts[1:])] = member
            for name, sha256 in release.members.items():
                file = tar.extractfile(members[name]) if name in members and members[name].isfile() else None
                if file is None:
                    raise RealDataError(f"{archive}: holds no file {name!r}; expected {release.requirement}")
                content = file.read()
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise RealDataError(f"{archive}: {name!r} is not that of {release.requirement}; fetch it again")
                (folder / PurePosixPath(name).name).write_bytes(content)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise RealDataError(f"{archive}: cannot be read as a .tar.gz archive ({error}); fetch it again") from None


def _check_archive(archive: Path, release: Release, name: str) -> None:
    checksum = _sha256(archive)
    if checksum != release.sha256:
        raise RealDataError(
            f"{name}: its SHA-256 is {checksum[:16]}..., expected {release.sha256[:16]}...; it is not the archive of "
            f"{_described(release)}, or was altered or cut short: fetch it again"
        )


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _by_hand(release: Release) -> str:
    return f"fetch the archive of {_described(release)} by other means and give it with --source FILE"


def _described(release: Release) -> str:
    return f"{release.requirement} (its source distribution on the package index)"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
