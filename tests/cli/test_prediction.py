"""`nnunet_mtl cascade-predict` as it is typed, on real networks that were never trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from nnunet_mtl.cli import main
from nnunet_mtl.trainers.nnUNetTrainerMTLNoAttention import nnUNetTrainerMTLNoAttention

pytestmark = pytest.mark.slow
HERE = ("-device", "cpu", "--disable_progress_bar")


def trained(prepared):
    trainer = nnUNetTrainerMTLNoAttention(
        prepared.plans("tiny"), "3d_fullres", 0, json.loads(json.dumps(prepared.dataset_json)), torch.device("cpu")
    )
    trainer.initialize()
    for name, content in (("dataset.json", trainer.dataset_json), ("plans.json", trainer.plans_manager.plans)):
        Path(trainer.output_folder_base, name).write_text(json.dumps(content))
    trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    return trainer.output_folder_base


def array(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_the_root_is_as_predict_has_it_and_the_child_inside(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    torch.manual_seed(0)
    model = trained(prepared)
    nested = {key: value for key, value in prepared.dataset_json.items() if key != "nnunet_mtl"}
    nested |= {"labels": {"background": 0, "liver": [1, 2], "liver_tumour": [2]}, "regions_class_order": [1, 2]}
    (tmp_path / "raw" / "Dataset901_Nested").mkdir(parents=True)
    (tmp_path / "raw" / "Dataset901_Nested" / "dataset.json").write_text(json.dumps(nested))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    images = tmp_path / "images"
    images.mkdir()
    for case in ("liver_000", "spleen_001"):
        path = prepared.raw / "imagesTr" / f"{case}_0000.nii.gz"
        (images / path.name).write_bytes(path.read_bytes())
    stock = tmp_path / "stock"
    words = ("-m", model, "-f", "0", "--save-per-task", "-npp", "0", "-nps", "0")
    assert main(["predict", "-i", str(images), "-o", str(stock), *words, *HERE]) == 0
    models = [f"{task}={model}" for task in ("liver", "liver_tumour")]
    words = ["-d", "901", "-i", str(images), "-o", str(tmp_path / "out"), "-m", *models, "--margin", "3"]
    assert main(["cascade-predict", *words, *HERE]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("predicted 2 of 2 cases in ")
    assert "liver_tumour " in line
    assert line.endswith(f"label maps: {tmp_path / 'out'}")
    for case in ("liver_000", "spleen_001"):
        union, own = array(tmp_path / "out" / f"{case}.nii.gz"), array(stock / "liver" / f"{case}.nii.gz")
        # nnU-Net paints the tumour over the liver, also where there is none
        sure = own != 2
        np.testing.assert_array_equal((union > 0)[sure], (own == 1)[sure])
        assert not (union == 2)[own == 0].any()
    (tmp_path / "images" / "bad_0001.nii.gz").write_bytes(b"")
    assert main(["cascade-predict", *words, "--continue_prediction", *HERE]) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert "1 failed (bad), 2 were there already" in line
