import dataclasses

import pytest

from nnunet_mtl.cli import main
from nnunet_mtl.planning.settings_help import settings_help
from nnunet_mtl.tasks.settings import Settings


def test_every_setting_is_listed_with_default_choices_and_meaning() -> None:
    lines = settings_help().splitlines()
    names = [line.partition("=")[0] for line in lines[::2]]
    assert sorted(names) == sorted(setting.name for setting in dataclasses.fields(Settings))
    assert all(len(meaning.strip()) > 10 for meaning in lines[1::2])
    assert lines[0] == "epochs=1000 (an integer)"
    assert lines[1] == "    Number of training epochs."
    assert "sampling=cases (cases, tasks, sqrt)" in lines
    assert "mirroring=true (true or false)" in lines
    given = [line.partition(" ")[0] for line in lines[::2] if not line.startswith("region_embedding_file")]
    assert Settings.parse(given, {}) == Settings()  # what is printed can be typed


def test_set_help_needs_no_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["plan", "--set", "help"])
    assert capsys.readouterr().out == f"{settings_help()}\n"
