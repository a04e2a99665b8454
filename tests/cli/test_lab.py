import json
from pathlib import Path

import pytest

from nnunet_mtl.cli import main


def test_phantoms_from_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    words = ["--cases_per_task", "1", "--test_cases", "1", "--image_size", "16", "24", "24", "--seed", "3"]
    assert main(["phantom", "-d", "7", "--name", "Small", *words]) == 0
    dataset_json = json.loads((tmp_path / "Dataset007_Small" / "dataset.json").read_text())
    assert len(list((tmp_path / "Dataset007_Small" / "imagesTr").iterdir())) == dataset_json["numTraining"]
    assert "nnUNetv2_plan_and_preprocess -d 7" in capsys.readouterr().out.splitlines()[-1]
    assert main(["phantom", "-d", "7", "--name", "Other"]) == 2
    assert "taken by Dataset007_Small" in capsys.readouterr().err
    assert main(["phantom", "-d", "7", "--name", "Small"]) == 2
