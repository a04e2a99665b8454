"""Runs console commands one after another; the output goes into a log, and the terminal shows one line per command."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.lab.demo.page import Command

Progress = Callable[[str], None]


class CommandError(UserError):
    """A command of the chain failed."""


class CommandRunner:
    """Runs commands of this Python environment and remembers what it ran.

    Attributes:
        ran: Every finished command with its duration, in order.

    Args:
        environment: All environment variables of the commands.
        log: File to which the output of the commands is appended.
        progress: Called with one line at a time.
    """

    def __init__(self, environment: Mapping[str, str], log: Path, progress: Progress) -> None:
        self.ran: list[Command] = []
        self._environment = dict(environment)
        self._log = log
        self._progress = progress
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Report one line, preceded by the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        self._progress(f"[{minutes:2d}:{seconds:02d}] {text}")

    def run(self, *words: str, show: Callable[[str], str | None] = lambda _: None) -> None:
        """Run one command to its end.

        Args:
            *words: The command and its arguments.
            show: Turns a line of output into a line for the terminal; None keeps the line in the log only.

        Raises:
            CommandError: If the command does not end with status 0; the message has the last lines of its output.
        """
        line = shlex.join(words)
        self.say(line)
        before = time.monotonic()
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {line}\n")
            status, tail = self._follow(words, log.write, show)
        if status != 0:
            raise CommandError(f"`{line}` ended with status {status}; log: {self._log}; last lines:\n{tail}")
        self.ran.append(Command(line, time.monotonic() - before))

    def _follow(
        self, words: tuple[str, ...], write: Callable[[str], object], show: Callable[[str], str | None]
    ) -> tuple[int, str]:
        last: list[str] = []
        with subprocess.Popen(
            [_executable(words[0]), *words[1:]],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None  # because of PIPE
            for output in process.stdout:
                write(output)
                last = [*last[-14:], output]
                text = show(output.rstrip())
                if text is not None:
                    self.say(f"    {text}")
        return process.returncode, "".join(last)


def chain_environment(folder: Path, trainers: Path) -> dict[str, str]:
    """Return the variables for a chain that keeps everything in its own folder and finds the trainers.

    The user's own nnU-Net folders and switches are not passed on.

    Args:
        folder: Holds `nnUNet_raw`, `nnUNet_preprocessed` and `nnUNet_results`.
        trainers: Folder in which nnU-Net searches for trainers.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    folders = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    # Passive waiting: threads that spin while they wait take several times as long on a machine with other users.
    few_workers = {"nnUNet_def_n_proc": "2", "nnUNet_n_proc_DA": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**inherited, **folders, **few_workers, "nnUNet_extTrainer": str(trainers), "PYTHONUNBUFFERED": "1"}


def _executable(name: str) -> str:
    beside = Path(sys.executable).parent / name
    executable = str(beside) if beside.is_file() else shutil.which(name)
    if executable is None:
        raise CommandError(f"{name} is neither beside {sys.executable} nor on the PATH; install nnunet_mtl again")
    return executable
