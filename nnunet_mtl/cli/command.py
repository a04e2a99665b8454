"""What the command line knows of a command before the command runs; the standard library alone."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: Its word after `nnunet_mtl`.
        summary: One sentence for both `nnunet_mtl --help` and `nnunet_mtl NAME --help`.
        add_arguments: Adds the options to the command's parser. A default that the command line decides stands in the
            help text as `%(default)s`.
        run: Does the work, and imports here what the work needs. Returns the exit status; None is 0.
        keeps_unset: Whether options that are not given are None, or what `default` says. Otherwise they are absent
            from the namespace, and the defaults are those of the dataclass that `run` builds from it.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    keeps_unset: bool = True


@dataclass(frozen=True)
class Group:
    """Commands that stand under one heading of `nnunet_mtl --help`."""

    heading: str
    commands: tuple[Command, ...]


def no_arguments(_: argparse.ArgumentParser) -> None:
    """Add no option: the command's name says all."""


def print_progress(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)
