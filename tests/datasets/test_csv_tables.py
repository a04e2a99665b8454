import codecs
from pathlib import Path

import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.csv_tables import lost_zeros, read_rows

TEXT = "case,task,class,probability\n007,malignancy,benign,0.25\nb,malignancy,benign,1\n"
ROWS = [
    (2, {"case": "007", "task": "malignancy", "class": "benign", "probability": "0.25"}),
    (3, {"case": "b", "task": "malignancy", "class": "benign", "probability": "1"}),
]


class TableRefusedError(UserError):
    """For these tests."""


def rows_of(path: Path, content: str | bytes) -> list[tuple[int, dict[str, str]]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(path, ("case", "probability"), TableRefusedError, ("probability",)))


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        TEXT.replace("\n", "\r\n"),
        codecs.BOM_UTF8 + TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace(",", ";").replace("0.25", "0,25"),
        codecs.BOM_UTF8 + TEXT.replace(",", "\t").replace("0.25", "0,25").encode(),
        TEXT.replace("probability", "probability,,").replace("0.25", "0.25,,").replace(",1", ",1,,"),
        TEXT + ",,,\n\n",
        TEXT.rstrip("\n"),
    ],
)
def test_what_spreadsheets_write_is_the_same_table(tmp_path: Path, content: str | bytes) -> None:
    assert rows_of(tmp_path / "table.csv", content) == ROWS


def test_a_decimal_comma_is_none_in_a_table_separated_by_commas(tmp_path: Path) -> None:
    with pytest.raises(TableRefusedError, match=r"table\.csv: line 2: has more cells than the first line.*decimal"):
        rows_of(tmp_path / "table.csv", TEXT.replace("0.25", "0,25"))
    # one in a text is no number
    found = rows_of(tmp_path / "table.csv", TEXT.replace(",", ";").replace("b;", "b,c;"))
    assert found[1][1]["case"] == "b,c"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: no column case, probability; the first line must name case, probability"),
        ("case;class\n", "line 1: no column probability; "),
        (TEXT.encode("utf-16"), 'is text in UTF-16 .*; save it as "CSV UTF-8"'),
        ("case,probability\nKöln,1\n".encode("latin-1"), 'is no CSV file in UTF-8 .*; save it as "CSV UTF-8"'),
        ("case,probability\na," + "1" * 200_000, "line 1: is no line of a table"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(TableRefusedError, match=message) as caught:
        rows_of(tmp_path / "table.csv", content)
    assert str(caught.value).startswith(str(tmp_path / "table.csv"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TableRefusedError, match=r"none\.csv: cannot be read \(No such file"):
        list(read_rows(tmp_path / "none.csv", ("case",), TableRefusedError))


def test_names_that_lost_their_zeros() -> None:
    assert lost_zeros(["7", "10", "x", "0"], ["007", "010", "0x", "8", "00"]) == {"7": "007", "10": "010", "0": "00"}
    assert lost_zeros(["8"], ["8a", "80"]) == {}
    assert lost_zeros(["7"], ["07", "007"]) == {"7": "007"}
