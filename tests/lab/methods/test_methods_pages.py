"""The pages and figures in docs/methods are those of today's code; a failing test names the command that mends them."""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_mtl.lab.methods.catalogue import methods
from nnunet_mtl.lab.methods.cost import Cost
from nnunet_mtl.lab.methods.table import MethodTable, change

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs" / "methods"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md") if path.name != "README.md"}
RESULTS = ROOT / "benchmarks" / "results" / "methods.json"
LEAVES = {path.stem for path in (ROOT / "trainers").glob("nnUNetTrainer*.py")}


@pytest.fixture(scope="module")
def benchmark() -> Any:
    return runpy.run_path(str(ROOT / "benchmarks" / "methods.py"))


@pytest.fixture(scope="module")
def results() -> Any:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def command(names: set[str]) -> str:
    return f"run: python benchmarks/methods.py --only {' '.join(sorted(names))}"


def test_every_method_has_a_page_with_its_cost(table: MethodTable) -> None:
    for method, cost in table.rows:
        assert isinstance(cost, Cost)
        naming = [name for name, text in PAGES.items() if f"`{method.name}`" in text]
        assert naming, f"no page in docs/methods names {method.name}: see docs/add-a-method.md"
        stated = f"`{method.name}`[: |]+{re.escape(change(cost.added, table.stock.parameters))}"
        assert [name for name in naming if re.search(stated, PAGES[name])], command({method.name})
    assert change(table.multi_nets_added, table.stock.parameters) in PAGES["multi_nets.md"]


def named_tests(page: str) -> list[str]:
    return re.findall(r"`(tests/[\w/]+\.py)`", page)


RULES: dict[str, Callable[[str], Any]] = {
    "It has at most 50 lines.": lambda page: len(page.splitlines()) <= 50,
    "A code block without a language draws the method.": lambda page: "```\n" in page,
    'The words "our choice" mark what the paper leaves open and what was chosen.': lambda page: "our choice" in page,
    'A paragraph begins with "**Cost.**".': lambda page: "**Cost.**" in page,
    "It names trainers of this package only.": lambda page: set(re.findall(r"`(nnUNetTrainer\w+)`", page)) <= LEAVES,
    "It names at least one test by its path, and every test that it names exists.": lambda page: (
        named_tests(page) and all((ROOT / path).is_file() for path in named_tests(page))
    ),
    "The last three lines name the paper with its year.": lambda page: re.search(
        r"\b(19|20)\d\d\b", " ".join(page.splitlines()[-3:])
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(name: str) -> None:
    broken = [rule for rule, keeps in RULES.items() if not keeps(PAGES[name])]
    assert broken == [], f"docs/methods/{name}: see docs/add-a-method.md"


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        *zip(
            RULES,
            ["x\n" * 50, "```\n", "our choice", "**Cost.**", "`nnUNetTrainerTAL`", "`tests/conftest.py`", "2020\n" * 2],
            ["x\n" * 51, "```python\n", "a choice", "Cost.", "`nnUNetTrainerX`", "`tests/x.py`", "2020\n" + "x\n" * 3],
            strict=True,
        )
    ],
)
def test_a_rule_sees_what_breaks_it(rule: str, right: str, wrong: str) -> None:
    assert RULES[rule](right)
    assert not RULES[rule](wrong)


def test_the_rules_of_a_page_stand_where_authors_read_them() -> None:
    _, _, rules = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8").partition("The rules for a page")
    # what test_every_method_has_a_page_with_its_cost checks
    cost = (
        "Every trainer is named with its cost, as in `` `nnUNetTrainerHPS`: +0 (0.00 %) against stock ``; "
        "step 5 writes the number."
    )
    assert set(re.findall(r"^- (.*)$", rules, flags=re.MULTILINE)) == {*RULES, cost}


def test_the_tables_of_the_docs_are_generated(benchmark: Any, results: Any) -> None:
    for path in DOCS.glob("*.md"):
        generated = benchmark["written"](path, results)
        assert path.read_text(encoding="utf-8") == generated, "run: python benchmarks/methods.py --tables"


def test_the_index_has_every_trainer_and_every_page(benchmark: Any) -> None:
    lines = benchmark["index_table"]().splitlines()[2:]
    assert {line.split("`")[1] for line in lines if "`nnUNetTrainer" in line} >= LEAVES
    assert all(any(f"({name})" in line for line in lines) for name in PAGES)
    (tal,) = [
        line for line in lines if line.startswith("| `nnUNetTrainerTAL` | TAL: one softmax over all label values")
    ]
    assert tal.endswith(" | Fang and Yan, TMI 2020 | [TAL](tal.md) |")


def test_every_method_was_measured(results: Any) -> None:
    missing = {method.name for method in methods()} - set(results["measured"])
    assert not missing, command(missing)
    assert len(results["measured"]) == len(methods()) + 2, "run: python benchmarks/methods.py --tables"
    run = {"commit", "device", "load", "torch", "stock_step_seconds"}
    for name, row in results["measured"].items():
        assert row.keys() == run | {"flops_one_task", "step_seconds", "saved_bytes"}, command({name})


def test_a_row_is_relative_to_the_stock_network_of_the_same_run(benchmark: Any, results: Any) -> None:
    page = (DOCS / "README.md").read_text(encoding="utf-8")
    stock, dodnet = results["measured"]["stock"], results["measured"]["nnUNetTrainerDoDNet"]
    (row,) = [line for line in page.splitlines() if line.startswith("| `nnUNetTrainerDoDNet` | head")]
    assert row.split("|")[4] == " 1.011 "
    figures = [dodnet[key] / stock[key] for key in ("flops_one_task", "step_seconds", "saved_bytes")]
    assert row.split("|")[6:9] == [f" {figure:.2f} " for figure in figures]
    busier = {"nnUNetTrainerDoDNet": {**dodnet, "stock_step_seconds": 2 * dodnet["stock_step_seconds"]}}
    changed = benchmark["cost_table"]({**results, "measured": {**results["measured"], **busier}})
    (row,) = [line for line in changed.splitlines() if line.startswith("| `nnUNetTrainerDoDNet` | head")]
    assert row.split("|")[7] == f" {figures[1] / 2:.2f} "


def test_only_what_is_named_is_measured(benchmark: Any, results: Any) -> None:
    known = {method.name: method for method in methods()}
    name = "nnUNetTrainerCondNO"
    gone = {**results, "measured": {**results["measured"], "nnUNetTrainerGone": {}}}
    others = {key: value for key, value in known.items() if key != "nnUNetTrainerTAL"}
    after = benchmark["updated"](gone, [name], others, repeats=1)
    assert set(after["measured"]) == set(results["measured"]) - {"nnUNetTrainerTAL"}
    assert {key for key, row in after["measured"].items() if row != results["measured"][key]} == {name}
    assert {row["trainer"] for row in after["computed"]["methods"]} == set(others)
    row, before = after["measured"][name], results["measured"][name]
    assert row.keys() == before.keys()
    assert (row["flops_one_task"], row["saved_bytes"]) == (before["flops_one_task"], before["saved_bytes"])


def test_what_was_computed_then_is_what_is_computed_now(table: MethodTable, results: Any) -> None:
    texts = ("title", "paper", "source")
    now, then = json.loads(json.dumps([table.content(), results["computed"]]))
    rows = []
    for content in (now, then):
        for row in content["methods"]:
            for key in texts:
                del row[key]
        rows.append({row["trainer"]: row for row in content.pop("methods")})
    differ = {name for name in rows[0] if rows[0][name] != rows[1].get(name)}
    assert not differ, command(differ)
    assert rows[0] == rows[1], "run: python benchmarks/methods.py --tables"
    assert now == then, "run: python benchmarks/methods.py"
