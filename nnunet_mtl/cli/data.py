"""Data: the task block, the folds, and data sets made from other data sets."""

import argparse
from typing import Any

from nnunet_mtl.cli.command import Command, Group
from nnunet_mtl.cli.options import add_options, add_prediction_folders
from nnunet_mtl.common.errors import UserError


def _sync_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", required=True)


def _sync(options: argparse.Namespace) -> None:
    from nnunet_mtl.planning.sync import sync

    print(sync(options.dataset))


def _make_splits_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", required=True)
    parser.add_argument("--folds", type=int, default=5, help="number of folds (%(default)s)")
    parser.add_argument("--seed", type=int, default=12345, help="seed of the assignment (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing splits_final.json")


def _make_splits(options: argparse.Namespace) -> None:
    from nnunet_mtl.planning.splits import make_splits

    print(make_splits(options.dataset, n_folds=options.folds, seed=options.seed, overwrite=options.overwrite))


def _extract_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", required=True)
    words: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("-t", dest="tasks", metavar="TASK", **words, help="names of the tasks")
    parser.add_argument("-q", "--questions", metavar="NAME", **words, help="image-level questions, with the block")
    text = "keep the nnunet_mtl block, so that the trainers of this package learn it"
    parser.add_argument("--with_block", action="store_true", help=text)
    text = "crop around the task's parent with a margin of MM (10), for a network of a cascade; see docs/cascade.md"
    parser.add_argument("--inside_parent", type=float, nargs="?", const=10.0, metavar="MM", help=text)
    _add_new_dataset(parser)


def _extract(options: argparse.Namespace) -> None:
    from nnunet_mtl.datasets.per_task.extract import extract
    from nnunet_mtl.datasets.per_task.extract_inside import extract_inside
    from nnunet_mtl.planning.folders import raw_folder

    names = (raw_folder(options.dataset), options.tasks, options.target, options.name)
    if options.inside_parent is None:
        print(extract(*names, questions=options.questions, with_block=options.with_block))
    elif options.questions:
        raise UserError("-q: a question is about the whole image; leave it or --inside_parent out")
    else:
        print(extract_inside(*names, margin_mm=options.inside_parent, with_block=options.with_block))


def _complete_labels_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", required=True)
    add_prediction_folders(parser)
    _add_new_dataset(parser)
    text = "a region of a case whose mean probability is smaller becomes nnU-Net's ignore label (%(default)s)"
    parser.add_argument("--least_confidence", type=float, default=0.0, metavar="P", help=text)


def _complete_labels(options: argparse.Namespace) -> None:
    from nnunet_mtl.datasets.per_task.complete_labels import complete_labels
    from nnunet_mtl.planning.folders import raw_folder

    source = raw_folder(options.dataset)
    print(complete_labels(source, options.folders, options.target, options.name, options.least_confidence))


def _add_new_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", dest="target", type=int, required=True, metavar="ID", help="id of the new data set")
    parser.add_argument("--name", help="name of the new data set, after DatasetXXX_")


GROUP = Group(
    "data",
    (
        Command(
            "sync",
            "Copy the task block of the raw dataset.json to where training reads it.",
            _sync_arguments,
            _sync,
        ),
        Command(
            "make-splits",
            "Write folds that keep patients together and have every region annotated in every validation part.",
            _make_splits_arguments,
            _make_splits,
        ),
        Command(
            "extract",
            "Make a data set of single tasks, to train a separate network. See docs/multi_nets.md, docs/stl.md.",
            _extract_arguments,
            _extract,
        ),
        Command(
            "complete-labels",
            "Make a stock data set in which predictions fill what nobody annotated. See docs/multi_nets.md.",
            _complete_labels_arguments,
            _complete_labels,
        ),
    ),
)
