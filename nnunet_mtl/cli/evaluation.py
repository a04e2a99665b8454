"""Evaluation: scores of predictions, and the choice among trained models."""

import argparse
from pathlib import Path
from typing import Any

from nnunet_mtl.cli.command import Command, Group, print_progress
from nnunet_mtl.cli.options import add_options


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", required=True)
    runs = parser.add_mutually_exclusive_group(required=True)
    runs.add_argument("-pred", type=Path, metavar="DIR", help="folder of predictions")
    text = "folders to compare, of predictions or of results"
    runs.add_argument("--runs", type=Path, nargs="+", metavar="DIR", help=text)
    parser.add_argument("-ref", type=Path, required=True, metavar="DIR", help="folder of reference label maps")
    text = "folder of the results (beside the folder that is scored)"
    parser.add_argument("-o", dest="output", type=Path, metavar="DIR", help=text)
    text = "number of cases that are scored at the same time (%(default)s)"
    parser.add_argument("-np", dest="n_processes", type=int, default=2, metavar="N", help=text)
    parser.add_argument("--fully_labelled", action="store_true", help="every region is annotated in every reference")
    _add_conventions(parser)
    text = "regions whose components are lesions (slots named tumour or lesion)"
    parser.add_argument("--lesions", nargs="*", metavar="REGION", help=text)
    text = "share of a lesion that must be covered for the lesion to be found (%(default)s)"
    parser.add_argument("--lesion_share", type=float, default=0.0, help=text)
    text = "fewest voxels of a lesion that counts, drawn or predicted (%(default)s)"
    parser.add_argument("--lesion_voxels", type=int, default=1, help=text)
    text = "runs of one task each, over which the multi-task gain is computed"
    parser.add_argument("--single_task", type=Path, nargs="+", default=[], metavar="DIR", help=text)
    text = "means of the cases, then ranks; or ranks in every case, then their means (%(default)s)"
    parser.add_argument("--ranking", choices=("aggregate", "rank"), default="aggregate", help=text)
    text = "folder of images, for pictures of the worst, median and best case"
    parser.add_argument("--images", type=Path, metavar="DIR", help=text)
    parser.add_argument("--no_figures", action="store_true", help="tables only")


def _add_conventions(parser: argparse.ArgumentParser) -> None:
    """Add the options for what published metrics define in several ways."""
    text = "tolerance of the normalised surface Dice (2 mm), for all regions or for one"
    parser.add_argument("--tolerance", action="extend", nargs="+", default=[], metavar="MM|REGION=MM", help=text)
    text = "HD95: larger of the two directed percentiles, or percentile of all distances pooled (%(default)s)"
    parser.add_argument("--hd95", choices=("maximum", "pooled"), default="maximum", help=text)
    text = "metrics where both masks are empty (%(default)s)"
    parser.add_argument("--both_empty", choices=("unavailable", "perfect"), default="unavailable", help=text)
    text = "distances where one mask is empty (%(default)s)"
    parser.add_argument("--one_empty", choices=("diagonal", "constant"), default="diagonal", help=text)


def _evaluate(options: argparse.Namespace) -> None:
    from nnunet_mtl.evaluation.evaluate_options import EvaluationOptions, run_evaluation
    from nnunet_mtl.planning.folders import raw_folder

    print(run_evaluation(EvaluationOptions.from_namespace(raw_folder(options.dataset), options), print_progress))


def _find_best_arguments(parser: argparse.ArgumentParser) -> None:
    words: dict[str, Any] = {"nargs": "+"}
    parser.add_argument("dataset", metavar="dataset_name_or_id", help="data set id or name")
    parser.add_argument("-p", dest="plans", default=["nnUNetPlans"], **words, help="names of plans (nnUNetPlans)")
    configurations = ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"]
    parser.add_argument("-c", dest="configurations", default=configurations, **words, help="configurations (all)")
    parser.add_argument("-tr", dest="trainers", default=["nnUNetTrainer"], **words, help="trainers (nnUNetTrainer)")
    parser.add_argument("-np", dest="n_processes", type=int, help="processes (nnUNet_def_n_proc, or 8)")
    parser.add_argument("-f", dest="folds", type=int, default=[0, 1, 2, 3, 4], **words, help="folds (0 1 2 3 4)")
    parser.add_argument("--disable_ensembling", action="store_true", help="try single models only")
    parser.add_argument("--no_overwrite", action="store_true", help="keep the predictions that an earlier call merged")


def _find_best(options: argparse.Namespace) -> None:
    from nnunet_mtl.inference.find_best import FindBestOptions, find_best

    find_best(FindBestOptions.from_namespace(options))


GROUP = Group(
    "evaluation",
    (
        Command(
            "evaluate",
            "Score predictions by what was annotated; compare runs. See docs/evaluation.md.",
            _evaluate_arguments,
            _evaluate,
        ),
        Command(
            "find-best",
            "Choose among trained models as nnUNetv2_find_best_configuration does, by what was annotated.",
            _find_best_arguments,
            _find_best,
        ),
    ),
)
