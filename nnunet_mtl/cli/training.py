"""Training: the plans that nnU-Net's own `nnUNetv2_train` trains with."""

import argparse
from typing import Any

from nnunet_mtl.cli.command import Command, Group
from nnunet_mtl.cli.options import add_options


class _SetAction(argparse.Action):
    """Gathers settings; with `help` among them lists every setting and exits, whatever else is given or lacking."""

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


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", required=True)
    text = "plans to start from (%(default)s)"
    parser.add_argument("--from", dest="source", default="nnUNetPlans", metavar="PLANS", help=text)
    parser.add_argument("--name", required=True, metavar="PLANS", help="name of the new plans")
    parser.add_argument(
        "--set",
        dest="assignments",
        action=_SetAction,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings; `--set help` lists every setting",
    )
    parser.add_argument("-c", dest="configurations", nargs="+", default=[], help="configurations to resize")
    parser.add_argument("--patch_size", nargs="+", type=int, help="voxels, in the axis order of the plans")
    parser.add_argument("--batch_size", type=int, help="patches in a batch")
    parser.add_argument("--features", nargs="+", type=int, help="channels of every stage, full resolution first")
    parser.add_argument("--overwrite", action="store_true", help="replace other plans of that name")


def _plan(options: argparse.Namespace) -> None:
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


def _plan_published_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "-d", required=True)


def _plan_published(options: argparse.Namespace) -> None:
    from nnunet_mtl.planners.nnUNetPlannerMTLPublished import nnUNetPlannerMTLPublished

    planner = nnUNetPlannerMTLPublished(options.dataset)
    planner.plan_experiment()
    plans = planner.plans_identifier
    print(f"next: nnUNetv2_preprocess -d {options.dataset} -plans_name {plans} -c 3d_fullres; train with -p {plans}")


GROUP = Group(
    "training",
    (
        Command(
            "plan",
            "Write settings into new plans; nothing is preprocessed again. See docs/train.md.",
            _plan_arguments,
            _plan,
        ),
        Command(
            "plan-published",
            "Write plans of DoDNet's and TGNet's published training: network, patch, spacing, loss, schedule.",
            _plan_published_arguments,
            _plan_published,
        ),
    ),
)
