"""The `nnunet_mtl` command: argument parsing only. Each command imports what it needs when it runs."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_mtl import __version__
from nnunet_mtl.common.errors import UserError

Subparsers = Any  # argparse gives its sub-parser object no public type


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after `nnunet_mtl`; by default those of the process.

    Returns:
        Exit status: 0 done, 1 the command found a problem, 2 something given was wrong.
    """
    parser = argparse.ArgumentParser(
        prog="nnunet_mtl", description="nnU-Net v2 that learns several tasks from partially labelled data."
    )
    parser.add_argument("--version", action="version", version=f"nnunet_mtl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_discovery, _doctor, _plan, _sync, _make_splits, _phantom, _predict, _probe, _evaluate, _demo):
        add(commands)
    _find_best(commands)
    for add in (_plan_published, _postprocess):  # as the papers did
        add(commands)
    for add in (_extract, _merge_predictions, _complete_labels, _cascade_predict):  # one network per task
        add(commands)
    _methods(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except UserError as error:
        print(f"nnunet_mtl: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nnunet_mtl: stopped", file=sys.stderr)
        return 130


def _command(
    commands: Subparsers, name: str, summary: str, run: Callable[[argparse.Namespace], int | None]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _dataset_argument(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("-d", dest="dataset", metavar="ID", required=required, help="data set id or name")


def _progress(text: str) -> None:
    print(text, flush=True)


def _discovery(commands: Subparsers) -> None:
    def printed(name: str) -> Callable[[argparse.Namespace], None]:
        def run(_: argparse.Namespace) -> None:
            from nnunet_mtl import discovery

            print(getattr(discovery, name)())

        return run

    _command(commands, "enable", "Let nnU-Net find the trainers in this Python environment.", printed("enable"))
    _command(commands, "disable", "Undo `enable`.", printed("disable"))
    _command(commands, "env", 'Print the shell line that does it once: eval "$(nnunet_mtl env)".', printed("env_line"))


def _doctor(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> int:
        from nnunet_mtl.checks.doctor import diagnose, report

        findings = diagnose(options.dataset, _progress)
        print(report(findings, every_detail=options.every_detail))
        return int(any(finding.level == "problem" for finding in findings))

    parser = _command(commands, "doctor", "Say what is wrong with the installation, or with a data set.", run)
    _dataset_argument(parser, required=False)
    text = "list every file that is wrong, not the first few of each kind"
    parser.add_argument("--all", dest="every_detail", action="store_true", help=text)


class _SetAction(argparse.Action):
    """Gathers settings; the word `help` among them lists all instead, whatever else is given or lacking."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if "help" in values:
            from nnunet_mtl.planning.settings_help import settings_help

            print(settings_help())
            parser.exit()
        vars(namespace)[self.dest] = [*vars(namespace)[self.dest], *values]


def _plan(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.planning.network_size import NetworkSize
        from nnunet_mtl.planning.plans import write_plans

        network = NetworkSize(
            patch_size=options.patch_size and tuple(options.patch_size),
            batch_size=options.batch_size,
            features_per_stage=options.features and tuple(options.features),
        )
        path = write_plans(
            options.dataset,
            name=options.name,
            source=options.source,
            assignments=options.assignments,
            network=network,
            configurations=options.configurations,
            overwrite=options.overwrite,
        )
        print(f"wrote {path}; train with -p {options.name}")

    parser = _command(
        commands, "plan", "Write settings into new plans; nothing is preprocessed again. See the README.", run
    )
    _dataset_argument(parser)
    parser.add_argument("--from", dest="source", default="nnUNetPlans", metavar="PLANS", help="plans to start from")
    parser.add_argument("--name", required=True, metavar="PLANS", help="name of the new plans")
    parser.add_argument(
        "--set",
        dest="assignments",
        action=_SetAction,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings; `--set help` lists all",
    )
    parser.add_argument("-c", dest="configurations", nargs="+", default=[], help="configurations to resize")
    parser.add_argument("--patch_size", nargs="+", type=int, help="voxels, in the axis order of the plans")
    parser.add_argument("--batch_size", type=int, help="patches in a batch")
    parser.add_argument("--features", nargs="+", type=int, help="channels of every stage, full resolution first")
    parser.add_argument("--overwrite", action="store_true", help="replace other plans of that name")


def _plan_published(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from importlib import import_module

        module = import_module("nnunet_mtl.planners.nnUNetPlannerMTLPublished")
        planner = module.nnUNetPlannerMTLPublished(options.dataset)
        planner.plan_experiment()
        plans = planner.plans_identifier
        print(
            f"next: nnUNetv2_preprocess -d {options.dataset} -plans_name {plans} -c 3d_fullres; train with -p {plans}"
        )

    summary = "Write plans of DoDNet's and TGNet's published training: network, patch, spacing, loss, schedule."
    _dataset_argument(_command(commands, "plan-published", summary, run))


def _sync(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.planning.sync import sync

        print(sync(options.dataset))

    parser = _command(commands, "sync", "Copy the task block of the raw dataset.json to where training reads it.", run)
    _dataset_argument(parser)


def _make_splits(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.planning.splits import make_splits

        print(make_splits(options.dataset, n_folds=options.folds, seed=options.seed, overwrite=options.overwrite))

    summary = "Write folds that keep patients together and have every region annotated in every validation part."
    parser = _command(commands, "make-splits", summary, run)
    _dataset_argument(parser)
    parser.add_argument("--folds", type=int, default=5, help="number of folds")
    parser.add_argument("--seed", type=int, default=12345, help="of the assignment")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing splits_final.json")


def _phantom(commands: Subparsers) -> None:
    from nnunet_mtl.lab.phantoms.kinds import KINDS, all_arguments, phantom_kind

    arguments = all_arguments()

    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.planning.folders import new_raw_folder

        kind = phantom_kind(options.kind)
        folder = new_raw_folder(options.dataset, options.name or kind.dataset)
        given = {name: vars(options)[name] for name in arguments if vars(options)[name] is not None}
        kind.write(folder, given, _progress, overwrite=options.overwrite)
        print(f"wrote {folder}; next: nnUNetv2_plan_and_preprocess -d {options.dataset} --verify_dataset_integrity")

    summary = "Write a data set of phantoms: partially labelled organs, or one of another kind. See docs/phantoms.md."
    parser = _command(commands, "phantom", summary, run)
    parser.formatter_class = argparse.HelpFormatter  # every kind has defaults of its own
    parser.add_argument("-d", dest="dataset", type=int, required=True, metavar="ID", help="data set id")
    parser.add_argument("--kind", default="organs", metavar="KIND", help="; ".join(_kinds(KINDS)) + " (organs)")
    parser.add_argument("--name", help="name of the data set, after DatasetXXX_")
    parser.add_argument("--overwrite", action="store_true", help="replace the phantoms in that folder")
    for name, (argument, kinds) in arguments.items():
        text = argument.help if len(kinds) == len(KINDS) else f"{argument.help} ({', '.join(kinds)})"
        if argument.type is bool:
            parser.add_argument(f"--{name}", action="store_true", default=None, help=text)
        else:
            parser.add_argument(f"--{name}", nargs=argument.number, type=argument.type, help=text)


def _kinds(kinds: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {kind.summary}" for name, kind in kinds.items()]


# Options of predict that take a value, as nnU-Net's commands spell them: name here, type, help.
_PREDICT_OPTIONS: dict[str, tuple[str, Any, str]] = {
    "-i": ("images", Path, "folder of the images, CASE_0000.ending and so on"),
    "-o": ("output", Path, "folder of the predictions"),
    "-d": ("dataset", str, "data set id or name"),
    "-p": ("plans", str, "name of the plans (nnUNetPlans)"),
    "-tr": ("trainer", str, "class of the trainer (nnUNetTrainer)"),
    "-c": ("configuration", str, "configuration, such as 3d_fullres"),
    "-m": ("model", Path, "folder of the model, instead of -d, -tr, -p and -c"),
    "-step_size": ("step_size", float, "step of the sliding window, as a share of the patch (0.5)"),
    "-chk": ("checkpoint", str, "file name of the weights (checkpoint_final.pth)"),
    "-npp": ("npp", int, "processes that preprocess (3, or nnUNet_npp); 0: in this one"),
    "-nps": ("nps", int, "processes that resample and write (3, or nnUNet_nps); 0: in this one"),
    "-prev_stage_predictions": ("prev_stage_predictions", Path, "predictions of a cascade's previous stage"),
    "-num_parts": ("num_parts", int, "in how many parts, each a command of its own, the cases are shared out (1)"),
    "-part_id": ("part_id", int, "which part this is, from 0 on"),
    "-device": ("device", str, "cuda, cpu or mps (cuda if there is one, else cpu)"),
}
_PREDICT_FLAGS = {
    "--disable_tta": "do not mirror",
    "--verbose": "say more, with the trace of what fails",
    "--save_probabilities": "write the probabilities too",
    "--continue_prediction": "keep the cases that are there and whole",
    "--disable_progress_bar": "no progress bars",
    "--not_on_device": "keep the whole case's results off the GPU, for cases too large for it",
}


def _predict(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> int:
        from nnunet_mtl.inference.predict import predict
        from nnunet_mtl.inference.predict_options import PredictOptions

        _find_own_trainers()
        report = predict(PredictOptions.from_namespace(options))
        print(report)
        return int(bool(report.failed))

    summary = "Predict as nnUNetv2_predict does, with the image-level answers, and single tasks if asked."
    parser = _command(commands, "predict", summary, run)
    # What is not given is left to the one who reads the options.
    parser.formatter_class = argparse.HelpFormatter
    for word, (name, kind, text) in _PREDICT_OPTIONS.items():
        parser.add_argument(
            word, dest=name, type=kind, required=word in ("-i", "-o"), default=argparse.SUPPRESS, help=text
        )
    for word, text in _PREDICT_FLAGS.items():
        parser.add_argument(word, action="store_true", help=text)
    parser.add_argument("-f", dest="folds", nargs="+", default=argparse.SUPPRESS, help="folds (0 1 2 3 4), or all")
    parser.add_argument("--tasks", nargs="+", default=argparse.SUPPRESS, metavar="NAME", help="only these tasks")
    words = ("--save-per-task", "--save_per_task")
    parser.add_argument(*words, action="store_true", help="also each task's own map, in a folder of its name")


def _find_own_trainers() -> None:
    """Let this process find the trainers of this package, whether or not `enable` was run."""
    from nnunet_mtl import discovery

    announced = [path for path in os.environ.get(discovery.VARIABLE, "").split(os.pathsep) if path]
    os.environ[discovery.VARIABLE] = os.pathsep.join(dict.fromkeys([*announced, str(discovery.shim_folder())]))


def _probe(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.lab.probe.run import ProbeOptions, run_probe

        _find_own_trainers()
        print(run_probe(ProbeOptions.from_namespace(options), _progress))

    summary = "Say how well a linear probe on the frozen features of a trained model, stock too, answers the questions."
    parser = _command(commands, "probe", summary, run)
    parser.formatter_class = argparse.HelpFormatter  # what is not given is left to the one who reads the options
    _dataset_argument(parser)
    given: dict[str, Any] = {"default": argparse.SUPPRESS}
    parser.add_argument("-c", dest="configuration", required=True, help="configuration, such as 3d_fullres")
    parser.add_argument("-tr", dest="trainer", **given, help="class of the trainer (nnUNetTrainer)")
    parser.add_argument("-p", dest="plans", **given, help="name of the plans (nnUNetPlans)")
    parser.add_argument("-f", dest="folds", nargs="+", **given, help="trained folds (0 1 2 3 4)")
    parser.add_argument("-chk", dest="checkpoint", **given, help="file name of the weights (checkpoint_final.pth)")
    parser.add_argument("-device", **given, help="cuda, cpu or mps (cuda if there is one, else cpu)")
    words = {"nargs": "+", "metavar": "NAME", **given}
    parser.add_argument("--question", dest="questions", **words, help="only these questions")
    place = "folder of probe.json and probe.csv (probes/MODEL beside the folder of the model in nnUNet_results)"
    parser.add_argument("-o", dest="output", type=Path, **given, help=place)
    parser.add_argument("--export", metavar="NAME", **given, help="make the probe the head of a model with these plans")


def _evaluate(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.evaluation.evaluate_options import EvaluationOptions, run_evaluation
        from nnunet_mtl.planning.folders import raw_folder

        print(run_evaluation(EvaluationOptions.from_namespace(raw_folder(options.dataset), options), _progress))

    parser = _command(
        commands, "evaluate", "Score predictions by what was annotated; compare runs. See docs/evaluation.md.", run
    )
    _dataset_argument(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-pred", type=Path, metavar="DIR", help="folder of predictions")
    what.add_argument("--runs", type=Path, nargs="+", metavar="DIR", help="folders to compare: predictions or results")
    parser.add_argument("-ref", type=Path, required=True, metavar="DIR", help="folder of reference label maps")
    parser.add_argument("-o", dest="output", type=Path, metavar="DIR", help="results; by default beside what is scored")
    parser.add_argument("-np", dest="n_processes", type=int, default=2, metavar="N", help="cases at once")
    parser.add_argument("--fully_labelled", action="store_true", help="every region is annotated in every reference")
    parser.add_argument(
        "--tolerance", action="extend", nargs="+", default=[], metavar="MM|REGION=MM", help="of NSD (2 mm)"
    )
    parser.add_argument("--hd95", choices=("maximum", "pooled"), default="maximum", help="of the directed percentiles")
    parser.add_argument("--both_empty", choices=("unavailable", "perfect"), default="unavailable", help="metrics then")
    parser.add_argument("--one_empty", choices=("diagonal", "constant"), default="diagonal", help="distances then")
    parser.add_argument(
        "--lesions",
        nargs="*",
        metavar="REGION",
        help="whose components are lesions; by default slots named tumour or lesion",
    )
    parser.add_argument("--lesion_share", type=float, default=0.0, help="of a lesion that must be covered to be found")
    parser.add_argument("--lesion_voxels", type=int, default=1, help="smaller lesions do not count, drawn or predicted")
    parser.add_argument("--single_task", type=Path, nargs="+", default=[], metavar="DIR", help="runs the gain is over")
    parser.add_argument(
        "--ranking", choices=("aggregate", "rank"), default="aggregate", help="means then ranks, or ranks then means"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="images, for pictures of worst, median, best case")
    parser.add_argument("--no_figures", action="store_true", help="tables only")


def _find_best(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.inference.find_best import FindBestOptions, find_best

        find_best(FindBestOptions.from_namespace(options))

    summary = "Choose among trained models as nnUNetv2_find_best_configuration does, by what was annotated."
    parser = _command(commands, "find-best", summary, run)
    parser.formatter_class = argparse.HelpFormatter  # -np is left to nnU-Net
    given: dict[str, Any] = {"nargs": "+"}
    parser.add_argument("dataset", metavar="dataset_name_or_id", help="data set id or name")
    parser.add_argument("-p", dest="plans", default=["nnUNetPlans"], **given, help="names of plans (nnUNetPlans)")
    configurations = ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"]
    parser.add_argument("-c", dest="configurations", default=configurations, **given, help="configurations (all)")
    parser.add_argument("-tr", dest="trainers", default=["nnUNetTrainer"], **given, help="trainers (nnUNetTrainer)")
    parser.add_argument("-np", dest="n_processes", type=int, help="processes (nnUNet_def_n_proc, or 8)")
    parser.add_argument("-f", dest="folds", type=int, default=[0, 1, 2, 3, 4], **given, help="folds (0 1 2 3 4)")
    parser.add_argument("--disable_ensembling", action="store_true", help="try single models only")
    parser.add_argument("--no_overwrite", action="store_true", help="keep what an earlier call merged")


def _demo(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.lab.demo.demonstration import DemoOptions, run_demo

        print(run_demo(DemoOptions.from_namespace(options), _progress))

    parser = _command(commands, "demo", "Run the whole chain on data made here, and write a page about it.", run)
    parser.add_argument("--folder", type=Path, default=Path("nnunet_mtl_demo"), help="where everything is written")
    parser.add_argument("--data", choices=("phantom", "real"), default="phantom", help="phantoms, or five real scans")
    parser.add_argument("--source", type=Path, help="with --data real: the archive, where it cannot be downloaded")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument("--quick", action="store_true", help="a few iterations: shows that it runs, learns nothing")
    parser.add_argument("--compare", action="store_true", help="also train stock nnU-Net, missing labels as background")


def _methods(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.lab.methods.setting import chosen_setting
        from nnunet_mtl.lab.methods.table import method_table

        table = method_table(chosen_setting(options.dataset, options.plans, options.configuration))
        print(table.json() if options.json else table.text())

    summary = "List the methods: paper, where the task enters, passes for K tasks, added parameters. See docs/methods."
    parser = _command(commands, "methods", summary, run)
    parser.formatter_class = argparse.HelpFormatter  # without -d the plans are nobody's
    _dataset_argument(parser, required=False)
    parser.add_argument("-p", dest="plans", help="name of the data set's plans (nnUNetPlans), or a plans file")
    parser.add_argument("-c", dest="configuration", help="configuration of the plans (3d_fullres)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _postprocess(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.datasets.postprocess import postprocess
        from nnunet_mtl.planning.folders import raw_folder

        source = raw_folder(options.dataset)
        print(postprocess(source, options.folder, options.output, options.rules, options.smallest))

    summary = "Keep or drop connected components of predictions, region by region. See docs/postprocessing.md."
    parser = _command(commands, "postprocess", summary, run)
    _dataset_argument(parser)
    parser.add_argument("-i", dest="folder", type=Path, required=True, metavar="DIR", help="folder of predictions")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR", help="folder of the new maps")
    rules = "rules.json; or `published`, those of DoDNet; or `components`: small ones are dropped, in every region"
    parser.add_argument("--rules", default="published", metavar="FILE", help=rules)
    help_text = "with `--rules components`: the share of the largest component that is not small"
    parser.add_argument("--smallest", type=float, default=0.1, metavar="SHARE", help=help_text)


def _extract(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.datasets.per_task.extract import extract
        from nnunet_mtl.datasets.per_task.extract_inside import extract_inside
        from nnunet_mtl.planning.folders import raw_folder

        what = (raw_folder(options.dataset), options.tasks, options.target, options.name)
        if options.inside_parent is None:
            print(extract(*what, questions=options.questions, with_block=options.with_block))
        elif options.questions:
            raise UserError("-q: a question is about the whole image; leave it or --inside_parent out")
        else:
            print(extract_inside(*what, margin_mm=options.inside_parent, with_block=options.with_block))

    summary = "Make a data set of single tasks, for a network of its own. See docs/multi_nets.md, docs/stl.md."
    parser = _command(commands, "extract", summary, run)
    _dataset_argument(parser)
    words: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("-t", dest="tasks", metavar="TASK", **words, help="names of the tasks")
    parser.add_argument("-q", "--questions", metavar="NAME", **words, help="image-level questions, with the block")
    text = "keep the nnunet_mtl block, so that the trainers of this package learn it"
    parser.add_argument("--with_block", action="store_true", help=text)
    text = "crops around the task's parent and MM more (10), for a network of a cascade; see docs/cascade.md"
    parser.add_argument("--inside_parent", type=float, nargs="?", const=10.0, metavar="MM", help=text)
    _new_dataset_arguments(parser)


def _merge_predictions(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.datasets.per_task.merge_predictions import merge_predictions
        from nnunet_mtl.planning.folders import raw_folder

        print(merge_predictions(raw_folder(options.dataset), options.folders, options.output))

    summary = "Merge the predictions of one network per task into maps of all tasks. See docs/multi_nets.md."
    parser = _command(commands, "merge-predictions", summary, run)
    _dataset_argument(parser)
    _prediction_folders_argument(parser)
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR", help="folder of the merged maps")


def _complete_labels(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> None:
        from nnunet_mtl.datasets.per_task.complete_labels import complete_labels
        from nnunet_mtl.planning.folders import raw_folder

        source = raw_folder(options.dataset)
        print(complete_labels(source, options.folders, options.target, options.name, options.least_confidence))

    summary = "Make a stock data set in which predictions fill what nobody annotated. See docs/multi_nets.md."
    parser = _command(commands, "complete-labels", summary, run)
    _dataset_argument(parser)
    _prediction_folders_argument(parser)
    _new_dataset_arguments(parser)
    text = "a region of a case whose mean probability is smaller becomes nnU-Net's ignore label"
    parser.add_argument("--least_confidence", type=float, default=0.0, metavar="P", help=text)


def _cascade_predict(commands: Subparsers) -> None:
    def run(options: argparse.Namespace) -> int:
        from nnunet_mtl.inference.cascade import predict_cascade
        from nnunet_mtl.inference.cascade_options import CascadeOptions
        from nnunet_mtl.planning.folders import raw_folder

        _find_own_trainers()
        report = predict_cascade(raw_folder(options.dataset), CascadeOptions.from_namespace(options))
        print(report)
        return int(bool(report.failed))

    summary = "Predict nested tasks with a network each, every one inside its parent's box. See docs/cascade.md."
    parser = _command(commands, "cascade-predict", summary, run)
    parser.formatter_class = argparse.HelpFormatter  # what is not given is left to the one who reads the options
    _dataset_argument(parser)
    given: dict[str, Any] = {"default": argparse.SUPPRESS}
    parser.add_argument("-i", dest="images", type=Path, required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR", help="folder of the label maps")
    text = "model folder of each task, stock or of this package"
    parser.add_argument("-m", dest="models", nargs="+", required=True, metavar="TASK=FOLDER", help=text)
    parser.add_argument("-f", dest="folds", nargs="+", **given, help="folds (all numbered ones of a model), or all")
    for word in ("-chk", "-step_size", "-device"):
        name, kind, text = _PREDICT_OPTIONS[word]
        parser.add_argument(word, dest=name, type=kind, **given, help=text)
    for word in ("--disable_tta", "--verbose", "--continue_prediction", "--disable_progress_bar"):
        parser.add_argument(word, action="store_true", help=_PREDICT_FLAGS[word])
    text = "around the parent, in mm, for models not trained on crops (10); the others know theirs"
    parser.add_argument("--margin", type=float, metavar="MM", **given, help=text)


def _new_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    given: dict[str, Any] = {"type": int, "required": True, "metavar": "ID"}
    parser.add_argument("-o", dest="target", **given, help="id of the new data set")
    parser.add_argument("--name", help="of the new data set, after DatasetXXX_")


def _prediction_folders_argument(parser: argparse.ArgumentParser) -> None:
    text = "folders of predictions, of one network each"
    parser.add_argument("-i", dest="folders", type=Path, nargs="+", required=True, metavar="DIR", help=text)
