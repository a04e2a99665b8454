"""The result table: one row for every run, columns for Dice and HD95 of every organ and tumour, and their averages.

The layout is that of Table 1 of Wu, Pang and Sowmya, "TGNet: A Task-Guided Network Architecture for Multi-Organ and
Tumour Segmentation from Partially Labelled Datasets", ISBI 2022. Distances are in mm here and not in the paper: do not
put both into one table.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from nnunet_mtl.evaluation.metrics.length_unit import LengthUnit

MISSING = "n/a"
# Ten characters that LaTeX reads as commands, three that the default font encoding prints as other characters, and two
# that the command at the end of a row takes for its argument if the next row begins with them.
_LATEX = {letter: rf"\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "*": "{*}",
}


class Column(NamedTuple):
    """Position, title and number format of a column.

    Attributes:
        task: Name of the task; "average" for the mean over the tasks.
        part: Slot of the region in the task, such as organ or tumour.
        metric: Name of the metric, as in `cases.csv`.
        title: Title of the metric.
        scale: Factor of the values: 100 for per cent.
        digits: Digits after the decimal point.
    """

    task: str
    part: str
    metric: str
    title: str
    scale: float
    digits: int


@dataclass(frozen=True)
class ResultTable:
    """Mean metrics of runs on the same cases.

    Attributes:
        columns: The columns from left to right.
        rows: One value for every column, by run; NaN where a value is missing.
        counts: Number of cases (or regions) behind every value, in words, by run; empty if unknown.
    """

    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[float, ...]]
    counts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return the table in Markdown; with several runs the best value of every column is bold."""
        titles = (" ".join(filter(None, column[:2])) + f" {column.title}" for column in self.columns)
        lines = [["run", *map(_in_cell, titles)], ["---", *["---:"] * len(self.columns)]]
        for name, texts in self._texts("**{}**"):
            lines.append([_in_cell(name), *texts])
        lines += [[_in_cell(name), *texts] for name, texts in self._counts()]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self) -> str:
        """Return the table in LaTeX, which needs the package booktabs."""
        lines = [rf"\begin{{tabular}}{{l{'r' * len(self.columns)}}}", r"\toprule"]
        for attribute in ("task", "part"):
            lines.append(f"{self._spans(attribute)} \\\\")
        lines.append(" & ".join(["run", *(_escaped(column.title) for column in self.columns)]) + r" \\")
        lines.append(r"\midrule")
        for name, texts in self._texts(r"\textbf{{{}}}"):
            lines.append(" & ".join([_escaped(name), *texts]) + r" \\")
        lines += [" & ".join([_escaped(name), *texts]) + r" \\" for name, texts in self._counts()]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def _counts(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the rows with the numbers of cases: one row if all runs agree, else one row for every run."""
        if len(set(self.counts.values())) == 1:
            return [("of", next(iter(self.counts.values())))]
        return [(f"of ({name})", texts) for name, texts in self.counts.items()]

    def _spans(self, attribute: str) -> str:
        """Return a row of the head in which equal neighbours share a cell."""
        cells: list[tuple[object, str, int]] = []
        for column in self.columns:
            key = (column.task, column.part) if attribute == "part" else column.task
            if cells and cells[-1][0] == key:
                cells[-1] = (key, cells[-1][1], cells[-1][2] + 1)
            else:
                cells.append((key, getattr(column, attribute), 1))
        return "".join(rf" & \multicolumn{{{width}}}{{c}}{{{_escaped(text)}}}" for _, text, width in cells).lstrip()

    def _texts(self, best: str) -> Iterator[tuple[str, list[str]]]:
        winners = [_best([values[i] for values in self.rows.values()], column) for i, column in enumerate(self.columns)]
        for name, values in self.rows.items():
            texts = []
            for value, column, winner in zip(values, self.columns, winners, strict=True):
                text = MISSING if math.isnan(value) else f"{value * column.scale:.{column.digits}f}"
                texts.append(best.format(text) if len(self.rows) > 1 and value == winner else text)
            yield name, texts


METRICS_OF_TABLE = ("dice", "hd95_mm")
_METRICS = (("dice", "Dice", 100.0, 2), ("hd95_mm", "HD95 ({unit})", 1.0, 2))
_HIGHER_IS_BETTER = {"dice"}
_AVERAGE = "average"


def result_table(
    means: Mapping[str, Mapping[str, Mapping[str, float]]],
    tasks: Mapping[str, Mapping[str, str]],
    n_cases: Mapping[str, Mapping[str, Mapping[str, int]]] = MappingProxyType({}),
    unit: LengthUnit = "mm",
) -> ResultTable:
    """Arrange mean metrics in the layout of the paper's table.

    The average is the mean over all regions for which any run has a Dice. A run without a value for one of these
    regions gets no average, so that all averages cover the same regions.

    Args:
        means: Mean metrics by run, region and metric; a missing key is a missing value.
        tasks: Slot by task and region.
        n_cases: Number of cases behind every mean, by run, region and metric; may be left out.
        unit: Unit of lengths.
    """
    metrics = [(metric, title.format(unit=unit), scale, digits) for metric, title, scale, digits in _METRICS]
    regions = [(task, slot, region) for task, slots in tasks.items() for region, slot in slots.items()]
    columns: list[Column] = []
    picked: list[tuple[str, ...]] = []
    for task, slot, region in regions:
        for metric, title, scale, digits in metrics:
            columns.append(
                Column(task, slot if len(tasks[task]) > 1 or slot != task else "", metric, title, scale, digits)
            )
            picked.append((region,))
    scored = [
        region
        for _, _, region in regions
        if any(_value(run_means, region, "dice") is not None for run_means in means.values())
    ]
    for metric, title, scale, digits in metrics:
        columns.append(Column(_AVERAGE, "", metric, title, scale, digits))
        picked.append(tuple(scored))
    rows = {
        run: tuple(
            _mean([_value(run_means, region, column.metric) for region in names])
            for column, names in zip(columns, picked, strict=True)
        )
        for run, run_means in means.items()
    }
    counts = {
        run: tuple(
            "" if math.isnan(value) else _count(names, column, run_counts)
            for value, column, names in zip(rows[run], columns, picked, strict=True)
        )
        for run, run_counts in n_cases.items()
    }
    return ResultTable(tuple(columns), rows, counts)


def _count(regions: Sequence[str], column: Column, n_cases: Mapping[str, Mapping[str, int]]) -> str:
    if column.task == _AVERAGE:
        return f"{len(regions)} region{'' if len(regions) == 1 else 's'}"
    number = n_cases[regions[0]][column.metric]
    return f"{number} case{'' if number == 1 else 's'}"


def _value(means: Mapping[str, Mapping[str, float]], region: str, metric: str) -> float | None:
    value = means.get(region, {}).get(metric)
    return None if value is None or math.isnan(value) else value


def _mean(values: Sequence[float | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else math.nan


def _best(values: Sequence[float], column: Column) -> float:
    present = [value for value in values if not math.isnan(value)]
    if not present:
        return math.nan
    return max(present) if column.metric in _HIGHER_IS_BETTER else min(present)


def _in_cell(text: str) -> str:
    return text.replace("|", r"\|")


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
