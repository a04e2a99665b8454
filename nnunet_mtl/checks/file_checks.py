"""Checks of the image and label files of a data set. Every file is opened, and read to its end.

Faults are gathered by kind, because a folder that was copied badly has the same fault a thousand times. Grids are
compared by `nnunet_mtl.datasets.grid`, with nnU-Net's tolerances.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nnunetv2.configuration import default_num_processes

from nnunet_mtl.checks.findings import Finding
from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import one_line
from nnunet_mtl.datasets.file_integrity import file_problem
from nnunet_mtl.datasets.grid import Grid, grid_difference, grid_of

_MOST_PROCESSES = 4
_CASES_WORTH_A_PROCESS = 8  # a process takes some seconds to start

_SAME_IMAGE = "write them again from the same image, or copy its header if only that is wrong"
_NIBABEL = '"overwrite_image_reader_writer": "NibabelIO"'  # this reader uses the spacing and ignores directions
# The kinds of faults in the order of the report: the words after the number of faults, and the remedy.
_KINDS = {
    "missing": ("file(s) not there", "add them; a case without structures needs a label file of zeros"),
    "damaged": ("file(s) damaged, or too short", "copy or write them again"),
    "oblique": (
        "file(s) with directions that are not orthonormal, which SimpleITK does not read",
        f"resample them, or copy their qform to their sform if that is right; or write {_NIBABEL} into dataset.json",
    ),
    "unreadable": ("file(s) that cannot be read", "write them again as nnU-Net's reader of this data set reads them"),
    "volumes": (
        "file(s) with more than one volume (a time axis, or colours)",
        "write the one volume that is meant into a file of its own",
    ),
    "channels": ("case(s) with another number of channels than dataset.json", "add or remove image files"),
    "values": (
        "label file(s) with values that must not be there",
        "mend the label file or the case's entry in the block",
    ),
    **{
        f"channels {kind}": (f"image file(s) that differ from the first channel of their case in {kind}", _SAME_IMAGE)
        for kind in ("number of dimensions", "shape", "spacing", "origin", "direction")
    },
    **{
        f"label {kind}": (f"label file(s) that differ from their images in {kind}", _SAME_IMAGE)
        for kind in ("number of dimensions", "shape", "spacing", "origin", "direction")
    },
}


class Fault(NamedTuple):
    """One fault of one case.

    Attributes:
        kind: A key of `_KINDS`.
        text: The file or case, and what is wrong with it.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class CaseToCheck:
    """The files of a case.

    Attributes:
        name: Identifier of the case.
        images: Image files in the order of their channels; a file may hold several channels.
        label: The label map; None for a test case without one.
        n_channels: The numbers of channels that are right.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    n_channels: range


class CheckedCase(NamedTuple):
    """The faults of a case, and the different values of its label map; None without a label map that can be read."""

    name: str
    faults: tuple[Fault, ...]
    values: tuple[float, ...] | None


def check_files(
    cases: Sequence[CaseToCheck], reader: type[Any], progress: Callable[[str], None]
) -> Iterator[CheckedCase]:
    """Open every file of the cases, several cases at the same time.

    Args:
        cases: Training and test cases.
        reader: Class of nnU-Net's reader of the data set.
        progress: Called with one line of text after each case.

    Yields:
        The result for every case, in the order of `cases`.

    Raises:
        UserError: If a process died.
    """
    started = time.monotonic()
    with _processes(len(cases)) as in_processes:
        try:
            for number, case in enumerate(in_processes(partial(_check, reader=reader), cases), start=1):
                left = (time.monotonic() - started) / number * (len(cases) - number)
                progress(f"case {number} of {len(cases)}: {case.name}{_estimate(left)}")
                yield case
        except BrokenProcessPool:
            raise UserError(
                "a process that read images died, most likely for want of memory; run it again with nnUNet_def_n_proc=1"
            ) from None


def findings_of(faults: Iterable[Fault]) -> Iterator[Finding]:
    """Return a finding for every kind of fault. Its text has the number of the faults, its details have their texts."""
    by_kind: dict[str, list[str]] = {}
    for fault in faults:
        by_kind.setdefault(fault.kind, []).append(fault.text)
    for kind, (text, remedy) in _KINDS.items():
        if kind in by_kind:
            yield Finding("problem", f"{len(by_kind[kind])} {text}", remedy, tuple(by_kind[kind]))


@contextmanager
def _processes(n_cases: int) -> Iterator[Callable[..., Iterator[Any]]]:
    useful = 1 + n_cases // _CASES_WORTH_A_PROCESS
    number = min(_MOST_PROCESSES, default_num_processes, os.cpu_count() or 1, useful)
    if number == 1:
        yield map
        return
    with ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _estimate(seconds: float) -> str:
    if seconds < 10:
        return ""
    return f", about {seconds:.0f} s left" if seconds < 90 else f", about {seconds / 60:.0f} min left"


class _Image(NamedTuple):
    n_volumes: int
    grid: Grid
    values: tuple[float, ...]  # the different values of a label map; of an image none


def _check(case: CaseToCheck, reader: type[Any]) -> CheckedCase:
    faults: list[Fault] = []
    images = {path: _read(path, reader, faults, is_label=False) for path in case.images}
    readable = {path: image for path, image in images.items() if image}
    n_channels = sum(image.n_volumes for image in readable.values())
    if len(readable) == len(images) and n_channels not in case.n_channels:
        expected = " or ".join(str(number) for number in case.n_channels)
        faults.append(Fault("channels", f"{case.name}: {n_channels}, not {expected}, in {len(images)} image file(s)"))
    first = next(iter(readable.values()), None)
    for path, image in readable.items():
        faults += _differences("channels", path, image, first)
    label = None if case.label is None else _read(case.label, reader, faults, is_label=True)
    if case.label is None or label is None:
        return CheckedCase(case.name, tuple(faults), None)
    if label.n_volumes > 1:
        faults.append(Fault("volumes", f"{case.label}: {label.n_volumes} volumes"))
    faults += _differences("label", case.label, label, first)
    return CheckedCase(case.name, tuple(faults), label.values)


def _read(path: Path, reader: type[Any], faults: list[Fault], *, is_label: bool) -> _Image | None:
    if not path.is_file():
        faults.append(Fault("missing", f"{path}: there is no such file"))
        return None
    if problem := file_problem(path):
        faults.append(Fault("damaged", f"{path}: {problem}"))
        return None
    try:
        array, properties = reader().read_seg(str(path)) if is_label else reader().read_images([str(path)])
    except Exception as error:  # noqa: BLE001 - readers raise anything, and the other files are checked too
        faults.append(Fault(_kind(error), f"{path}: {one_line(error)}"))
        return None
    values = tuple(np.unique(array).tolist()) if is_label else ()
    return _Image(len(array), grid_of(array.shape[1:], properties), values)


def _kind(error: Exception) -> str:
    text = str(error).lower()
    if "orthonormal" in text:
        return "oblique"
    return "volumes" if "only 3d images" in text else "unreadable"


def _differences(what: str, path: Path, image: _Image, expected: _Image | None) -> list[Fault]:
    difference = grid_difference(image.grid, expected.grid) if expected else None
    return [Fault(f"{what} {difference.kind}", f"{path}: {difference.text}")] if difference else []
