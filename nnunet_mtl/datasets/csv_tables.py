"""CSV tables as spreadsheets leave them: with a byte-order mark, semicolons, decimal commas and empty lines.

A spreadsheet turns the identifier `007` into `7`, which cannot be undone, because two cases may differ in zeros alone.
Such identifiers are reported and never matched.
"""

import codecs
import csv
import io
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed, spelt

_SEPARATORS = (",", ";", "\t")
_MOST_NAMES = 12
_SAVE = 'save it as "CSV UTF-8"'


def read_rows(
    path: Path, columns: Iterable[str], refused: type[UserError], numbers: Collection[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells of every row of a table; missing cells are empty text.

    Cells are separated by commas, or, as in spreadsheets of other languages, by semicolons or tabulators. With
    semicolons and tabulators, numbers may have a decimal comma.

    Args:
        path: The file.
        columns: Columns that the table must have.
        refused: Class of the error to raise.
        numbers: Columns of numbers, in which decimal commas become points.

    Raises:
        UserError: An error of the class `refused`, in one line, if the file cannot be read or lacks a column.
    """
    text = _text(path, refused)
    wanted = tuple(columns)
    separator = next((one for one in _SEPARATORS if set(wanted) <= set(_head(text, one))), None)
    if separator is None:
        missing = min(([name for name in wanted if name not in _head(text, one)] for one in _SEPARATORS), key=len)
        raise refused(f"{path}: line 1: no column {listed(missing)}; the first line must name {', '.join(wanted)}")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, restkey="", restval="")
    try:
        for row in reader:
            if any(row.pop("", [])):
                raise refused(
                    f"{path}: line {reader.line_num}: has more cells than the first line; remove the separators, or "
                    "the decimal commas of a table that is separated by commas"
                )
            if any(row.values()):
                point = {name: row[name].replace(",", ".") for name in numbers if name in row and separator != ","}
                yield reader.line_num, row | point
    except csv.Error as error:
        raise refused(f"{path}: line {reader.line_num}: is no line of a table ({error}); {_SAVE}") from None


def lost_zeros(unknown: Iterable[str], missing: Iterable[str]) -> dict[str, str]:
    """Return by unknown name the missing name that it equals without leading zeros, such as `7` and `007`."""
    whole = {name.lstrip("0") or "0": name for name in missing if name.isdecimal() and name.startswith("0")}
    return {name: whole[name] for name in unknown if name in whole}


def unmatched(start: str, found: Iterable[str], expected: Iterable[str]) -> list[str]:
    """Return one line each for missing cases, unknown cases, and cases that may have lost leading zeros.

    Args:
        start: Beginning of every line, such as the path of the table.
        found: Names of the cases in the table.
        expected: Names of the cases that the table should have.
    """
    named, wanted = list(dict.fromkeys(found)), list(dict.fromkeys(expected))
    missing = [name for name in wanted if name not in set(named)]
    unknown = [name for name in named if name not in set(wanted)]
    lines = []
    if missing:
        lines.append(f"{start}: {len(missing)} of {len(wanted)} cases have no answer: {listed(missing)}; predict them")
    if unknown:
        lines.append(f"{start}: {len(unknown)} answered case(s) are no case here and do not count: {listed(unknown)}")
    if zeros := lost_zeros(unknown, missing):
        names = ", ".join(f"{spelt(name)} for {spelt(zeros[name])}" for name in list(zeros)[:_MOST_NAMES])
        lines.append(
            f"{start}: {names}: a spreadsheet drops leading zeros, and nobody can tell which case that was; import the "
            "column `case` as text, or predict again"
        )
    return lines


def _text(path: Path, refused: type[UserError]) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise refused(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise refused(f'{path}: is text in UTF-16 (a spreadsheet\'s "Unicode text"); {_SAVE}')
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(f"{path}: is no CSV file in UTF-8 ({error}); {_SAVE}") from None


def _head(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    except csv.Error:
        return []
