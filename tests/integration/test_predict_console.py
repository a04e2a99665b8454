"""`nnunet_mtl predict` as a command, with its processes: against `nnUNetv2_predict`, and killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch

from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
CASES = [f"case_{number}" for number in range(4)]


@pytest.fixture(scope="module")
def model(prepared: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("results")))
        torch.manual_seed(0)
        dataset_json = json.loads(json.dumps(prepared.dataset_json))
        trainer = nnUNetTrainerMTLAttention(prepared.plans("tiny"), "3d_fullres", 0, dataset_json, torch.device("cpu"))
        trainer.on_train_start()
        trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    return Path(trainer.output_folder_base)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed, case in enumerate(CASES):
        values = np.random.default_rng(seed).normal(0, 1, (18, 20, 22)).astype(np.float32)
        image = SimpleITK.GetImageFromArray(values)
        image.SetSpacing((1.0, 1.0, 1.3))
        SimpleITK.WriteImage(image, str(folder / f"{case}_0000.nii.gz"))
    return folder


def command(name: str, *words: object, processes: int = 1) -> list[str]:
    here = ("-f", "0", "-device", "cpu", "--disable_tta", "-npp", str(processes), "-nps", str(processes))
    return [str(BIN / name), *map(str, words), *here]


def run(name: str, *words: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(
        command(name, *words, processes=processes),
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.nii.gz"))}


@pytest.fixture(scope="module")
def predicted(model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("output")
    done = run("nnunet_mtl", "predict", "-i", images, "-o", output, "-m", model, "--save-per-task")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("predicted 4 of 4 cases")
    assert "cases:" in done.stderr  # the progress bar
    return output


def test_the_same_files_as_the_stock_command(model: Path, images: Path, predicted: Path, tmp_path: Path) -> None:
    done = run("nnUNetv2_predict_from_modelfolder", "-i", images, "-o", tmp_path, "-m", model)
    assert done.returncode == 0, done.stdout + done.stderr
    assert maps(predicted) == maps(tmp_path)
    assert sorted(maps(predicted)) == [f"{case}.nii.gz" for case in CASES]


def test_killed_on_the_way_and_gone_on(model: Path, images: Path, predicted: Path, tmp_path: Path) -> None:
    words = ("predict", "-i", images, "-o", tmp_path, "-m", model, "--save-per-task")
    with subprocess.Popen(
        command("nnunet_mtl", *words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 300
        while not maps(tmp_path) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    before = maps(tmp_path)
    assert before
    assert all(maps(predicted)[name] == content for name, content in before.items())
    done = run("nnunet_mtl", *words, "--continue_prediction", processes=0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(before)} were there already" in done.stdout
    for name in ("", "liver", "kidney", "spleen"):
        assert maps(tmp_path / name) == maps(predicted / name)
    tables = [folder / "classification.csv" for folder in (tmp_path, predicted)]
    assert tables[0].is_file() == tables[1].is_file()
    if tables[1].is_file():
        assert tables[0].read_bytes() == tables[1].read_bytes()


def test_one_bad_image_among_good_ones(model: Path, images: Path, predicted: Path, tmp_path: Path) -> None:
    for path in images.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "bad_0000.nii.gz").write_bytes(b"no image")
    done = run("nnunet_mtl", "predict", "-i", tmp_path, "-o", tmp_path / "output", "-m", model, processes=0)
    assert done.returncode == 1
    assert "case bad: " in done.stderr
    assert maps(tmp_path / "output") == maps(predicted)
    assert done.stdout.splitlines()[-1].startswith("predicted 4 of 5 cases")
