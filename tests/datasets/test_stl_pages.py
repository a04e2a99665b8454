"""The commands of docs/stl.md and docs/cascade.md are understood as they stand there."""

import re
import shlex
from pathlib import Path

import pytest

from nnunet_mtl.cli import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {name: (DOCS / name).read_text(encoding="utf-8") for name in ("stl.md", "cascade.md")}
BLOCKS = [block for page in PAGES.values() for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)]
OURS = [shlex.split(line)[1:] for block in BLOCKS for line in block.splitlines() if line.startswith("nnunet_mtl ")]


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_the_commands_of_the_pages_are_understood(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--no_such_option"])
    assert capsys.readouterr().err.splitlines()[-1].endswith("unrecognized arguments: --no_such_option")


def test_both_pages_have_commands():
    assert {words[0] for words in OURS} >= {"extract", "cascade-predict", "merge-predictions", "evaluate"}
