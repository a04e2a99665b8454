"""The table of the TGNet paper: a row per run; tasks, their organ and their tumour, Dice and HD95 as columns; averages.

Shape of Table 1 of Wu, Pang and Sowmya, "TGNet: A Task-Guided Network Architecture for Multi-Organ and Tumour
Segmentation from Partially Labelled Datasets", ISBI 2022. Distances here are in mm; the paper's are not, and must not
stand beside them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from nnunet_mtl.evaluation.units import LengthUnit

MISSING = "n/a"
# The ten characters that LaTeX reads as commands; three that the default font encoding prints as others; and two that
# the command which ends a row takes for its own argument where the next row begins with them.
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
    """What stands in a column.

    Attributes:
        task: Name of the task; "average" for the mean over the tasks.
        part: Slot of the region in its task, such as organ or tumour.
        metric: Key of the metric, as in `cases.csv`.
        title: How the metric is headed.
        scale: What values are multiplied with: 100 for per cent.
        digits: After the point.
    """

    task: str
    part: str
    metric: str
    title: str
    scale: float
    digits: int


@dataclass(frozen=True)
class ResultTable:
    """Mean metrics of some runs on the same cases.

    Attributes:
        columns: What stands where.
        rows: For each run one value a column; NaN where there is none.
        counts: For each run, of how many cases (or regions) each value is, in words; empty where nobody said.
    """

    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[float, ...]]
    counts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return the table for a README, the best value of a column in bold where there are several runs."""
        titles = (" ".join(filter(None, column[:2])) + f" {column.title}" for column in self.columns)
        lines = [["run", *map(_in_cell, titles)], ["---", *["---:"] * len(self.columns)]]
        for name, texts in self._texts("**{}**"):
            lines.append([_in_cell(name), *texts])
        lines += [[_in_cell(name), *texts] for name, texts in self._counts()]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self) -> str:
        """Return the table for a paper; it needs the package booktabs."""
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
        """Return a line of the numbers of cases: one for all runs if they are the same, else one for each."""
        if len(set(self.counts.values())) == 1:
            return [("of", next(iter(self.counts.values())))]
        return [(f"of ({name})", texts) for name, texts in self.counts.items()]

    def _spans(self, attribute: str) -> str:
        """Return a line of the head in which equal neighbours share a cell."""
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
# Higher Dice and lower distances are better.
_METRICS = (("dice", "Dice", 100.0, 2), ("hd95_mm", "HD95 ({unit})", 1.0, 2))
_HIGHER_IS_BETTER = {"dice"}
_AVERAGE = "average"


def result_table(
    means: Mapping[str, Mapping[str, Mapping[str, float]]],
    tasks: Mapping[str, Mapping[str, str]],
    n_cases: Mapping[str, Mapping[str, Mapping[str, int]]] = MappingProxyType({}),
    unit: LengthUnit = "mm",
) -> ResultTable:
    """Arrange mean metrics in the shape of the paper's table.

    An average is the mean over the regions that have a value, so that it is of the same regions for every run only if
    all runs have them; a run without one of the regions another has gets no average.

    Args:
        means: By run, region and metric; what is not there is missing.
        tasks: By task, its regions with the slot each uses.
        n_cases: Of how many cases each mean is, by run, region and metric; may be left out.
        unit: Of lengths.
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
        if any(_value(of_run, region, "dice") is not None for of_run in means.values())
    ]
    for metric, title, scale, digits in metrics:
        columns.append(Column(_AVERAGE, "", metric, title, scale, digits))
        picked.append(tuple(scored))
    rows = {
        run: tuple(
            _mean([_value(of_run, region, column.metric) for region in names])
            for column, names in zip(columns, picked, strict=True)
        )
        for run, of_run in means.items()
    }
    counts = {
        run: tuple(
            "" if math.isnan(value) else _count(names, column, of_run)
            for value, column, names in zip(rows[run], columns, picked, strict=True)
        )
        for run, of_run in n_cases.items()
    }
    return ResultTable(tuple(columns), rows, counts)


def _count(regions: Sequence[str], column: Column, n_cases: Mapping[str, Mapping[str, int]]) -> str:
    if column.task == _AVERAGE:
        return f"{len(regions)} region{'' if len(regions) == 1 else 's'}"
    number = n_cases[regions[0]][column.metric]
    return f"{number} case{'' if number == 1 else 's'}"


def _value(of_run: Mapping[str, Mapping[str, float]], region: str, metric: str) -> float | None:
    value = of_run.get(region, {}).get(metric)
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
