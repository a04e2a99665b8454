"""Lets nnU-Net find the trainers: their folder stands in `nnUNet_extTrainer`, for a shell or for a Python environment.

No file of nnU-Net is changed, and the installation sets nothing. `env` prints a line for the shell. `enable` writes one
`.pth` file, which Python runs at start; `disable` removes the file. Both ways append to what the user has set.
"""

import contextlib
import io
import os
import shlex
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import one_line

VARIABLE = "nnUNet_extTrainer"
PTH_NAME = "nnunet_mtl_ext_trainer.pth"
_SHIM = "nnunet_mtl_shim.py"


class DiscoveryError(UserError):
    """The folder of the trainers cannot be announced, or nnU-Net does not find a trainer."""


@dataclass(frozen=True)
class DiscoveryState:
    """Where the shim folder is announced.

    Attributes:
        pth: The `.pth` file of this Python environment, whether it exists or not.
        by_pth: Whether the file exists and announces this installation's folder.
        pth_is_stale: Whether the file exists and announces another folder, or an earlier version wrote the file.
        announced: Whether `nnUNet_extTrainer` names the folder now, for whatever reason.
        by_environment: Whether the process was started with the folder in `nnUNet_extTrainer`. Outside Linux this is
            known only if the `.pth` file does not exist.
        missing: Entries of `nnUNet_extTrainer` that do not exist; nnU-Net skips them in silence.
    """

    pth: Path
    by_pth: bool
    pth_is_stale: bool
    announced: bool
    by_environment: bool
    missing: tuple[str, ...]


def shim_folder() -> Path:
    """Return the folder of this installation in which nnU-Net finds the trainers."""
    return Path(__file__).resolve().parent / "ext_trainers"


def env_line() -> str:
    """Return the shell line that announces the trainers: the user's entries come first, and no entry comes twice.

    Raises:
        DiscoveryError: If the path of the folder contains the character that separates the entries of the variable.
    """
    entries = _entries(os.environ.get(VARIABLE, ""))
    folder = _announceable_folder()
    if folder not in entries:
        entries.append(folder)
    return f"export {VARIABLE}={shlex.quote(os.pathsep.join(entries))}"


def enable(site_packages: Path | None = None) -> str:
    """Announce the trainers in every Python that this environment starts from now on.

    Args:
        site_packages: Where the `.pth` file goes; by default where this environment installs packages.

    Returns:
        One line for the user: what was done.

    Raises:
        DiscoveryError: If the folder cannot be written.
    """
    pth = _pth_path(site_packages)
    content = _pth_content(_announceable_folder())
    before = _read(pth)
    if before == content:
        return f"already enabled: {pth} announces {shim_folder()}"
    # A draft is written and moved: an interpreter that starts meanwhile reads the old file or the new file.
    draft = pth.with_name(f"{pth.name}.{os.getpid()}")
    try:
        draft.write_text(content, encoding="ascii")
        draft.replace(pth)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise _not_writable(pth, error) from error
    done = "enabled" if before is None else "enabled anew"
    return f"{done}: wrote {pth}; nnU-Net finds the trainers in every Python started from now on in {sys.prefix}"


def announce() -> None:
    """Announce the trainers in this process and those that it starts, whether or not `enable` was run."""
    entries = _entries(os.environ.get(VARIABLE, ""))
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*entries, str(shim_folder())]))


def disable(site_packages: Path | None = None) -> str:
    """Remove the `.pth` file that `enable` wrote.

    Args:
        site_packages: Folder of the `.pth` file; by default where this environment installs packages.

    Returns:
        One line for the user: whether a file was removed.

    Raises:
        DiscoveryError: If the file cannot be removed.
    """
    pth = _pth_path(site_packages)
    if _read(pth) is None:
        return f"not enabled: there is no {pth}"
    try:
        pth.unlink()
    except OSError as error:
        raise _not_writable(pth, error) from error
    return f"disabled: removed {pth}; a shell that ran `nnunet_mtl env` keeps its {VARIABLE}"


def state(site_packages: Path | None = None) -> DiscoveryState:
    """Return where the folder is announced now, and what is stale.

    Args:
        site_packages: Folder of the `.pth` file; by default where this environment installs packages.
    """
    pth = _pth_path(site_packages)
    content = _read(pth)
    folder = str(shim_folder())
    now = os.environ.get(VARIABLE, "")
    return DiscoveryState(
        pth=pth,
        by_pth=content == _pth_content(folder),
        pth_is_stale=content is not None and content != _pth_content(folder),
        announced=folder in _entries(now),
        by_environment=folder in _entries(_value_at_start(unknown=now if content is None else "")),
        missing=tuple(entry for entry in _entries(now) if not Path(entry).exists()),
    )


def is_found(trainer_name: str) -> bool:
    """Return whether nnU-Net finds the trainer; this imports all of nnU-Net's trainers, which takes seconds."""
    try:
        look_up(trainer_name)
    except DiscoveryError:
        return False
    return True


def look_up(trainer_name: str) -> type:
    """Return the trainer that `nnUNetv2_train -tr trainer_name` would run.

    Raises:
        DiscoveryError: If nnU-Net does not find the trainer, or an import fails; the message has the cause.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            # Imported here: `env`, `enable` and `disable` must not wait seconds for torch.
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

            trainer: type = recursive_find_trainer_class_by_name(trainer_name)
            return trainer
    except (Exception, SystemExit) as error:  # files in folders of the user raise anything when they are imported
        cause = f"{type(error).__name__}: {one_line(error)}"
        raise DiscoveryError(f"nnU-Net does not find {trainer_name}: {cause}") from error


def _entries(value: str) -> list[str]:
    return [entry for entry in value.split(os.pathsep) if entry]


def _announceable_folder() -> str:
    folder = str(shim_folder())
    if os.pathsep in folder:
        raise DiscoveryError(f"{folder}: a folder in {VARIABLE} cannot contain {os.pathsep!r}; install it elsewhere")
    return folder


def _pth_path(site_packages: Path | None) -> Path:
    return (site_packages or Path(sysconfig.get_path("purelib"))) / PTH_NAME


def _pth_content(folder: str) -> str:
    # Python runs this line at every start, also after nnunet_mtl was uninstalled: the line imports only what is loaded
    # already, and does nothing without the shim. It is ASCII, because Pythons read the file in different encodings.
    return (
        "# Written by `nnunet_mtl enable`, removed by `nnunet_mtl disable`.\n"
        "import os; (lambda os, key, folder: "
        f"os.path.isfile(os.path.join(folder, {_SHIM!r})) "
        "and folder not in os.environ.get(key, '').split(os.pathsep) "
        "and os.environ.update({key: os.pathsep.join(filter(None, (os.environ.get(key), folder)))})"
        f")(os, {VARIABLE!r}, {folder!a})\n"
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _value_at_start(unknown: str) -> str:
    # os.environ contains what the .pth file added; the kernel keeps the environment at the start of the process.
    try:
        block = Path("/proc/self/environ").read_bytes()
    except OSError:
        return unknown
    for item in block.split(b"\0"):
        key, _, value = item.partition(b"=")
        if key == os.fsencode(VARIABLE):
            return os.fsdecode(value)
    return ""


def _not_writable(pth: Path, error: OSError) -> DiscoveryError:
    return DiscoveryError(
        f'{pth}: cannot be changed ({error.strerror}); in each shell run this instead: eval "$(nnunet_mtl env)"'
    )
