"""A shell that runs the lines of a page on small data: console commands in this process, everything else in bash."""

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch

from nnunet_mtl.discovery import shim_folder

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
# What the lines of a page leave to the reader's machine, or to the size of the reader's data.
APPENDED = {
    "nnUNetv2_train": "-device cpu",
    "nnUNetv2_predict": "-device cpu",
    "nnunet_mtl evaluate": "-np 1",
    "nnunet_mtl phantom": "--test_cases 2",
}
SMALL_IMAGES = {"organs": "20 32 32 --cases_per_task 2", "ultrasound": "32 32 --cases 10", "plane": "48 48 --cases 10"}
WRITES_PLANS = ("nnUNetv2_plan", "nnUNetv2_move_plans", "nnunet_mtl plan")


@dataclass(frozen=True)
class Done:
    """A line that was run: its exit status, and what was printed."""

    status: int
    output: str


class Shell:
    """Runs lines in a folder that holds nnU-Net's three folders.

    Training is one epoch of one iteration, and every network that is planned is small; the lines stay as they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in FOLDERS:
            (folder / name).mkdir(exist_ok=True)

    def run(self, line: str) -> Done:
        """Run one line."""
        words = shlex.split(line, comments=True)
        if words[0].startswith(("nnUNetv2_", "nnunet_mtl")):
            before = self._plans()
            done = self._in_this_process([*words, *appended(words)])
            if line.startswith(WRITES_PLANS):
                for path, text in self._plans().items():
                    if before.get(path) != text:
                        path.write_text(json.dumps(small(json.loads(text))))
            return done
        ran = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=os.environ | self._environment(words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        return Done(ran.returncode, ran.stdout)

    def _plans(self) -> dict[Path, str]:
        texts = {path: path.read_text() for path in self.folder.glob("nnUNet_preprocessed/*/*.json")}
        return {path: text for path, text in texts.items() if '"configurations"' in text}

    def _environment(self, words: list[str]) -> dict[str, str]:
        workers = "0" if words[0] == "nnUNetv2_train" else "1"  # planning cannot do with 0
        folders = {name: str(self.folder / name) for name in FOLDERS}
        processes = {"nnUNet_npp": "0", "nnUNet_nps": "0", "nnUNet_n_proc_DA": workers, "nnUNet_def_n_proc": "1"}
        return {**folders, **processes, "nnUNet_extTrainer": str(shim_folder())}

    def _in_this_process(self, words: list[str]) -> Done:
        (command,) = entry_points(group="console_scripts", name=words[0])
        output = io.StringIO()
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - nnU-Net's augmentation draws from it
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in a process of its own, they are no errors
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", words)
            for name, value in self._environment(words).items():
                patch.setenv(name, value)
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                status = _status_of(command.load())
        return Done(status, output.getvalue())


def _status_of(command: Callable[[], Any]) -> int:
    try:
        return int(command() or 0)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:  # noqa: BLE001 - as Python ends a process
        traceback.print_exc()
        return 1


def appended(words: list[str]) -> list[str]:
    """Return the words that are added to a command."""
    name = words[0] if words[0] != "nnunet_mtl" else " ".join(words[:2])
    more = [] if "-device" in words else shlex.split(APPENDED.get(name, ""))
    if name == "nnunet_mtl phantom":
        kind = words[words.index("--kind") + 1] if "--kind" in words else "organs"
        kind = "plane" if "--dimension" in words else kind
        more += ["--image_size", *SMALL_IMAGES.get(kind, "20 32 32 --cases 10").split()]
    return more


def small(plans: dict[str, Any]) -> dict[str, Any]:
    """Return plans with networks of three narrow stages, for patches of 16 voxels a side."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_mtl.planning.network_size import NetworkSize

    for name in ("2d", "3d_fullres"):
        if name in plans["configurations"]:
            planned = PlansManager(plans).get_configuration(name).configuration
            patch = (16,) * len(planned["patch_size"])
            size = NetworkSize(patch_size=patch, batch_size=2, features_per_stage=(4, 8, 8))
            plans["configurations"][name].update(size.changes(planned, name))
    return plans


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Shell]]:
    """Makes shells. While they are used, every training is short, and `enable` writes into a folder of the test."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    get_path, run_training = sysconfig.get_path, nnUNetTrainer.run_training
    purelib = str(tmp_path_factory.mktemp("purelib"))

    def run_shortly(trainer: Any) -> None:
        trainer.num_epochs = trainer.num_iterations_per_epoch = trainer.num_val_iterations_per_epoch = 1
        run_training(trainer)

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multiprocessing.cpu_count", lambda: 1)
        patch.setattr(nnUNetTrainer, "run_training", run_shortly)
        patch.setattr("sysconfig.get_path", lambda name, *more: purelib if name == "purelib" else get_path(name, *more))
        yield Shell
    torch.set_num_threads(threads)


LABELS = {
    "background": 0,
    "liver": [1, 2],
    "liver_tumour": [2],
    "kidney": [3, 3],
    "whole": [4, 5, 6],
    "core": [5, 6],
    "enhancing": [6],
}
TASKS = {
    "liver": {"regions": ["liver", "liver_tumour"], "slots": ["organ", "tumour"]},
    "kidney": {"regions": ["kidney"]},
    "whole": {"regions": ["whole"]},
    "core": {"regions": ["core"], "parent": "whole"},
    "enhancing": {"regions": ["enhancing"], "parent": "core"},
}
ANNOTATED = {"liver": ["liver"], "kidney": ["kidney"], "brain": ["whole", "core", "enhancing"]}
TASK_OF = {1: "liver", 2: "liver", 3: "kidney"}  # of a label; of the others it is `whole`
CORNERS = {1: (2, 8), 2: (3, 6), 3: (2, 9), 4: (1, 9), 5: (2, 8), 6: (3, 6)}  # of each label's box, in voxels
OFFSETS = {1: 0, 2: 0, 3: 12, 4: 12, 5: 12, 6: 12}


def _everything(rng: np.random.Generator) -> tuple[Any, Any]:
    image, label = rng.normal(0, 1, (20, 24, 24)).astype(np.float32), np.zeros((20, 24, 24), np.uint8)
    for value, (low, high) in CORNERS.items():
        across = slice(low + OFFSETS[value], high + OFFSETS[value])
        label[slice(low, high) if value < 4 else slice(low + 10, high + 10), across, slice(low, high)] = value
    image += 2.0 * label
    return image, label


def _write(values: Any, path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(path))


@pytest.fixture(scope="session")
def raw_union(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set 900 of the pages: a liver, a kidney, a tumour in three nested tasks, and a question.

    A training case is annotated for some of the tasks; what is in every image is in `truthTr` and `truthTs`.
    """
    folder = tmp_path_factory.mktemp("union") / "Dataset900_Union"
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "truthTr", "truthTs"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    tables: dict[str, dict[str, Any]] = {"Tr": {}, "Ts": {}}
    for part, number in (("Tr", 5), ("Ts", 2)):
        for name, tasks in ANNOTATED.items() if part == "Tr" else [("test", list(TASKS))]:
            seen = [value for value in CORNERS if TASK_OF.get(value, "whole") in tasks]
            for index in range(number):
                case = f"{name}_{index:03d}"
                image, label = _everything(rng)
                shown = np.where(np.isin(label, seen), label, 0).astype(np.uint8)
                _write(image, folder / f"images{part}" / f"{case}_0000.nii.gz")
                _write(shown, folder / f"labels{part}" / f"{case}.nii.gz")
                _write(label, folder / f"truth{part}" / f"{case}.nii.gz")
                answer = ("benign", "malignant")[index % 2]
                tables[part][case] = {"annotated": tasks, "classes": {"malignancy": answer}}
    question = {"kind": "nominal", "classes": ["benign", "malignant"], "evidence": "liver_tumour"}
    block = {"version": 1, "tasks": TASKS, "classification": {"malignancy": question}}
    described = {
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "regions_class_order": [1, 2, 3, 4, 5, 6],
        "numTraining": len(tables["Tr"]),
        "file_ending": ".nii.gz",
    }
    for name, part in (("dataset.json", "Tr"), ("labelsTs.json", "Ts")):
        (folder / name).write_text(json.dumps({**described, "nnunet_mtl": {**block, "cases": tables[part]}}))
    return folder
