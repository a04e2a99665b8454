"""The `nnunet_mtl` command. It parses words and prints results; what a command does is imported when it runs."""

from nnunet_mtl.cli.command_line import main

__all__ = ["main"]
