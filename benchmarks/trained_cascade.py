"""A trained cascade of three networks beside OM-Net's one, on the nested phantom in 3D: docs/cascade.md.

Printed are Dice by region, minutes of training and seconds of prediction, the start of the command included: once with
as many steps for OM-Net as for each network of the cascade, once with as many as for all three.

python benchmarks/trained_cascade.py --out benchmarks/results/trained_cascade.json

With --folder, what is there already is not trained or predicted again.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from chain import Chain, provenance, write_result

from nnunet_mtl.evaluation.runs.run_dice import run_dice
from nnunet_mtl.tasks import TaskSet, read_dataset_json

DATASET, CONFIGURATION, PLANS = 930, "3d_fullres", "nnUNetPlans_cascade"
ALONE, TOGETHER = "nnUNetTrainerMTLNoAttention", "nnUNetTrainerOMNet"
PHANTOM = ("--dimension", "3", "--cases", "24", "--test_cases", "12", "--image_size", "32", "64", "64")
SIZE = ("--patch_size", "16", "32", "32", "--batch_size", "2", "--features", "8", "16", "32")
EPOCHS, STEPS = 6, 50
SETTINGS = {"epochs": EPOCHS, "val_iterations": 1, "test_time_mirroring": "false"}
# By task its data set and what extracts it.
NETWORKS = {
    "whole": (931, ()),
    "core": (932, ("--inside_parent", "10")),
    "enhancing": (933, ("--inside_parent", "10")),
}


def main() -> None:
    """Train, predict, score, print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep data sets and models here (a temporary folder)")
    parser.add_argument("--out", type=Path, help="write the results here, with their command")
    options = parser.parse_args()
    if options.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            rows = run(Path(folder))
    else:
        rows = run(options.folder.resolve())
    regions = list(rows["cascade"]["dice"])
    print("| " + " | ".join(["", *regions, "steps", "minutes of training", "seconds a case"]) + " |")
    for name, row in rows.items():
        numbers = [*row["dice"].values(), row["steps"], row["minutes"], row["seconds_a_case"]]
        print("| " + " | ".join([name, *map(str, numbers)]) + " |")
    if options.out:
        write_result(options.out, {**provenance(), "cases": 12, "rows": rows})


def run(folder: Path) -> dict[str, Any]:
    """Return the rows of the table.

    Args:
        folder: Data sets, models and predictions are kept there.
    """
    chain = Chain(folder, CONFIGURATION, SIZE, SETTINGS)
    words = ("-d", str(DATASET), "--kind", "nested", "--name", "Brain", *PHANTOM)
    chain.made(DATASET, "nnunet_mtl", "phantom", *words, folds=5)
    rows = {"cascade": _cascade(chain)}
    for name, factor in (("OM-Net", 1), ("OM-Net, steps of all three", len(NETWORKS))):
        plans = f"{PLANS}_{factor}"
        minutes = chain.trained(DATASET, TOGETHER, plans, iterations=factor * STEPS)
        images = chain.raw(DATASET) / "imagesTs"
        out, seconds = chain.predicted(plans, images, DATASET, TOGETHER, plans)
        rows[name] = _row(chain, out, factor * EPOCHS * STEPS, minutes, seconds)
    return rows


def _cascade(chain: Chain) -> dict[str, Any]:
    minutes = 0.0
    models = []
    for task, (number, inside) in NETWORKS.items():
        words = ("-d", str(DATASET), "-t", task, *inside, "--with_block", "-o", str(number))
        chain.made(number, "nnunet_mtl", "extract", *words, folds=0)
        minutes += chain.trained(number, ALONE, PLANS, iterations=STEPS)
        results = chain.folder / "nnUNet_results" / chain.raw(number).name
        models.append(f"{task}={results / f'{ALONE}__{PLANS}__{CONFIGURATION}'}")
    out = chain.folder / "predictions" / "cascade"
    images = ("-i", str(chain.raw(DATASET) / "imagesTs"), "-o", str(out), "-d", str(DATASET))
    here = ("-f", "0", "-device", "cpu", "--disable_progress_bar", "--disable_tta")
    seconds = chain.timed(out, "nnunet_mtl", "cascade-predict", *images, "-m", *models, *here)
    return _row(chain, out, len(NETWORKS) * EPOCHS * STEPS, round(minutes, 1), seconds)


def _row(chain: Chain, out: Path, steps: int, minutes: float, seconds: float) -> dict[str, Any]:
    raw = chain.raw(DATASET)
    description = read_dataset_json(raw / "dataset.json")
    scores = run_dice(out, raw / "labelsTs", TaskSet.from_dataset_json(description), description, fully_labelled=True)
    return {
        "dice": {region: round(scores.mean_over_regions([region]), 3) for region in scores.regions},
        "steps": steps,
        "minutes": minutes,
        "seconds_a_case": round(seconds / len(list((raw / "imagesTs").glob("*_0000.nii.gz"))), 2),
    }


if __name__ == "__main__":
    main()
