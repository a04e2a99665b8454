"""What the benchmarks that train share: phantoms, plans, training and prediction through the console commands.

What is there already is not made again, so that several processes may each do a part of a benchmark.
"""

import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_mtl.discovery import shim_folder
from nnunet_mtl.lab.demo.commands import CommandRunner, chain_environment


class Chain:
    """The commands of one benchmark in one folder.

    Args:
        folder: Data sets, models and predictions are kept there.
        configuration: Of the plans.
        size: Options of `nnunet_mtl plan` that make the network small.
        settings: Of every training.
    """

    def __init__(self, folder: Path, configuration: str, size: Sequence[str], settings: Mapping[str, Any]) -> None:
        self.folder, self.configuration, self.size, self.settings = folder, configuration, size, settings
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        environment = {**chain_environment(folder, shim_folder()), "OMP_NUM_THREADS": "1"}
        self.runner = CommandRunner(environment, folder / "commands.log", lambda text: print(text, flush=True))

    def raw(self, dataset: int) -> Path:
        """Return the folder of a data set in `nnUNet_raw`."""
        (folder,) = (self.folder / "nnUNet_raw").glob(f"Dataset{dataset}_*")
        return folder

    def made(self, dataset: int, *command: str, folds: int) -> None:
        """Run the command that writes a data set, plan and preprocess it, and split it by patients.

        Args:
            dataset: Its id.
            *command: What writes it.
            folds: Number of folds; with 0 those that the command wrote are kept.
        """
        if list((self.folder / "nnUNet_preprocessed").glob(f"Dataset{dataset}_*/splits_final.json")):
            return
        number = str(dataset)
        if not list((self.folder / "nnUNet_raw").glob(f"Dataset{dataset}_*/dataset.json")):
            self.runner.run(*command)
        self.runner.run(
            "nnUNetv2_plan_and_preprocess", "-d", number, "-c", self.configuration, "-np", "1", "-npfp", "1"
        )
        if folds:
            self.runner.run("nnunet_mtl", "make-splits", "-d", number, "--folds", str(folds))

    def trained(self, dataset: int, trainer: str, plans: str, **changed: Any) -> float:
        """Train one fold and return the minutes it took.

        Args:
            dataset: Its id.
            trainer: Name of its class.
            plans: Name of the plans that are written for it.
            **changed: Settings other than those of every training.
        """
        model = self.folder / "nnUNet_results" / self.raw(dataset).name / f"{trainer}__{plans}__{self.configuration}"
        minutes = model / "fold_0" / "minutes.json"
        if not minutes.is_file():
            start = time.monotonic()
            self.planned(dataset, plans, **changed)
            self.runner.run(
                *("nnUNetv2_train", str(dataset), self.configuration, "0"),
                *("-p", plans, "-tr", trainer, "-device", "cpu"),
            )
            minutes.write_text(json.dumps(round((time.monotonic() - start) / 60, 1)))
        return float(json.loads(minutes.read_text()))

    def planned(self, dataset: int, plans: str, **changed: Any) -> None:
        """Write plans with the settings of every training, some of them changed."""
        assignments = (f"{name}={value}" for name, value in {**self.settings, **changed}.items())
        options = ("--name", plans, "-c", self.configuration, *self.size, "--overwrite", "--set", *assignments)
        self.runner.run("nnunet_mtl", "plan", "-d", str(dataset), *options)

    def predicted(
        self, name: str, images: Path, dataset: int, trainer: str, plans: str, *options: str
    ) -> tuple[Path, float]:
        """Predict a folder of images.

        Args:
            name: Of the folder of predictions.
            images: What is predicted.
            dataset: Of the model.
            trainer: Of the model.
            plans: Of the model.
            *options: More options of `nnunet_mtl predict`.

        Returns:
            The folder, and the seconds it took.
        """
        out = self.folder / "predictions" / name
        model = ("-d", str(dataset), "-c", self.configuration, "-f", "0", "-p", plans, "-tr", trainer)
        here = ("-device", "cpu", "-npp", "0", "-nps", "0", "--disable_progress_bar")
        command = ("nnunet_mtl", "predict", "-i", str(images), "-o", str(out), *model, *options, *here)
        return out, self.timed(out, *command)

    def timed(self, out: Path, *command: str) -> float:
        """Run a command that writes a folder of predictions, and return the seconds it took."""
        seconds = out / "seconds.json"
        if not seconds.is_file():
            start = time.monotonic()
            self.runner.run(*command)
            seconds.write_text(json.dumps(round(time.monotonic() - start, 1)))
        return float(json.loads(seconds.read_text()))


def positive_chances(predictions: Path, question: str, positive: str) -> dict[str, float]:
    """Return the probability of one answer to a question by case, of a folder of predictions."""
    with (predictions / "classification.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == positive and row["task"] == question]
    return {row["case"]: float(row["probability"]) for row in rows}


def provenance() -> dict[str, str]:
    """Return the command that runs, its commit and its machine, for the file of results."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    return {
        "command": f"python {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}",
        "commit": commit,
        "device": f"{platform.machine()}, {os.cpu_count()} CPU cores",
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
