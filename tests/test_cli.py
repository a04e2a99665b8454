import json
from pathlib import Path

import pytest

from nnunet_mtl import __version__
from nnunet_mtl.cli import main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"nnunet_mtl {__version__}\n"


def test_env_prints_one_line_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("export nnUNet_extTrainer=")


def test_an_error_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert main(["sync", "-d", "900"]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("nnunet_mtl: error: ")
    assert "900" in line


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


def test_ctrl_c_is_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("nnunet_mtl.discovery.env_line", interrupted)
    assert main(["env"]) == 130
    assert capsys.readouterr().err == "nnunet_mtl: stopped\n"
