"""A model that nnU-Net exported and installed answers as it did in the training folder."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file

from nnunet_mtl.cli import main
from nnunet_mtl.inference.model_folder import read_checkpoint
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention

pytestmark = pytest.mark.slow

TRAIN = ["liver_001", "liver_003", "kidney_000", "kidney_002", "spleen_000"]
VALIDATION = ["liver_000", "liver_002", "kidney_001", "kidney_003", "spleen_001"]


def with_labels(prepared: Any) -> dict[str, Any]:
    """Two benign and two malignant cases in the validation part; no label of severity in the training part."""
    dataset_json: dict[str, Any] = json.loads(json.dumps(prepared.dataset_json))
    cases = dataset_json["nnunet_mtl"]["cases"]
    for number, case in enumerate(VALIDATION[:4]):
        cases[case]["classes"] = {"malignancy": ("benign", "malignant")[number % 2], "severity": "mild"}
    for case in TRAIN:
        cases[case].setdefault("classes", {}).pop("severity", None)
    return dataset_json


@pytest.fixture(scope="module")
def trained(prepared: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of two epochs with two cases of each class in its validation part, validated by both checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        results = tmp_path_factory.mktemp("results")
        patch.setenv("nnUNet_results", str(results))
        torch.manual_seed(0)
        plans = prepared.plans("tiny")
        trainer = nnUNetTrainerMTLAttention(plans, "3d_fullres", 0, with_labels(prepared), torch.device("cpu"))
        patch.setattr(trainer, "do_split", lambda: (TRAIN, VALIDATION))
        trainer.run_training()
        trainer.perform_actual_validation()
        yield trainer


def answers(model: Path, images: Path, output: Path, *words: str) -> dict[str, Any]:
    here = ("-f", "0", "-npp", "0", "-nps", "0", "-device", "cpu", "--disable_progress_bar")
    assert main(["predict", "-i", str(images), "-o", str(output), "-m", str(model), *here, *words]) == 0
    content: dict[str, Any] = json.loads((output / "classification.json").read_text())
    return {"csv": (output / "classification.csv").read_text(), "tasks": content["tasks"], "cases": content["cases"]}


@pytest.fixture
def images(prepared: Any, tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for case in ("liver_000", "kidney_001"):
        shutil.copy(prepared.raw / "imagesTr" / f"{case}_0000.nii.gz", tmp_path / "images")
    return tmp_path / "images"


def test_the_zip_answers_as_the_training_folder(
    trained: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(trained.output_folder_base)
    here = answers(model, images, tmp_path / "here")
    (temperature,) = here["tasks"]["malignancy"]["temperatures"]
    assert here["tasks"]["malignancy"]["calibrated"] == [True]
    assert not math.isclose(temperature, 1.0)
    assert here["cases"]["liver_000"]["severity"]["answer"] is None  # never taught
    archive, elsewhere = tmp_path / "model.zip", tmp_path / "elsewhere"
    export_pretrained_model(900, str(archive), ("3d_fullres",), type(trained).__name__, "tiny", (0,))
    elsewhere.mkdir()
    monkeypatch.setattr("nnunetv2.model_sharing.model_import.nnUNet_results", str(elsewhere))
    install_model_from_zip_file(str(archive))
    installed = elsewhere / model.parent.name / model.name
    assert answers(installed, images, tmp_path / "there") == here


def test_validating_the_best_checkpoint_leaves_the_final_one_alone(trained: Any, images: Path, tmp_path: Path) -> None:
    fold = Path(trained.output_folder)
    final = (fold / "checkpoint_final.pth").read_bytes()
    assert "calibrations" not in read_checkpoint(fold / "checkpoint_best.pth")["nnunet_mtl"]
    before = answers(fold.parent, images, tmp_path / "before", "-chk", "checkpoint_best.pth")
    assert before["tasks"]["malignancy"]["calibrated"] == [False]
    trained.load_checkpoint(str(fold / "checkpoint_best.pth"))
    trained.perform_actual_validation()
    assert (fold / "checkpoint_final.pth").read_bytes() == final
    after = answers(fold.parent, images, tmp_path / "after", "-chk", "checkpoint_best.pth")
    assert after["tasks"]["malignancy"]["calibrated"] == [True]
    assert not list(fold.glob("classification*"))
