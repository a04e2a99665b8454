"""The checks of `nnunet_mtl doctor`: of the installation, and of a data set if one is named. Nothing is changed.

A fault on which nnU-Net itself stops is checked only if nnU-Net's message does not lead to the cause (a torchvision
that does not fit torch, a number of processes of 0). A fault that nnU-Net passes over in silence is always checked.
"""

import importlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement

from nnunet_mtl import discovery
from nnunet_mtl.checks.findings import Finding, report
from nnunet_mtl.common.messages import one_line

__all__ = ["Finding", "diagnose", "report"]

_TRAINER = "nnUNetTrainerMTLAttention"


def diagnose(dataset: str | None = None, progress: Callable[[str], None] | None = None) -> list[Finding]:
    """Check the installation and, if one is named, a data set.

    Args:
        dataset: Data set id ("900") or name ("Dataset900_Union"); every file of it is read.
        progress: Called with one line of text before each slow step.
    """
    tell = progress or (lambda line: None)
    tell("importing torch")
    findings = [*_versions(), *_device(), *_environment(os.environ)]
    tell("looking a trainer up through nnU-Net")
    findings += _discovery()
    if dataset is not None:
        findings += _dataset(dataset, tell)
    return findings


def _dataset(dataset: str, tell: Callable[[str], None]) -> Iterator[Finding]:
    try:
        # Imported here, so that the other checks can speak where nnU-Net cannot be imported.
        from nnunet_mtl.checks.dataset_checks import check_dataset
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        text = f"{dataset} was not looked at, because nnU-Net cannot be imported: {one_line(error)}"
        yield Finding("problem", text, "mend the installation and the environment first")
        return
    yield from check_dataset(dataset, tell)


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


def _device() -> Iterator[Finding]:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError, RuntimeError):
        return  # `_versions` has reported it
    if torch.cuda.is_available():
        yield Finding("ok", "torch finds a GPU")
        return
    device = "mps" if torch.backends.mps.is_available() else "cpu"
    # "ok", because nothing is wrong; but nnU-Net's commands take CUDA for granted
    remedy = f"nnUNetv2_train ... -device {device}, and the same for nnUNetv2_predict; ours take the CPU themselves"
    yield Finding("ok", f"torch finds no CUDA GPU: train and predict with -device {device}", remedy)


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
            f"{package} {version} cannot be imported: {one_line(error)}",
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
