"""What README.md and the pages of docs/ say is compared with the code."""

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
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Pages whose blocks no other test parses.
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        *(f"docs/{page}.md" for page in ("start", "data", "train", "predict", "submit", "postprocessing")),
        *(f"docs/{page}.md" for page in ("classification", "evaluation", "loss_weighting", "regression")),
    )
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[list[str]]:
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    return [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]


def test_the_two_commands_of_a_fresh_machine_come_first() -> None:
    first, second, *_ = blocks(README, "bash")
    assert first.strip() == 'pip install -e ".[test]" && nnunet_mtl demo'
    assert second.strip() == "python -m pytest"
    assert 'pip install --progress-bar off -e ".[test]"' in (ROOT / ".ci" / "run").read_text()


def test_own_data_takes_six_commands() -> None:
    third = blocks(README, "bash")[2]
    assert [line.split()[0] for line in third.splitlines()] == [
        *("nnunet_mtl", "nnUNetv2_plan_and_preprocess", "nnunet_mtl"),
        *("nnUNetv2_train", "nnunet_mtl", "nnunet_mtl"),
    ]


def test_the_readme_is_short_and_shows_a_picture() -> None:
    assert len(README.splitlines()) <= 150
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")


OURS = {
    f"{page}: {' '.join(words)}": words[1:]
    for page, text in PAGES.items()
    for words in commands(text)
    if words[0] == "nnunet_mtl"
}


@pytest.mark.parametrize("words", OURS.values(), ids=OURS)
def test_our_commands_are_understood(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Parsed with every option, then stopped by --help before anything runs."""
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--no_such_option"])
    unknown = capsys.readouterr().err.splitlines()[-1]
    assert unknown.endswith("unrecognized arguments: --no_such_option")


@pytest.mark.parametrize("page", ["README.md", "docs/train.md"])
def test_what_to_do_without_a_gpu_stands_right_after_the_first_training(page: str) -> None:
    training = PAGES[page][PAGES[page].index("nnUNetv2_train ") :]
    assert "`-device cpu`" in training[:1000]


def test_the_example_of_a_block_is_valid() -> None:
    (example,) = blocks(PAGES["docs/data.md"], "json")
    tasks = TaskSet.from_dataset_json(json.loads(example), "docs/data.md")
    assert tasks.annotated_tasks("liver_001") == (0, 2)


def test_the_table_of_settings_is_complete() -> None:
    text = (DOCS / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, flags=re.MULTILINE))
    assert len(rows) == len(re.findall(r"^\| `", text, flags=re.MULTILINE))  # each once
    defaults = {field.name: str(field.default) for field in dataclasses.fields(Settings)}
    assert {name: value.lower() for name, value in rows.items()} == {k: v.lower() for k, v in defaults.items()}
