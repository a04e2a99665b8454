import pytest

from nnunet_mtl.cli import main


def test_env_prints_one_line_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("export nnUNet_extTrainer=")


def test_enable_and_disable_are_discoverys(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_mtl.discovery.enable", lambda: "enabled: by the test")
    monkeypatch.setattr("nnunet_mtl.discovery.disable", lambda: "disabled: by the test")
    assert [main(["enable"]), main(["disable"])] == [0, 0]
    assert capsys.readouterr().out.splitlines() == ["enabled: by the test", "disabled: by the test"]
