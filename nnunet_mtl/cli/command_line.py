"""From the words after `nnunet_mtl` to one command, and from its outcome to an exit status."""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence

from nnunet_mtl import __version__
from nnunet_mtl.cli import data, evaluation, lab, prediction, setting_up, training
from nnunet_mtl.cli.command import Command, Group
from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, shown

GROUPS = (setting_up.GROUP, data.GROUP, training.GROUP, prediction.GROUP, evaluation.GROUP, lab.GROUP)
COMMANDS = {command.name: command for group in GROUPS for command in group.commands}
_NAME_WIDTH = 21


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after `nnunet_mtl`; None takes those of the process.

    Returns:
        Exit status: 0 done, 1 the command found a problem, 2 something given was wrong, 130 stopped with Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
    elif not words[0].startswith("-") and words[0] not in COMMANDS:
        nearest = did_you_mean(words[0], COMMANDS)
        parser.error(f"unknown command {shown(words[0])}{nearest}; `nnunet_mtl --help` lists all commands")
    options = parser.parse_args(words)
    try:
        return int(options.run(options) or 0)
    except UserError as error:
        print(f"nnunet_mtl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nnunet_mtl: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet_mtl",
        description="nnU-Net v2 that learns several tasks from partially labelled data.",
        epilog="\n\n".join(_listing(group) for group in GROUPS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nnunet_mtl {__version__}")
    # The epilog lists the commands under their headings; argparse itself has no headings for commands.
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, help="one of the commands below")
    for command in COMMANDS.values():
        unset = None if command.keeps_unset else argparse.SUPPRESS
        subparser = subparsers.add_parser(command.name, description=command.summary, argument_default=unset)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _listing(group: Group) -> str:
    return "\n".join([f"{group.heading}:", *(_entry(command) for command in group.commands)])


def _entry(command: Command) -> str:
    width = max(shutil.get_terminal_size().columns - 2, 2 * _NAME_WIDTH)
    indent = " " * _NAME_WIDTH
    return textwrap.fill(
        command.summary, width, initial_indent=f"  {command.name}".ljust(_NAME_WIDTH), subsequent_indent=indent
    )
