"""Lab: phantoms, the demonstration, the linear probe and the list of methods, none of which a training needs."""

import argparse
from pathlib import Path

from nnunet_mtl.cli.command import Command, Group, print_progress
from nnunet_mtl.cli.options import add_options


def _phantom_arguments(parser: argparse.ArgumentParser) -> None:
    from nnunet_mtl.lab.phantoms.kinds import KINDS, all_arguments

    add_options(parser, "-d", type=int, required=True, help="data set id")
    text = "; ".join(f"{name}: {kind.summary}" for name, kind in KINDS.items()) + " (%(default)s)"
    parser.add_argument("--kind", default="organs", metavar="KIND", help=text)
    parser.add_argument("--name", help="name of the data set, after DatasetXXX_")
    parser.add_argument("--overwrite", action="store_true", help="replace the phantoms in that folder")
    for name, (argument, kinds) in all_arguments().items():
        text = argument.help if len(kinds) == len(KINDS) else f"{argument.help} ({', '.join(kinds)})"
        if argument.type is bool:
            parser.add_argument(f"--{name}", action="store_true", default=None, help=text)
        else:
            parser.add_argument(f"--{name}", nargs=argument.number, type=argument.type, help=text)


def _phantom(options: argparse.Namespace) -> None:
    from nnunet_mtl.lab.phantoms.kinds import all_arguments, phantom_kind
    from nnunet_mtl.planning.folders import new_raw_folder

    kind = phantom_kind(options.kind)
    folder = new_raw_folder(options.dataset, options.name or kind.dataset)
    given = {name: vars(options)[name] for name in all_arguments() if vars(options)[name] is not None}
    kind.write(folder, given, print_progress, overwrite=options.overwrite)
    print(f"wrote {folder}; next: nnUNetv2_plan_and_preprocess -d {options.dataset} --verify_dataset_integrity")


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    text = "where everything is written (%(default)s)"
    parser.add_argument("--folder", type=Path, default=Path("nnunet_mtl_demo"), help=text)
    text = "phantoms, or five real scans (%(default)s)"
    parser.add_argument("--data", choices=("phantom", "real"), default="phantom", help=text)
    parser.add_argument("--source", type=Path, help="with --data real: the archive, where it cannot be downloaded")
    parser.add_argument("--seed", type=int, default=0, help="seed of the phantoms (%(default)s)")
    text = "where to compute (%(default)s)"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help=text)
    parser.add_argument("--quick", action="store_true", help="a few iterations: shows that it runs, learns nothing")
    parser.add_argument("--compare", action="store_true", help="also train stock nnU-Net, missing labels as background")


def _demo(options: argparse.Namespace) -> None:
    from nnunet_mtl.lab.demo.demonstration import DemoOptions, run_demo

    print(run_demo(DemoOptions.from_namespace(options), print_progress))


def _probe_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", "-c", required=True)
    add_options(parser, "-tr", "-p")
    add_options(parser, "-f", help="trained folds (0 1 2 3 4)")
    add_options(parser, "-chk", "-device")
    parser.add_argument("--question", dest="questions", nargs="+", metavar="NAME", help="answer these questions only")
    text = "folder of probe.json and probe.csv (probes/MODEL beside the folder of the model in nnUNet_results)"
    parser.add_argument("-o", dest="output", type=Path, metavar="DIR", help=text)
    parser.add_argument("--export", metavar="NAME", help="make the probe the head of a model with plans of this name")


def _probe(options: argparse.Namespace) -> None:
    from nnunet_mtl.discovery import announce
    from nnunet_mtl.lab.probe.run import ProbeOptions, run_probe

    announce()
    print(run_probe(ProbeOptions.from_namespace(options), print_progress))


def _methods_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d")
    add_options(parser, "-p", help="name of the data set's plans (nnUNetPlans), or a plans file")
    add_options(parser, "-c", help="configuration of the plans (3d_fullres)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _methods(options: argparse.Namespace) -> None:
    from nnunet_mtl.lab.methods.setting import chosen_setting
    from nnunet_mtl.lab.methods.table import method_table

    table = method_table(chosen_setting(options.dataset, options.plans, options.configuration))
    print(table.json() if options.json else table.text())


GROUP = Group(
    "lab",
    (
        Command(
            "phantom",
            "Write a data set of phantoms: partially labelled organs, or one of another kind. See docs/phantoms.md.",
            _phantom_arguments,
            _phantom,
        ),
        Command(
            "demo",
            "Run the whole chain on data made here, and write a page about it.",
            _demo_arguments,
            _demo,
        ),
        Command(
            "probe",
            "Say how well a linear probe on the frozen features of a trained model, stock too, answers the questions.",
            _probe_arguments,
            _probe,
            keeps_unset=False,
        ),
        Command(
            "methods",
            "List the methods: paper, where the task enters, passes for K tasks, added parameters. See docs/methods.",
            _methods_arguments,
            _methods,
        ),
    ),
)
