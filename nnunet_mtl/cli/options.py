"""The options that several commands have, described once, and spelt as nnU-Net's commands spell them."""

import argparse
from pathlib import Path
from typing import Any

_OPTIONS: dict[str, dict[str, Any]] = {
    "-d": {"dest": "dataset", "metavar": "ID", "help": "data set id or name"},
    "-i": {
        "dest": "images",
        "type": Path,
        "metavar": "DIR",
        "help": "folder of the images, CASE_0000.ending and so on",
    },
    "-tr": {"dest": "trainer", "metavar": "TRAINER", "help": "class of the trainer (nnUNetTrainer)"},
    "-p": {"dest": "plans", "metavar": "PLANS", "help": "name of the plans (nnUNetPlans)"},
    "-c": {"dest": "configuration", "metavar": "CONFIGURATION", "help": "configuration, such as 3d_fullres"},
    "-f": {"dest": "folds", "nargs": "+", "metavar": "FOLD", "help": "folds (0 1 2 3 4), or all"},
    "-chk": {"dest": "checkpoint", "metavar": "FILE", "help": "file name of the weights (checkpoint_final.pth)"},
    "-step_size": {"type": float, "help": "step of the sliding window, as a share of the patch (0.5)"},
    "-device": {"help": "cuda, cpu or mps (cuda if there is one, else cpu)"},
    "--disable_tta": {"action": "store_true", "help": "do not mirror"},
    "--verbose": {"action": "store_true", "help": "print more, with the trace of a case that fails"},
    "--continue_prediction": {"action": "store_true", "help": "keep the predictions that exist and are whole"},
    "--disable_progress_bar": {"action": "store_true", "help": "no progress bars"},
}


def add_options(parser: argparse.ArgumentParser, *names: str, **details: Any) -> None:
    """Add options that several commands share.

    Args:
        parser: Parser of the command.
        names: Names of the options, as they are typed.
        details: Arguments of argparse's `add_argument` that differ in this command.
    """
    for name in names:
        parser.add_argument(name, **_OPTIONS[name] | details)


def add_output(parser: argparse.ArgumentParser, content: str) -> None:
    """Add the required option `-o` for a folder, called `output` in the namespace.

    Args:
        parser: Parser of the command.
        content: What the folder gets, to follow "folder of".
    """
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR", help=f"folder of {content}")


def add_prediction_folders(parser: argparse.ArgumentParser) -> None:
    """Add the option `-i` for the predictions of several networks, called `folders` in the namespace."""
    text = "folders of predictions, one folder for each network"
    parser.add_argument("-i", dest="folders", type=Path, nargs="+", required=True, metavar="DIR", help=text)
