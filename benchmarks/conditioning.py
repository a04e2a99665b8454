"""What conditioning is for: five tasks in partially labelled phantoms, with and without a shortcut.

In an image with a liver, kidneys and a spleen, whoever shares output channels between tasks must know which task is
asked for. Without being told (Cond-NO) a network can only guess it, and it can guess if every task's cases come from a
scanner of their own: then it looks good on its own task in its own domain, which is how partially labelled unions are
usually scored. Trained with that shortcut and without it, every method is scored on all tasks in all domains, and on
each task in its own domain alone. Liver and spleen share a scanner and look alike.

python benchmarks/conditioning.py --out benchmarks/results/conditioning.json

With --folder, what is there already is not trained or predicted again: several processes may each do a part.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chain import Chain, provenance, write_result

from nnunet_mtl.evaluation.missing_values import mean_of_present
from nnunet_mtl.evaluation.runs.run_dice import run_dice
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics
from nnunet_mtl.lab.phantoms.scanner import SCANNERS
from nnunet_mtl.tasks import TaskSet, read_dataset_json

PHANTOM = (
    *("--cases_per_task", "12", "--test_cases", "12", "--contrast_to_noise", "5", "--tumour_prevalence", "1"),
    *("--tumour_radius_mm", "24", "34"),
)
SIZE = ("--patch_size", "24", "32", "48", "--features", "16", "32", "64", "--batch_size", "2")
SETTINGS = {
    "iterations": 125,
    "val_iterations": 4,
    "initial_lr": 0.05,
    "momentum": 0.9,
    "mirroring": "false",
    "test_time_mirroring": "false",
    "class_weight": 0,
}
CONFIGURATION, PLANS = "3d_fullres", "nnUNetPlans_conditioning"
TRAINERS = ("CondNO", "CondInput", "CondDec", "DoDNet", "TGNet", "MTLAttention")
COUPLINGS = {"independent": (910, "0"), "coupled": (911, "1")}


def main() -> None:
    """Train, predict and score, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--trainers", nargs="+", default=list(TRAINERS), choices=TRAINERS)
    parser.add_argument("--couplings", nargs="+", default=list(COUPLINGS), choices=list(COUPLINGS))
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--folder", type=Path, help="where the data sets and models are kept")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp())).resolve()
    chain = Chain(folder, CONFIGURATION, SIZE, {**SETTINGS, "epochs": options.epochs})
    scores: dict[str, Any] = {}
    for coupling in options.couplings:
        dataset, share = COUPLINGS[coupling]
        phantom = ("-d", str(dataset), "--name", coupling, "--seed", str(options.seed), *PHANTOM)
        chain.made(dataset, "nnunet_mtl", "phantom", *phantom, "--domain_task_coupling", share, folds=9)
        for name in options.trainers:
            trainer = f"nnUNetTrainer{name}"
            chain.trained(dataset, trainer, PLANS)
            out, _ = chain.predicted(
                *(f"{dataset}_{name}", chain.raw(dataset) / "imagesTs", dataset, trainer, PLANS),
                *("-step_size", "1", "--save-per-task"),
            )
            scores.setdefault(coupling, {})[name] = _scored(chain.raw(dataset), out)
    write_result(options.out, {**provenance(), "scores": scores})
    print(json.dumps(scores, indent=1))


def _scored(raw: Path, predictions: Path) -> dict[str, Any]:
    """Return the mean Dice by region over all test cases, and over those from the scanner of the region's task."""
    description = read_dataset_json(raw / "dataset.json")
    tasks = TaskSet.from_dataset_json(description)
    scores = run_dice(predictions, raw / "labelsTs", tasks, description, fully_labelled=True)
    sources = read_dataset_json(raw / "labelsTs.json")["nnunet_mtl"]["cases"]
    domains = {case: of_case["source"] for case, of_case in sources.items()}
    homes = {
        region: SCANNERS[number % len(SCANNERS)].name
        for number, task in enumerate(tasks.tasks)
        for region in task.regions
    }
    everywhere = _means(scores, {region: list(domains) for region in homes})
    at_home = _means(scores, {r: [case for case in domains if domains[case] == homes[r]] for r in homes})
    return {
        "all tasks in all domains": everywhere,
        "each task in its own domain": at_home,
        "mean": {"all": _mean(everywhere.values()), "own": _mean(at_home.values())},
    }


def _means(scores: RunMetrics, cases: Mapping[str, Sequence[str]]) -> dict[str, float]:
    means = {}
    for region, chosen in cases.items():
        dice = scores.values(region, "dice")
        means[region] = _mean([dice[case] for case in chosen if case in dice])
    return means


def _mean(values: Any) -> float:
    return round(mean_of_present(values), 3)


if __name__ == "__main__":
    main()
