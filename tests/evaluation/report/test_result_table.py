import math
import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nnunet_mtl.evaluation.report.result_table import result_table

TASKS = {"liver": {"liver": "organ", "liver_tumour": "tumour"}, "vessel": {"vessel": "vessel"}}
MEANS = {
    "ours": {
        "liver": {"dice": 0.9, "hd95_mm": 4.0},
        "liver_tumour": {"dice": 0.6, "hd95_mm": 10.0},
        "vessel": {"dice": 0.3, "hd95_mm": 7.0},
    },
    "their_run": {"liver": {"dice": 0.8, "hd95_mm": 3.0}, "vessel": {"dice": 0.3, "hd95_mm": math.nan}},
}


def cells(line):
    return [cell.strip() for cell in line.strip("|\n ").split("|")]


def test_markdown_has_a_row_per_run_and_the_averages_by_hand():
    head, rule, ours, theirs = result_table(MEANS, TASKS).markdown().splitlines()
    assert cells(head) == [
        "run",
        *("liver organ Dice", "liver organ HD95 (mm)", "liver tumour Dice", "liver tumour HD95 (mm)"),
        *("vessel Dice", "vessel HD95 (mm)", "average Dice", "average HD95 (mm)"),
    ]
    assert set(rule) == set("|-: ")
    assert cells(ours)[1:] == [
        "**90.00**",
        "4.00",
        "**60.00**",
        "**10.00**",
        "**30.00**",
        "**7.00**",
        "**60.00**",
        "**7.00**",
    ]
    # without the tumour's Dice or the vessel's distance there is no average to compare
    assert cells(theirs)[1:] == ["80.00", "**3.00**", "n/a", "n/a", "**30.00**", "n/a", "n/a", "n/a"]


def test_a_single_run_has_nothing_in_bold():
    assert "**" not in result_table({"ours": MEANS["ours"]}, TASKS).markdown()


def test_regions_that_no_run_has_do_not_take_the_average_away():
    table = result_table({"one": {"liver": {"dice": 0.5, "hd95_mm": 1.0}}}, TASKS)
    names = [column.task + column.part + column.title for column in table.columns]
    values = dict(zip(names, table.rows["one"], strict=True))
    assert values["averageDice"] == 0.5
    assert math.isnan(values["vesselDice"])


def test_latex_spans_tasks_and_escapes_names():
    text = result_table(MEANS, TASKS).latex()
    lines = text.splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrrrrr}"
    assert lines[2] == (r"& \multicolumn{4}{c}{liver} & \multicolumn{2}{c}{vessel} & \multicolumn{2}{c}{average} \\")
    assert r"their\_run & 80.00 & \textbf{3.00}" in text
    assert all(line.count("&") == 8 for line in lines if line.startswith(("run", "ours", r"their\_run")))


def test_the_better_value_is_the_higher_dice_and_the_lower_distance():
    table = result_table(
        {"a": {"liver": {"dice": 0.1, "hd95_mm": 9.0}}, "b": {"liver": {"dice": 0.2, "hd95_mm": 8.0}}}, TASKS
    )
    first, second = table.markdown().splitlines()[2:]
    assert "**" not in first
    assert second.count("**") == pytest.approx(8)  # liver and average, Dice and distance


def test_every_figure_says_of_how_many_cases_it_is():
    counts = {
        "ours": {region: {"dice": 6, "hd95_mm": 4} for region in ("liver", "liver_tumour", "vessel")},
        "their_run": {"liver": {"dice": 6, "hd95_mm": 5}, "vessel": {"dice": 1, "hd95_mm": 0}},
    }
    of_ours = ["6 cases", "4 cases"] * 3 + ["3 regions"] * 2
    of_theirs = ["6 cases", "5 cases", "", "", "1 case", "", "", ""]
    table = result_table(MEANS, TASKS, counts)
    every = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.markdown().splitlines()]
    assert every[4:] == [
        ["of (ours)", *of_ours],
        ["of (their_run)", *of_theirs],
    ]
    lines = table.latex().splitlines()
    assert lines[-4].startswith(r"of (ours) & 6 cases & 4 cases & 6 cases")
    assert lines[-3].startswith(r"of (their\_run) & 6 cases & 5 cases &  & ")
    alone = result_table({"ours": MEANS["ours"]}, TASKS, {"ours": counts["ours"]})
    assert cells(alone.markdown().splitlines()[3]) == ["of", *of_ours]


def as_latex_prints(text):
    """What LaTeX prints of a text; fails on a character that is a command or prints another one."""
    commands = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^"}
    commands |= {"textless": "<", "textgreater": ">", "textbar": "|"}
    tokens = re.compile(
        r"\\(?P<name>[a-z]+)\{\}|\\(?P<symbol>[&%$#_{}])|\{(?P<group>[\[*])\}|(?P<plain>[^\\&%$#_{}~^<>|\[*])"
    )
    printed, at = "", 0
    while at < len(text):
        token = tokens.match(text, at)
        assert token, f"LaTeX reads {text[at:]!r} as a command"
        printed += commands[token["name"]] if token["name"] else token[token.lastgroup]
        at = token.end()
    return printed


NAMES = st.text(alphabet=string.ascii_letters + string.digits + string.punctuation + "äß ", min_size=1)


@given(run=NAMES, task=NAMES)
@example(run="a\\b^c~d", task="&%$#_{}~^\\")
@example(run="[5mm]", task="*")
def test_latex_prints_every_name_as_it_is(run, task):
    means = {run: {"liver": {"dice": 0.9, "hd95_mm": 4.0}}}
    head, _, _, row = [
        line for line in result_table(means, {task: {"liver": "organ"}}).latex().splitlines() if "&" in line
    ]
    assert as_latex_prints(row.split(" & ")[0]) == run
    (spanned, _) = re.findall(r"\\multicolumn\{2\}\{c\}\{(.*?)\}(?= & | \\\\$)", head)
    assert as_latex_prints(spanned) == task


def test_markdown_cells_are_whole():
    lines = result_table(MEANS, {"a|b": {"liver": "x|y", "liver_tumour": "z"}}).markdown().splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}
