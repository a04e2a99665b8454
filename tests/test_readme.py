"""What the README says is run, or compared with the code."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from nnunet_mtl.cli import main
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [part for block in blocks("bash") for line in block.splitlines() for part in line.split("&&")]
    return [shlex.split(line) for line in lines]


def test_the_two_commands_of_a_fresh_machine_come_first() -> None:
    first, second, *_ = blocks("bash")
    assert first.strip() == 'pip install -e ".[test]" && nnunet_mtl demo'
    assert second.strip() == "python -m pytest"
    assert 'pip install --progress-bar off -e ".[test]"' in (ROOT / ".ci" / "run").read_text()


OURS = [words[1:] for words in commands() if words[0] == "nnunet_mtl"]


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_our_commands_are_understood(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Parsed with every option, then stopped by --help before anything runs."""
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--no_such_option"])
    unknown = capsys.readouterr().err.splitlines()[-1]
    assert unknown.endswith("unrecognized arguments: --no_such_option")


def test_what_to_do_without_a_gpu_stands_right_after_the_first_training() -> None:
    training = README[README.index("nnUNetv2_train ") :]
    assert "`-device cpu`" in training[:1000]


def test_the_example_of_a_block_is_valid() -> None:
    (example,) = blocks("json")
    tasks = TaskSet.from_dataset_json(json.loads(example), "README.md")
    assert tasks.annotated_tasks("liver_001") == (0, 2)


def test_the_table_of_settings_is_complete() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, flags=re.MULTILINE))
    assert len(rows) == len(re.findall(r"^\| `", text, flags=re.MULTILINE))  # each once
    defaults = {field.name: str(field.default) for field in dataclasses.fields(Settings)}
    assert {name: value.lower() for name, value in rows.items()} == {k: v.lower() for k, v in defaults.items()}
