"""Prediction: from images to label maps, and from label maps to better label maps."""

import argparse
from pathlib import Path

from nnunet_mtl.cli.command import Command, Group
from nnunet_mtl.cli.options import add_options, add_output, add_prediction_folders


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-i", required=True)
    add_output(parser, "the predictions")
    add_options(parser, "-d", "-p", "-tr", "-c")
    text = "folder of the model, instead of -d, -tr, -p and -c"
    parser.add_argument("-m", dest="model", type=Path, metavar="DIR", help=text)
    add_options(parser, "-f", "-step_size", "-chk")
    text = "processes that preprocess (3, or nnUNet_npp); 0: in this one"
    parser.add_argument("-npp", type=int, metavar="N", help=text)
    text = "processes that resample and write (3, or nnUNet_nps); 0: in this one"
    parser.add_argument("-nps", type=int, metavar="N", help=text)
    text = "predictions of a cascade's previous stage"
    parser.add_argument("-prev_stage_predictions", type=Path, metavar="DIR", help=text)
    text = "number of commands, one for each part, among which the cases are shared out (1)"
    parser.add_argument("-num_parts", type=int, metavar="N", help=text)
    parser.add_argument("-part_id", type=int, metavar="N", help="which part this command predicts, from 0 on")
    add_options(parser, "-device", "--disable_tta", "--verbose")
    parser.add_argument("--save_probabilities", action="store_true", help="write the probabilities too")
    add_options(parser, "--continue_prediction", "--disable_progress_bar")
    text = "keep the results of the whole case off the GPU, for cases too large for its memory"
    parser.add_argument("--not_on_device", action="store_true", help=text)
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="predict these tasks only")
    words = ("--save-per-task", "--save_per_task")
    text = "write the map of every task too, in a folder of the task's name"
    parser.add_argument(*words, action="store_true", help=text)


def _predict(options: argparse.Namespace) -> int:
    from nnunet_mtl.discovery import announce
    from nnunet_mtl.inference.predict import predict
    from nnunet_mtl.inference.predict_options import PredictOptions

    announce()
    report = predict(PredictOptions.from_namespace(options))
    print(report)
    return int(bool(report.failed))


def _cascade_predict_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", "-i", required=True)
    add_output(parser, "the label maps")
    text = "model folder of every task, stock or of this package"
    parser.add_argument("-m", dest="models", nargs="+", required=True, metavar="TASK=FOLDER", help=text)
    add_options(parser, "-f", help="folds (all numbered ones of a model), or all")
    add_options(parser, "-chk", "-step_size", "-device", "--disable_tta", "--verbose")
    add_options(parser, "--continue_prediction", "--disable_progress_bar")
    text = "margin around the parent for models that were not trained on crops (10); the other models store theirs"
    parser.add_argument("--margin", type=float, metavar="MM", help=text)


def _cascade_predict(options: argparse.Namespace) -> int:
    from nnunet_mtl.discovery import announce
    from nnunet_mtl.inference.cascade import predict_cascade
    from nnunet_mtl.inference.cascade_options import CascadeOptions
    from nnunet_mtl.planning.folders import raw_folder

    announce()
    report = predict_cascade(raw_folder(options.dataset), CascadeOptions.from_namespace(options))
    print(report)
    return int(bool(report.failed))


def _merge_predictions_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", required=True)
    add_prediction_folders(parser)
    add_output(parser, "the merged maps")


def _merge_predictions(options: argparse.Namespace) -> None:
    from nnunet_mtl.datasets.per_task.merge_predictions import merge_predictions
    from nnunet_mtl.planning.folders import raw_folder

    print(merge_predictions(raw_folder(options.dataset), options.folders, options.output))


def _postprocess_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", required=True)
    parser.add_argument("-i", dest="folder", type=Path, required=True, metavar="DIR", help="folder of predictions")
    add_output(parser, "the new maps")
    text = (
        "a rules.json; `published`, the rules of DoDNet; or `components`, which drops small components of every region "
        "(%(default)s)"
    )
    parser.add_argument("--rules", default="published", metavar="FILE", help=text)
    text = "with `--rules components`: the share of the largest component below which one is small (%(default)s)"
    parser.add_argument("--smallest", type=float, default=0.1, metavar="SHARE", help=text)


def _postprocess(options: argparse.Namespace) -> None:
    from nnunet_mtl.datasets.postprocess import postprocess
    from nnunet_mtl.planning.folders import raw_folder

    print(postprocess(raw_folder(options.dataset), options.folder, options.output, options.rules, options.smallest))


GROUP = Group(
    "prediction",
    (
        Command(
            "predict",
            "Predict as nnUNetv2_predict does, with the image-level answers, and single tasks if asked.",
            _predict_arguments,
            _predict,
            keeps_unset=False,
        ),
        Command(
            "cascade-predict",
            "Predict nested tasks with a network each, every one inside its parent's box. See docs/cascade.md.",
            _cascade_predict_arguments,
            _cascade_predict,
            keeps_unset=False,
        ),
        Command(
            "merge-predictions",
            "Merge the predictions of one network per task into maps of all tasks. See docs/multi_nets.md.",
            _merge_predictions_arguments,
            _merge_predictions,
        ),
        Command(
            "postprocess",
            "Keep or drop connected components of predictions, region by region. See docs/postprocessing.md.",
            _postprocess_arguments,
            _postprocess,
        ),
    ),
)
