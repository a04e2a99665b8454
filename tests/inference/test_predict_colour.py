"""Colour pictures, three channels in a file, on an untrained network.

Of nnU-Net's other readers SimpleITK's reads several channels from a 4D file, which it then cannot write a map of.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mtl.cli import main
from nnunet_mtl.trainers.nnUNetTrainerMTLNoAttention import nnUNetTrainerMTLNoAttention

pytestmark = pytest.mark.slow


def colour_picture(path: Path, seed: int) -> None:
    """Three channels in one file."""
    values = np.random.default_rng(seed).integers(1, 255, (40, 36, 3)).astype(np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values, isVector=True), str(path))


def model_of(prepared: Any, channels: int, reader: str, ending: str, configuration: str) -> Path:
    """Write a model that reads so many channels."""
    plans, dataset_json = prepared.plans("tiny"), deepcopy(prepared.dataset_json)
    of_channel = plans["foreground_intensity_properties_per_channel"]
    plans |= {
        "image_reader_writer": reader,
        "foreground_intensity_properties_per_channel": {str(i): of_channel["0"] for i in range(channels)},
    }
    for planned in plans["configurations"].values():
        if "normalization_schemes" in planned:
            planned["normalization_schemes"] = ["ZScoreNormalization"] * channels
            planned["use_mask_for_norm"] = [False] * channels
    dataset_json |= {"channel_names": {str(i): f"channel {i}" for i in range(channels)}, "file_ending": ending}
    torch.manual_seed(0)
    trainer = nnUNetTrainerMTLNoAttention(plans, configuration, 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    for name, content in (("dataset.json", trainer.dataset_json), ("plans.json", trainer.plans_manager.plans)):
        Path(trainer.output_folder_base, name).write_text(json.dumps(content))
    trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    return Path(trainer.output_folder_base)


def test_a_colour_picture_is_predicted_as_by_stock(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)
    images, cases = tmp_path / "images", ("case_a", "case_b")
    for folder in (images, tmp_path / "stock"):
        folder.mkdir()
    for seed, case in enumerate(cases):
        colour_picture(images / f"{case}_0000.png", seed)
    model = model_of(prepared, 3, "NaturalImage2DIO", ".png", "2d")
    words = ["-i", str(images), "-o", str(tmp_path / "ours"), "-device", "cpu", "--disable_progress_bar"]
    assert main(["predict", *words, "-m", str(model), "-f", "0", "-npp", "0", "-nps", "0", "--disable_tta"]) == 0
    assert "predicted 2 of 2 cases" in capsys.readouterr().out
    stock = nnUNetPredictor(0.5, True, False, False, torch.device("cpu"), allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(model), (0,))
    stock.predict_from_files_sequential(str(images), str(tmp_path / "stock"))
    for case in cases:
        ours, theirs = (
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / place / f"{case}.png")))
            for place in ("ours", "stock")
        )
        np.testing.assert_array_equal(ours, theirs)
        assert len(np.unique(ours)) > 1
