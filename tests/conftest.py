"""Fixtures of the whole suite: a tiny partially labelled data set that went through nnU-Net's own preprocessing."""

import json
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import SpawnContext
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.discovery import shim_folder

LEAVES = {"liver": (1, 2), "kidney": (3, 4), "spleen": (5,)}
CASES_PER_TASK = 4
# Labels of some cases, of the evidence's own task and of another, in which the evidence is not annotated.
MALIGNANT = {("liver", 0): 0, ("liver", 1): 1, ("liver", 2): 1, ("kidney", 0): 0, ("kidney", 1): 1}


@dataclass(frozen=True)
class PreparedDataset:
    """Folders of a data set that is planned and preprocessed, and what stands in its dataset.json."""

    raw: Path
    preprocessed: Path
    results: Path
    dataset_json: dict[str, Any]

    def plans(self, name: str = "nnUNetPlans") -> dict[str, Any]:
        """Read plans as nnU-Net's entry point does before it hands them to a trainer."""
        plans: dict[str, Any] = json.loads((self.preprocessed / f"{name}.json").read_text())
        return plans | {"continue_training": False}


class _PoolsOfThreads(SpawnContext):
    """Processes are started as ever; a pool is one of threads of this process."""

    def Pool(self, processes: int | None = None, *more: Any, **options: Any) -> ThreadPool:  # noqa: N802 - as it is called there
        return ThreadPool(processes, *more, **options)


@pytest.fixture(autouse=True, scope="session")
def _no_nnunet_of_the_user() -> Iterator[None]:
    """Tests see no folder or switch of the person who runs them.

    nnU-Net's pools are of threads. A process of such a pool imports nnU-Net, which takes seconds, to write a file of
    a few voxels; eight are started for every final validation. The tests of console commands start them.
    """
    get_context, pools_of_threads = multiprocessing.get_context, _PoolsOfThreads()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("nnUNet_")]:
            patch.delenv(name)
        patch.setattr(
            multiprocessing,
            "get_context",
            lambda method=None: pools_of_threads if method == "spawn" else get_context(method),
        )
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MPLBACKEND", "agg")
        yield


def _case(rng: np.random.Generator, leaves: tuple[int, ...], level: float) -> tuple[Any, Any]:
    image = rng.normal(0, 1, (20, 24, 24)).astype(np.float32)
    label = np.zeros(image.shape, np.uint8)
    for depth, leaf in enumerate(leaves):
        label[(slice(4 + 2 * depth, 14 - 2 * depth),) * 3] = leaf
    image[label > 0] += level
    return SimpleITK.GetImageFromArray(image), SimpleITK.GetImageFromArray(label)


def _write_raw(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    cases: dict[str, Any] = {}
    for level, (task, leaves) in enumerate(LEAVES.items(), start=1):
        for index in range(CASES_PER_TASK):
            case = f"{task}_{index:03d}"
            image, label = _case(rng, leaves, 2.0 * level)
            SimpleITK.WriteImage(image, str(folder / "imagesTr" / f"{case}_0000.nii.gz"))
            SimpleITK.WriteImage(label, str(folder / "labelsTr" / f"{case}.nii.gz"))
            cases[case] = {"annotated": [task], "patient": f"secretpatient{task}{index}"}
            if (task, index) in MALIGNANT:
                cases[case]["classes"] = {"malignancy": ("benign", "malignant")[MALIGNANT[task, index]]}
            if task != "spleen":
                cases[case].setdefault("classes", {})["severity"] = ("mild", "medium", "severe")[index % 3]
    dataset_json = {
        "channel_names": {"0": "CT"},
        "labels": {
            "background": 0,
            "liver": [1, 2],
            "liver_tumour": [2],
            "kidney": [3, 4],
            "kidney_tumour": [4],
            "spleen": [5],
        },
        "regions_class_order": [1, 2, 3, 4, 5],
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "nnunet_mtl": {
            "version": 1,
            "tasks": {
                "liver": {"regions": ["liver", "liver_tumour"], "slots": ["organ", "tumour"]},
                "kidney": {"regions": ["kidney", "kidney_tumour"], "slots": ["organ", "tumour"]},
                "spleen": {"regions": ["spleen"], "slots": ["organ"]},
            },
            "classification": {
                "malignancy": {"kind": "nominal", "classes": ["benign", "malignant"], "evidence": "liver_tumour"},
                "severity": {"kind": "ordinal", "classes": ["mild", "medium", "severe"]},
            },
            "cases": cases,
        },
    }
    (folder / "dataset.json").write_text(json.dumps(dataset_json, indent=4))
    return dataset_json


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedDataset]:
    """Three tasks of four cases, planned and preprocessed in this process; plans `tiny` train on a CPU in seconds.

    `tiny` is a plain U-Net, `tiny_resenc` one with a residual encoder; both have `2d` and `3d_fullres`. `shallow` has
    two stages, as few as there can be, in `2d`.
    """
    root = tmp_path_factory.mktemp("nnunet")
    name = "Dataset900_Tiny"
    with pytest.MonkeyPatch.context() as patch:
        for variable, folder in (("nnUNet_raw", "raw"), ("nnUNet_preprocessed", "pre"), ("nnUNet_results", "results")):
            (root / folder).mkdir()
            patch.setenv(variable, str(root / folder))
        patch.setenv("nnUNet_n_proc_DA", "1")  # planning cannot do with 0
        patch.setenv("nnUNet_def_n_proc", "1")
        patch.setenv("nnUNet_extTrainer", str(shim_folder()))
        dataset_json = _write_raw(root / "raw" / name)
        _prepare()
        patch.setenv("nnUNet_n_proc_DA", "0")
        yield PreparedDataset(root / "raw" / name, root / "pre" / name, root / "results" / name, dataset_json)


def _prepare() -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    from nnunet_mtl.planning.network_size import NetworkSize
    from nnunet_mtl.planning.plans import write_plans

    extract_fingerprints([900], num_processes=1)
    for planner in ("ExperimentPlanner", "ResEncUNetPlanner"):
        plan_experiments([900], planner)
    preprocess([900], configurations=("2d", "3d_fullres"), num_processes=(1, 1))
    numbers = ["epochs=2", "iterations=2", "val_iterations=2", "test_time_mirroring=false"]
    for stock, name in (("nnUNetPlans", "tiny"), ("nnUNetResEncUNetPlans", "tiny_resenc")):
        steps = ((stock, f"{name}_2d", "2d", (16, 16)), (f"{name}_2d", name, "3d_fullres", (16, 16, 16)))
        for source, target, configuration, patch_size in steps:
            size = NetworkSize(patch_size=patch_size, batch_size=2, features_per_stage=(4, 8, 8))
            options = {"network": size, "configurations": [configuration], "assignments": numbers}
            write_plans(900, name=target, source=source, **options)
    shallow = NetworkSize(patch_size=(16, 16), batch_size=2, features_per_stage=(4, 8))
    write_plans(900, name="shallow", source="nnUNetPlans", network=shallow, configurations=["2d"], assignments=numbers)


def run_process(rank, folder, module):
    """Run what the test module says a process does, and save what came out; called in a process of its own."""
    import torch
    from torch import distributed

    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=180)
    )
    torch.save(runpy.run_path(module)["train_as_one_of_two"](rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
    # Gloo's threads may still let go of tensors; while Python shuts down that aborts about one process in ten.
    sys.stderr.flush()
    os._exit(0)


@pytest.fixture(scope="module")
def two_processes(request, tmp_path_factory):
    """What `train_as_one_of_two(rank)` of the test's module returns in each of two processes that train together.

    Started once for all scenarios of a module: starting Python with torch takes seconds.
    """
    import torch  # not above: tests of what needs no torch start without waiting for its import

    folder = tmp_path_factory.mktemp("ddp")
    call = "import runpy, sys; runpy.run_path(sys.argv[1])['run_process'](int(sys.argv[2]), *sys.argv[3:])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", call, str(Path(__file__)), str(rank), str(folder), str(request.path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@dataclass(frozen=True)
class BuiltWheel:
    """The package's wheel, and the copy of the checkout that it was built in, so that the checkout stays clean."""

    checkout: Path
    path: Path

    def build(self, output: Path, *kinds: str) -> dict[str, Path]:
        """Build distributions in the copy, by default the source distribution and the wheel of that; by suffix."""
        # without isolation, because that would download; torch brings setuptools
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), *kinds, str(self.checkout)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        return {path.suffix: path for path in output.iterdir()}


@pytest.fixture(scope="session")
def built_wheel(tmp_path_factory: pytest.TempPathFactory) -> BuiltWheel:
    """Build the wheel once for all tests that need it."""
    root, folder = Path(__file__).parents[1], tmp_path_factory.mktemp("build")
    for name in ("nnunet_mtl", "trainers", "planners"):
        shutil.copytree(root / name, folder / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, folder / "checkout")
    (path,) = BuiltWheel(folder / "checkout", folder).build(folder / "direct", "--wheel").values()
    return BuiltWheel(folder / "checkout", path)
