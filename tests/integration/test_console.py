"""The whole chain through the real console commands, as the README gives it: `nnunet_mtl demo --quick`."""

import contextlib
import io
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.cli import main
from nnunet_mtl.discovery import shim_folder
from nnunet_mtl.lab.demo.commands import chain_environment
from nnunet_mtl.tasks import TaskSet

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
TRAINER = "nnUNetTrainerMTLAttention"


@dataclass(frozen=True)
class Demo:
    folder: Path
    output: str

    def results(self, trainer: str = TRAINER) -> Path:
        (folder,) = (self.folder / "nnUNet_results").glob(f"Dataset*/{trainer}__*")
        return folder

    @property
    def raw(self) -> Path:
        (folder,) = (self.folder / "nnUNet_raw").iterdir()
        return folder

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = chain_environment(self.folder, shim_folder())
        command = [str(BIN / words[0]), *words[1:]]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("quick") / "demo"
    # in this process; the commands of the chain are the installed console commands
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = main(["demo", "--quick", "--compare", "--folder", str(folder), "--device", "cpu"])
    assert status == 0, output.getvalue()
    return Demo(folder, output.getvalue())


def test_the_last_line_has_the_figures_and_the_page(demo: Demo) -> None:
    last = demo.output.splitlines()[-1]
    assert re.search(r"Dice of organs 0\.\d\d", last)
    assert re.search(r"AUC of malignancy (\d\.\d\d|not available)", last)
    page = Path(last.split("page: ")[1])
    content = page.read_text()
    for command in ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict", TRAINER):
        assert command in content
    assert "http" not in content.replace("http-equiv", "")
    assert (page.parent / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_stock_commands_did_the_work(demo: Demo) -> None:
    log = (demo.folder / "commands.log").read_text()
    ran = [line[2:].split()[0] for line in log.splitlines() if line.startswith("$ ")]
    assert ran == [
        *("nnunet_mtl", "nnUNetv2_plan_and_preprocess", "nnunet_mtl", "nnunet_mtl"),
        *("nnUNetv2_train", "nnUNetv2_predict"),
        "nnunet_mtl",  # the answers to the question about the whole image
        *("nnUNetv2_train", "nnUNetv2_predict"),
    ]


def test_validation_maps_hold_what_is_annotated_in_their_case(demo: Demo) -> None:
    tasks = TaskSet.from_dataset_json(json.loads((demo.raw / "dataset.json").read_text()))
    maps = list((demo.results() / "fold_0" / "validation").glob("*.nii.gz"))
    assert maps
    for path in maps:
        leaves = np.unique(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))).tolist()
        tasks.check_leaves(path.name.removesuffix(".nii.gz"), leaves)


def test_no_case_table_travels(demo: Demo) -> None:
    archive = demo.folder / "model.zip"
    done = demo.run(
        *("nnUNetv2_export_model_to_zip", "-d", "990", "-o", str(archive), "-c", "3d_fullres", "-f", "0"),
        *("-tr", TRAINER, "-p", "nnUNetPlans_demo"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(archive) as content:
        exported = {name: content.read(name) for name in content.namelist()}
    assert any(name.endswith("dataset.json") for name in exported)
    written = {str(path): path.read_bytes() for path in (demo.folder / "predictions").iterdir() if path.is_file()}
    for name, data in (exported | written).items():
        assert b'"annotated"' not in data, name
        assert b"patient_0" not in data, name
    assert b'"annotated"' in (demo.raw / "dataset.json").read_bytes()  # what is looked for exists


def test_training_goes_on_where_it_was(demo: Demo) -> None:
    done = demo.run(
        *("nnUNetv2_train", "990", "3d_fullres", "0", "-tr", TRAINER, "-p", "nnUNetPlans_demo"),
        *("-device", "cpu", "--val"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Mean Validation Dice" in done.stdout


def test_other_settings_under_the_same_name_are_refused(demo: Demo) -> None:
    plan = ("nnunet_mtl", "plan", "-d", "990", "--name", "nnUNetPlans_demo", "--set", "epochs=3")
    refused = demo.run(*plan)
    assert refused.returncode == 2
    assert "other plans of that name" in refused.stderr


def test_the_doctor_finds_the_chain_in_order(demo: Demo) -> None:
    done = demo.run("nnunet_mtl", "doctor", "-d", "990")
    assert done.returncode == 0, done.stdout + done.stderr
