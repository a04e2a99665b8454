import shlex
import sys
from pathlib import Path

import pytest

from nnunet_mtl.lab.demo.commands import CommandError, CommandRunner, chain_environment


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def runner(tmp_path: Path, lines: list[str]) -> CommandRunner:
    return CommandRunner(chain_environment(tmp_path, tmp_path / "shim"), tmp_path / "log", lines.append)


PYTHON = Path(sys.executable).name


def test_output_goes_to_the_log_and_chosen_lines_to_the_terminal(
    runner: CommandRunner, lines: list[str], tmp_path: Path
) -> None:
    script = "print('one'); print('two')"
    runner.run(PYTHON, "-c", script, show=lambda line: line.upper() if line == "two" else None)
    assert (tmp_path / "log").read_text().splitlines()[-2:] == ["one", "two"]
    assert [line.split("] ")[1].strip() for line in lines[1:]] == ["TWO"]
    (command,) = runner.ran
    assert shlex.split(command.line) == [PYTHON, "-c", script]
    assert command.seconds > 0


def test_a_failing_command_is_an_error_with_its_last_lines(runner: CommandRunner) -> None:
    with pytest.raises(CommandError, match=r"status 3; log: .*log; last lines:\nthe reason"):
        runner.run(PYTHON, "-c", "import sys; print('the reason'); sys.exit(3)")
    assert runner.ran == []


def test_a_command_that_is_not_installed(runner: CommandRunner) -> None:
    with pytest.raises(CommandError, match="no_such_command is neither beside"):
        runner.run("no_such_command")


def test_the_users_own_folders_are_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "/the/users/own")
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    environment = chain_environment(tmp_path, tmp_path / "shim")
    assert environment["nnUNet_raw"] == str(tmp_path / "nnUNet_raw")
    assert "nnUNet_wandb_enabled" not in environment
    assert environment["nnUNet_extTrainer"] == str(tmp_path / "shim")
