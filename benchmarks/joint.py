"""The joint methods, each on the phantom made for it, beside hard parameter sharing and one network per task.

Breast ultrasound for ACSNet, gastric tumours for MA-MTLN, nested brain tumours for OM-Net, dose for CTAN and MTAN, all
in slices and trained for minutes: what is shown is that they learn, how they compare on one pipeline, and what they
cost; who wins after minutes on a phantom says little about who wins on patients. Printed are Dice by region, AUC with
its interval, mean absolute error, the gain Delta of Kim, Purdie, McIntosh, 2023, over single-task networks (`extract
--with_block` and the same trainer as the baseline's), parameters, and times.

python benchmarks/joint.py --out benchmarks/results/joint.json

With --folder, what is there already is not trained or predicted again: several processes may each do a part.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from chain import Chain, positive_chances, provenance, write_result
from sklearn.metrics import roc_auc_score

from nnunet_mtl.discovery import shim_folder
from nnunet_mtl.evaluation.answers.discrimination import auc_interval
from nnunet_mtl.evaluation.metrics.regression_error import mae_of_folder
from nnunet_mtl.evaluation.runs.multitask_gain import multitask_gain
from nnunet_mtl.evaluation.runs.run_dice import run_dice
from nnunet_mtl.inference.model_folder import build_network, read_model
from nnunet_mtl.tasks import TaskSet, read_dataset_json

SETTINGS = {
    "iterations": 100,
    "val_iterations": 4,
    "initial_lr": 0.02,
    "momentum": 0.9,
    "test_time_mirroring": "false",
    "class_every": 100,
}
CONFIGURATION, PLANS, BASELINE = "2d", "nnUNetPlans_joint", "HPS"


@dataclass(frozen=True)
class Phantom:
    """A data set and who is trained on it.

    Attributes:
        dataset: Its id; those of the single-task data sets follow.
        options: Of `nnunet_mtl phantom`.
        size: Of `nnunet_mtl plan`.
        trainers: By row of the table the trainer and its settings; the baseline is always there.
        positive: By question the answer that counts.
        epochs: Of every training; questions are learnt later than outlines.
    """

    dataset: int
    options: tuple[str, ...]
    size: tuple[str, ...]
    trainers: Mapping[str, tuple[str, Mapping[str, Any]]]
    positive: Mapping[str, str]
    epochs: int


def _size(batch: int, *features: int) -> tuple[str, ...]:
    widths = (str(width) for width in features)
    return ("--patch_size", "64", "64", "--features", *widths, "--batch_size", str(batch))


PHANTOMS = {
    "ultrasound": Phantom(
        920,
        ("--cases", "80", "--test_cases", "40"),
        _size(4, 8, 16, 32, 48),  # torchvision's deformable convolution is slow on a CPU
        {"ACSNet": ("ACSNet", {})},
        {"malignancy": "malignant"},
        10,
    ),
    "gastric": Phantom(
        930,
        ("--dimension", "2", "--cases", "80", "--test_cases", "40"),
        _size(6, 16, 32, 64, 96),
        {"MA-MTLN": ("MAMTLN", {"pyramid_width": 16})},  # 64 in a network of 320 channels
        {"node_status": "positive"},
        10,
    ),
    "nested": Phantom(
        940,
        ("--dimension", "2", "--cases", "60", "--test_cases", "30"),
        _size(6, 16, 32, 64, 96),
        {
            "OM-Net": ("OMNet", {}),
            "OM-Net, no strategies": ("OMNet", {"nested_head": "plain", "transfer": "false", "curriculum": "false"}),
        },
        {},
        5,
    ),
    "dose": Phantom(
        950,
        ("--dimension", "2", "--cases", "60", "--test_cases", "30"),
        _size(4, 8, 16, 32, 48),  # a decoder, or masks, for every task
        {"MTAN": ("MTAN", {}), "CTAN-style": ("CTAN", {})},
        {},
        3,
    ),
}


def main() -> None:
    """Train, predict and score, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phantoms", nargs="+", default=list(PHANTOMS), choices=list(PHANTOMS))
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--folder", type=Path, help="where the data sets and models are kept")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp())).resolve()
    os.environ.update({"nnUNet_extTrainer": str(shim_folder())})  # networks are rebuilt here to count their weights
    results = {}
    for name in options.phantoms:
        settings = {**SETTINGS, "epochs": PHANTOMS[name].epochs}
        chain = Chain(folder, CONFIGURATION, PHANTOMS[name].size, settings)
        results[name] = Benchmark(chain, name, options.seed).run()
        _show(name, results[name])
    write_result(options.out, {**provenance(), "phantoms": results})


class Benchmark:
    """All rows of one phantom.

    Args:
        chain: Runs the commands.
        kind: Of the phantom.
        seed: Of the phantom.
    """

    def __init__(self, chain: Chain, kind: str, seed: int) -> None:
        self.chain, self.phantom = chain, PHANTOMS[kind]
        number = str(self.phantom.dataset)
        written = ("-d", number, "--kind", kind, "--name", kind.capitalize(), "--seed", str(seed))
        chain.made(
            self.phantom.dataset,
            "nnunet_mtl",
            "phantom",
            *written,
            *self.phantom.options,
            folds=5,
        )
        self.raw = chain.raw(self.phantom.dataset)
        self.description = read_dataset_json(self.raw / "dataset.json")
        self.tasks = TaskSet.from_dataset_json(self.description)

    def run(self) -> dict[str, Any]:
        """Train, predict and score every row, and one network for every task."""
        single: dict[str, float] = {}
        minutes = 0.0
        for offset, names in enumerate(self._alone(), start=1):
            metrics, took = self._single(self.phantom.dataset + offset, names)
            single |= metrics
            minutes += took
        rows: dict[str, Any] = {"single-task": {"metrics": _rounded(single), "minutes": round(minutes, 1)}}
        for row, (trainer, changed) in {BASELINE: (BASELINE, {}), **self.phantom.trainers}.items():
            rows[row] = self._row(row, trainer, changed, single)
        return rows

    def _row(self, row: str, trainer: str, changed: Mapping[str, Any], single: Mapping[str, float]) -> dict[str, Any]:
        plans = f"{PLANS}_{''.join(letter for letter in row if letter.isalnum())}"
        number, full = self.phantom.dataset, f"nnUNetTrainer{trainer}"
        minutes = self.chain.trained(number, full, plans, **changed)
        out, seconds = self.chain.predicted(f"{number}_{plans}", self.raw / "imagesTs", number, full, plans)
        metrics = self._metrics(out)
        lower = [name for name in metrics if name.startswith("mae")]
        # what the single-task network has not learnt in so few steps has no relative gain
        learnt = [name for name in metrics if single[name] > 0]
        gain = multitask_gain({name: metrics[name] for name in learnt}, {n: single[n] for n in learnt}, lower)
        return {
            "metrics": _rounded(metrics),
            "auc_95": self._intervals(out),
            "delta": round(gain.delta, 4),
            "delta_of": learnt,
            "parameters": self._parameters(full, plans),
            "minutes": minutes,
            "seconds_a_case": round(seconds / len(list((self.raw / "labelsTs").glob("*.nii.gz"))), 2),
        }

    def _alone(self) -> list[tuple[str, str]]:
        """Return what is extracted: an option of `extract`, and a name."""
        segmented = [("-t", task.name) for task in self.tasks.tasks]
        regressed = [("-t", task.name) for task in self.tasks.regressions]
        return segmented + regressed + [("-q", question.name) for question in self.tasks.classification]

    def _single(self, dataset: int, names: tuple[str, str]) -> tuple[dict[str, float], float]:
        option, name = names
        inside = self._task_around(name)
        words = ("-d", str(self.phantom.dataset), option, *inside, name, "--with_block", "-o", str(dataset))
        self.chain.made(dataset, "nnunet_mtl", "extract", *words, folds=0)
        trainer = f"nnUNetTrainer{BASELINE}"
        minutes = self.chain.trained(dataset, trainer, PLANS, **self._untaught(inside))
        images = self.chain.raw(dataset) / "imagesTs"
        out, _ = self.chain.predicted(f"{dataset}_single", images, dataset, trainer, PLANS)
        return self._metrics(out, self.chain.raw(dataset), (name,)), minutes

    def _task_around(self, name: str) -> tuple[str, ...]:
        """Return the task of the region inside which a regression task counts: without it the loss would be another."""
        regions = [task.inside for task in self.tasks.regressions if task.name == name]
        return tuple(task.name for task in self.tasks.tasks if set(task.regions) & set(regions))

    @staticmethod
    def _untaught(tasks: tuple[str, ...]) -> dict[str, str]:
        """Return the settings with which tasks are there and not learnt."""
        return {"loss_weighting": "fixed", "loss_weights": ",".join(f"{task}=0" for task in tasks)} if tasks else {}

    def _metrics(self, out: Path, raw: Path | None = None, only: tuple[str, ...] = ()) -> dict[str, float]:
        """Return Dice by region, AUC by question and error by regression task, of all or some of them."""
        raw = raw or self.raw
        description = read_dataset_json(raw / "dataset.json")
        tasks = TaskSet.from_dataset_json(description)
        metrics: dict[str, float] = {}
        if not only or only[0] in [task.name for task in tasks.tasks]:
            scores = run_dice(out, raw / "labelsTs", tasks, description, fully_labelled=True)
            metrics |= {f"dice {region}": scores.mean_over_regions([region]) for region in scores.regions}
        for question, positive in self.phantom.positive.items():
            if not only or question in only:
                chances, truth = self._answers(out, question, positive)
                metrics[f"auc {question}"] = float(roc_auc_score(truth, chances))
        for task in self.tasks.regressions:
            if not only or task.name in only:
                metrics[f"mae {task.name}"] = self._error(out, task)
        return metrics

    def _error(self, out: Path, task: Any) -> float:
        labels = self.tasks.region_labels[self.tasks.regions.index(task.inside)]
        reference = self.raw / "regressionTs" / task.name
        return mae_of_folder(out / "regression" / task.name, reference, self.raw / "labelsTs", labels=labels).mean

    def _answers(self, out: Path, question: str, positive: str) -> tuple[Any, Any]:
        cases = read_dataset_json(self.raw / "labelsTs.json")["nnunet_mtl"]["cases"]
        truth = {name: case["classes"][question] == positive for name, case in cases.items() if "classes" in case}
        chances = positive_chances(out, question, positive)
        return np.array([chances[case] for case in truth]), np.array(list(truth.values()))

    def _intervals(self, out: Path) -> dict[str, list[float] | None]:
        intervals = {q: auc_interval(*self._answers(out, q, positive)) for q, positive in self.phantom.positive.items()}
        return {q: None if ends is None else [round(end, 3) for end in ends] for q, ends in intervals.items()}

    def _parameters(self, trainer: str, plans: str) -> int:
        model = self.chain.folder / "nnUNet_results" / self.raw.name / f"{trainer}__{plans}__{CONFIGURATION}"
        network = build_network(read_model(model, (0,), "checkpoint_final.pth"))
        return sum(weight.numel() for weight in network.parameters())


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in metrics.items()}


def _show(phantom: str, rows: Mapping[str, Any]) -> None:
    """Print the rows of one phantom as the table of docs/methods."""
    metrics = list(rows["single-task"]["metrics"])
    head = [phantom, *metrics, "Delta", "parameters", "minutes of training", "seconds a case"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, row in rows.items():
        cells = [f"{row['metrics'][metric]:.2f}" for metric in metrics]
        cells.append(f"{100 * row['delta']:+.1f} %" if "delta" in row else "")
        cells.append(f"{row['parameters'] / 1e6:.2f} M" if "parameters" in row else "")
        lines.append([name, *cells, f"{row['minutes']:.1f}", str(row.get("seconds_a_case", ""))])
    print("\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines), flush=True)


if __name__ == "__main__":
    main()
