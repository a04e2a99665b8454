"""Setting up: how nnU-Net finds the trainers, and whether all is in order."""

import argparse
from collections.abc import Callable

from nnunet_mtl.cli.command import Command, Group, no_arguments, print_progress
from nnunet_mtl.cli.options import add_options


def _prints(name: str) -> Callable[[argparse.Namespace], None]:
    """Return a command that prints what a function of `nnunet_mtl.discovery` returns."""

    def run(_: argparse.Namespace) -> None:
        from nnunet_mtl import discovery

        print(getattr(discovery, name)())

    return run


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d")
    text = "list every file that is wrong, not the first few of each kind"
    parser.add_argument("--all", dest="every_detail", action="store_true", help=text)


def _doctor(options: argparse.Namespace) -> int:
    from nnunet_mtl.checks.doctor import diagnose, report

    findings = diagnose(options.dataset, print_progress)
    print(report(findings, every_detail=options.every_detail))
    return int(any(finding.level == "problem" for finding in findings))


GROUP = Group(
    "setting up",
    (
        Command("enable", "Let nnU-Net find the trainers in this Python environment.", no_arguments, _prints("enable")),
        Command("disable", "Undo `enable`.", no_arguments, _prints("disable")),
        Command(
            "env",
            'Print the line that lets nnU-Net find the trainers in one shell: eval "$(nnunet_mtl env)".',
            no_arguments,
            _prints("env_line"),
        ),
        Command("doctor", "Say what is wrong with the installation, or with a data set.", _doctor_arguments, _doctor),
    ),
)
