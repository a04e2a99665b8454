"""What all commands have in common: help without heavy imports, one line for an error, the exit status."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_mtl import __version__, cli
from nnunet_mtl.cli import main
from nnunet_mtl.cli.command_line import COMMANDS, GROUPS

# Prints the status of `nnunet_mtl WORDS --help`, and which of the slow packages were imported up to its end.
HELP = """
import contextlib, io, json, sys
from nnunet_mtl.cli import main

for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            status = main([*words, "--help"])
        except SystemExit as stop:
            status = stop.code
    assert " ".join(["usage: nnunet_mtl", *words]) in text.getvalue()
    print(json.dumps([words, status, sorted({"numpy", "torch", "nnunetv2"} & sys.modules.keys())]))
"""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"nnunet_mtl {__version__}\n"


def test_no_help_imports_numpy_or_torch_or_nnunet() -> None:
    every = [[], *([name] for name in COMMANDS)]
    words = [sys.executable, "-c", HELP, json.dumps(every)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert [json.loads(line) for line in run.stdout.splitlines()] == [[words, 0, []] for words in every]


def test_the_help_lists_every_command_under_its_heading(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    _, *listings = re.split(r"\n\n(?=[a-z ]+:\n  [a-z])", capsys.readouterr().out)
    assert [listing.partition(":")[0] for listing in listings] == [
        "setting up", "data", "training", "prediction", "evaluation", "lab",
    ]  # fmt: skip
    for group, listing in zip(GROUPS, listings, strict=True):
        lines = [line.split(maxsplit=1) for line in listing.strip().splitlines()[1:]]
        assert lines == [[command.name, command.summary] for command in group.commands]


def test_a_narrow_terminal_breaks_the_summaries_beside_the_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) < 80


def test_without_a_command_all_are_listed_and_the_status_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    captured = capsys.readouterr()
    assert not captured.out
    assert all(f"\n  {name} " in captured.err for name in COMMANDS)
    assert captured.err.endswith("nnunet_mtl: error: the following arguments are required: COMMAND\n")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("COMAND", ""), ("evalute", " (did you mean evaluate?)"), ("cascade_predict", " (did you mean cascade-predict?)")],
)
def test_a_mistyped_command_names_the_nearest(capsys: pytest.CaptureFixture[str], word: str, hint: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([word, "-d", "900"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"nnunet_mtl: error: unknown command '{word}'{hint}; `nnunet_mtl --help` lists all commands"


def test_every_group_is_a_short_file() -> None:
    files = sorted(Path(cli.__file__).parent.glob("*.py"))
    assert {f"{group.heading.replace(' ', '_')}.py" for group in GROUPS} < {path.name for path in files}
    assert [path.name for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 150] == []


def test_an_error_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert main(["sync", "-d", "900"]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("nnunet_mtl: error: ")
    assert "900" in line


def test_ctrl_c_is_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("nnunet_mtl.discovery.env_line", interrupted)
    assert main(["env"]) == 130
    assert capsys.readouterr().err == "nnunet_mtl: stopped\n"
