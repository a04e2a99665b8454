"""What is wrong with an installation or a data set, and what to do about it: the checks behind `nnunet_mtl doctor`.

It reads and changes nothing. What fails loudly in nnU-Net by itself is looked at only where its message does not lead
to the cause (a torchvision that does not fit, a number of processes of 0); what fails silently is looked at always.
"""

import importlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from nnunet_mtl import discovery
from nnunet_mtl.errors import UserError
from nnunet_mtl.tasks import TaskSet, read_dataset_json

_TRAINER = "nnUNetTrainerMTLAttention"
_SHOWN_CASES = 5


class UnreadableLabelError(UserError):
    """A label file is missing or cannot be read as integers."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        level: "ok"; "warning" for what may be meant; "problem" for what fails or gives wrong results.
        text: What was found.
        remedy: What to do, empty where nothing is to be done.
    """

    level: Literal["ok", "warning", "problem"]
    text: str
    remedy: str = ""


def diagnose(dataset: str | None = None, progress: Callable[[str], None] | None = None) -> list[Finding]:
    """Look at the installation and, where one is named, at a data set.

    Args:
        dataset: Data set id ("900") or name ("Dataset900_Union"); every label file of it is read.
        progress: Called with one line of text before each slow step.
    """
    tell = progress or (lambda line: None)
    tell("importing torch")
    findings = [*_versions(), *_environment(os.environ)]
    tell("looking a trainer up through nnU-Net")
    findings += _discovery()
    if dataset is not None:
        findings += _dataset(dataset, tell)
    return findings


def report(findings: Iterable[Finding]) -> str:
    """Return the findings as text, one or two lines each, and a last line that counts them."""
    findings = list(findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<8} -> {finding.remedy}")
    problems, warnings = (sum(finding.level == level for finding in findings) for level in ("problem", "warning"))
    lines.append(f"{len(findings)} checks: {problems} problems, {warnings} warnings")
    return "\n".join(lines)


def _versions() -> Iterator[Finding]:
    yield Finding("ok", f"Python {platform.python_version()} ({platform.system()})")
    for package in ("nnunetv2", "torch"):
        yield _version(package, _requirement("nnunet_mtl", package))
    # nnU-Net's look-up imports a variant that imports torchvision: one that does not fit breaks every look-up.
    yield _version("torchvision", None)
    wanted = _requirement("torchvision", "torch")
    torch = _installed("torch")
    if wanted is not None and torch is not None and not wanted.specifier.contains(torch, prereleases=True):
        yield Finding(
            "problem",
            f"torchvision {_installed('torchvision')} needs {wanted}, installed is torch {torch}",
            "pip install --upgrade torch torchvision, both from the same index",
        )


def _version(package: str, wanted: Requirement | None) -> Finding:
    version = _installed(package)
    if version is None:
        return Finding("problem", f"{package} is not installed", "pip install nnunet_mtl, which brings it")
    if wanted is not None and not wanted.specifier.contains(version, prereleases=True):
        return Finding("problem", f"{package} {version} is not supported", f"pip install '{wanted}'")
    try:
        importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        return Finding(
            "problem",
            f"{package} {version} cannot be imported: {_one_line(error)}",
            f"reinstall it: pip install --force-reinstall {package}, torch and torchvision from the same index",
        )
    return Finding("ok", f"{package} {version}" + (f", supported {wanted.specifier}" if wanted else ""))


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirement(package: str, name: str) -> Requirement | None:
    # what the installed `package` declares about `name`: setup.cfg stays the only place that states the range
    try:
        declared = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((wanted for wanted in map(Requirement, declared) if wanted.name == name and not wanted.marker), None)


def _environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        yield _folder(name, environment.get(name))
    for name, least in (("nnUNet_n_proc_DA", 0), ("nnUNet_def_n_proc", 1)):
        if name in environment:
            yield _count(name, environment[name], least)
    compile_word = environment.get("nnUNet_compile")
    if compile_word is not None:
        known = compile_word.lower() in ("true", "1", "t", "false", "0", "f")
        remedy = "" if known else "nnU-Net reads anything but true, t or 1 as off: set nnUNet_compile=f or =t"
        yield Finding("ok" if known else "warning", f"nnUNet_compile={compile_word}", remedy)


def _folder(name: str, value: str | None) -> Finding:
    if not value:
        return Finding("problem", f"{name} is not set", f"export {name}=/path/to/{name}")
    if not Path(value).is_dir():
        return Finding("problem", f"{name}={value} is not a folder", f"mkdir -p {value}, or mend the path")
    if name == "nnUNet_raw":  # nnU-Net only reads there
        return Finding("ok", f"{name}={value}")
    try:
        # tried, because permission bits say little about network and read-only file systems
        with tempfile.TemporaryFile(dir=value):
            return Finding("ok", f"{name}={value}")
    except OSError as error:
        return Finding("problem", f"{name}={value} is not writable: {error.strerror}", "choose another folder")


def _count(name: str, value: str, least: int) -> Finding:
    if not value.strip().isdecimal() or int(value) < least:
        return Finding("problem", f"{name}={value!r} is not an integer of at least {least}", f"unset {name}")
    if name == "nnUNet_n_proc_DA" and int(value) == 0:
        return Finding(
            "warning",
            f"{name}=0 (no background workers) is right for training, but planning fails with it",
            "nnUNet_n_proc_DA=1 nnUNetv2_plan_and_preprocess ...",
        )
    return Finding("ok", f"{name}={value}")


def _discovery() -> Iterator[Finding]:
    state = discovery.state()
    for entry in state.missing:
        text = f"{discovery.VARIABLE} names {entry}, which does not exist; nnU-Net skips it"
        yield Finding("warning", text, f"remove it from {discovery.VARIABLE}")
    if state.pth_is_stale:
        yield Finding("warning", f"{state.pth} announces another installation", "nnunet_mtl enable")
    if not state.announced and not state.by_pth:
        text = f"the trainers are not announced to nnU-Net ({discovery.VARIABLE} does not name their folder)"
        yield Finding("problem", text, 'nnunet_mtl enable; or in each shell: eval "$(nnunet_mtl env)"')
        return
    try:
        trainer = discovery.look_up(_TRAINER)
    except discovery.DiscoveryError as error:
        yield Finding("problem", str(error), "mend what the message names; torchvision must fit torch")
        return
    if trainer.__module__ != f"nnunet_mtl.trainers.{_TRAINER}":
        text = f"nnU-Net finds another {_TRAINER}, in a module called {trainer.__module__}"
        yield Finding("problem", text, f"let {discovery.VARIABLE} name {discovery.shim_folder()} only")
        return
    ways = [f"by {state.pth}"] if state.by_pth else []
    ways += [f"by {discovery.VARIABLE}"] if state.by_environment or not ways else []
    yield Finding("ok", f"nnU-Net finds {_TRAINER}; announced {' and '.join(ways)}")


def _dataset(dataset: str, tell: Callable[[str], None]) -> Iterator[Finding]:
    try:
        # Imported here, so that the checks above can speak where nnU-Net cannot be imported.
        from nnunet_mtl.planning.folders import raw_folder

        raw = raw_folder(dataset)
        dataset_json = read_dataset_json(raw / "dataset.json")
        taskset = TaskSet.from_dataset_json(dataset_json, str(raw / "dataset.json"))
    except (UserError, ImportError) as error:
        yield Finding("problem", _one_line(error), "mend that first; nothing else of the data set was looked at")
        return
    name = raw.name
    preprocessed, results = (
        Path(os.environ.get(f"nnUNet_{place}", "")) / name for place in ("preprocessed", "results")
    )
    if not taskset.has_block:
        yield Finding("ok", f"{name} has no nnunet_mtl block: one task, every case annotated")
    else:
        tasks = ", ".join(task.name for task in taskset.tasks)
        yield Finding("ok", f"{name}: {len(taskset.cases)} cases, tasks {tasks}")
    yield from _cases(raw, dataset_json, taskset, tell)
    yield from _preprocessed(name, dataset_json, taskset, preprocessed / "dataset.json")
    yield from _postprocessing(taskset, results)


def _cases(raw: Path, dataset_json: dict[str, Any], taskset: TaskSet, tell: Callable[[str], None]) -> Iterator[Finding]:
    labels = _label_files(raw, dataset_json)
    try:
        taskset.require_cases(labels)
    except UserError as error:
        yield Finding("problem", _one_line(error), f"say in {raw / 'dataset.json'} what was annotated in them")
    surplus = sorted(set(taskset.cases) - set(labels))
    if surplus:
        text = f"cases of the block without a training image: {_some(surplus)}"
        yield Finding("warning", text, "mend the names, or remove them from the block")
    wrong = []
    for number, (case, label) in enumerate(labels.items(), start=1):
        tell(f"label file {number} of {len(labels)}: {case}")
        try:
            if not taskset.has_block or case in taskset.cases:
                taskset.check_leaves(case, _leaves(label, dataset_json))
        except UserError as error:
            wrong.append(_one_line(error))
    for text in wrong[:_SHOWN_CASES]:
        yield Finding("problem", text, "mend the label file, or add the task to the case's annotated ones")
    if len(wrong) > _SHOWN_CASES:
        yield Finding("problem", f"{len(wrong) - _SHOWN_CASES} more label files are wrong", "mend the ones above first")
    if labels and not wrong:
        yield Finding("ok", f"{len(labels)} label files hold only what their case's annotated tasks contain")


def _label_files(raw: Path, dataset_json: dict[str, Any]) -> dict[str, Path]:
    from nnunetv2.utilities.utils import (
        get_filenames_of_train_images_and_targets,
        get_identifiers_from_splitted_dataset_folder,
    )

    if "dataset" in dataset_json:  # nnU-Net's explicit list of files
        listed = get_filenames_of_train_images_and_targets(str(raw), {"dataset": dict(dataset_json["dataset"])})
        return {case: Path(files["label"]) for case, files in listed.items()}
    if not (raw / "imagesTr").is_dir():
        return {}
    ending = dataset_json["file_ending"]
    cases = get_identifiers_from_splitted_dataset_folder(str(raw / "imagesTr"), ending)
    return {str(case): raw / "labelsTr" / f"{case}{ending}" for case in cases}


def _leaves(label: Path, dataset_json: dict[str, Any]) -> list[int]:
    import numpy as np
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    try:
        reader = determine_reader_writer_from_dataset_json(dataset_json, verbose=False)
        values = np.unique(reader().read_seg(str(label))[0])
    except Exception as error:  # every file format has its own
        raise UnreadableLabelError(f"{label}: cannot be read: {_one_line(error)}") from error
    if not np.array_equal(values, np.rint(values)):
        raise UnreadableLabelError(f"{label}: holds values that are not integers, such as {values[values % 1 != 0][0]}")
    return [int(value) for value in values]


def _preprocessed(name: str, dataset_json: dict[str, Any], taskset: TaskSet, copy: Path) -> Iterator[Finding]:
    if not copy.is_file():
        yield Finding("ok", f"{name} is not planned yet")
        return
    remedy = f"nnunet_mtl sync -d {name}"
    try:
        copied = read_dataset_json(copy)
        stale = TaskSet.from_dataset_json(copied, str(copy)).fingerprint() != taskset.fingerprint()
    except UserError as error:
        yield Finding("problem", _one_line(error), remedy)
        return
    if copied.get("labels") != dataset_json.get("labels"):
        remedy = f"nnUNetv2_plan_and_preprocess -d {name}: the preprocessed label maps are of the old labels"
    if stale:
        yield Finding("problem", f"{copy}, which training reads, is not what nnUNet_raw says now", remedy)
    else:
        yield Finding("ok", f"{copy} has the same labels and block as nnUNet_raw")


def _postprocessing(taskset: TaskSet, results: Path) -> Iterator[Finding]:
    if all(all(taskset.annotated(case)) for case in taskset.cases):
        return
    for fitted in sorted({*results.glob("*/*/postprocessing.pkl"), *results.glob("*/*/validation/postprocessing.pkl")}):
        text = f"{fitted} was fitted on maps that hold only each case's annotated tasks; it can delete whole organs"
        yield Finding("warning", text, "do not apply it to predictions; delete it")


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN_CASES
    return ", ".join(names[:_SHOWN_CASES]) + (f" and {more} more" if more > 0 else "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
