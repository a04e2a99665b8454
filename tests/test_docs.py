"""The site that Sphinx makes of docs/: its order, its links, and how it is built."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
BUILD = "python -m sphinx -W --keep-going -b html docs docs/_build/html"


def trees() -> Iterator[tuple[str, list[str]]]:
    """Yield caption and entries of every toctree of the front page."""
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    for block in re.findall(r"```\{toctree\}\n(.*?)```", text, flags=re.DOTALL):
        options, entries = block.split("\n\n")
        yield re.findall(r":caption: (.*)", options)[0], entries.split()


def test_the_site_is_ordered_by_what_a_person_wants_to_do() -> None:
    assert [caption for caption, _ in trees()] == [
        *("Start", "Bring data", "Train", "Predict", "Evaluate", "Submit"),
        *("Add a method", "How it works", "Methods by paper"),
    ]


def test_every_page_is_in_the_site() -> None:
    entries = [entry for _, names in trees() for entry in names]
    listed = {path for entry in entries for path in DOCS.glob(f"{entry}.md")} | {DOCS / "index.md"}
    api = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    listed |= {DOCS / "api" / f"{name}.md" for name in re.findall(r"^\w+$", api, flags=re.MULTILINE)}
    assert listed == set(PAGES)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_a_warning_of_sphinx_fails_every_build() -> None:
    workflow = (ROOT / ".github" / "workflows" / "docs.yml").read_text(encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert BUILD in workflow
    assert BUILD in contributing
    assert "python -m sphinx -W --keep-going" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
