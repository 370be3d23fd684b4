"""Tables: what a spreadsheet writes is read cell by cell, and nothing that is written can run in one."""

from __future__ import annotations

import csv
import io

import pytest

from thoraxseg.errors import InputError
from thoraxseg.tables import csv_text, number, read_table, write_csv


def table(folder, text, encoding="utf-8"):
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def test_cells_are_found_by_the_name_of_their_column(tmp_path):
    found = read_table(table(tmp_path, 'b, a \n"x, y", 1 \n\n,2\n', "utf-8-sig"), ["a"])
    assert found.columns == ("b", "a")
    assert [(row.line, row["a"], row["b"]) for row in found.rows] == [(2, "1", "x, y"), (4, "2", "")]


def test_semicolons_part_cells_where_the_first_line_has_no_comma(tmp_path):
    (row,) = read_table(table(tmp_path, "scan;a\nm1;0,5\n")).rows
    assert row["a"] == "0,5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got an empty file"),
        ("\n \n", "got an empty file"),
        ("a,b\n", "one row or more"),
        ("a,a\n1,2\n", "all different"),
        ("a,\n1,2\n", "with a name each"),
        ("a,c\n1,2\n", "b is missing"),
        ("a,b\n1\n", "line 2: expected 2 cells"),
        ("a,b\n1,2,3\n", "line 2: expected 2 cells"),
        (b"a,b\n1,\0\n", "got another file"),
        (b"a,b\n\xff,1\n", "CSV in UTF-8"),
    ],
)
def test_what_is_no_such_table_is_refused_by_name_and_reason(text, words, tmp_path):
    with pytest.raises(InputError) as caught:
        read_table(table(tmp_path, text), ["a", "b"])
    assert "table.csv" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("text", ["abc", "=1+1", "nan", "inf", "-inf", "", "0,5", "1e400", "1_0x"])
def test_only_a_finite_number_is_a_number(text):
    with pytest.raises(InputError, match="line 7: expected a number"):
        number(text, "line 7")


def test_numbers_are_read_as_they_stand():
    assert [number(text, "") for text in ("0.95", " -3 ", "1e-3")] == [0.95, -3.0, 0.001]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_text_that_a_spreadsheet_would_run_is_guarded_and_numbers_are_not(text):
    rows = list(csv.reader(io.StringIO(csv_text(["case", "d"], [{"case": text, "d": -0.1}]))))
    assert rows == [["case", "d"], [f"'{text}", "-0.1"]]


def test_what_is_written_comes_back_with_all_digits_and_nothing_for_none(tmp_path):
    write_csv(
        tmp_path / "t.csv", ["a", "b", "c"], [{"a": 0.1 + 0.2, "b": None, "c": 'ä, "x"', "d": "left out"}]
    )
    (row,) = read_table(tmp_path / "t.csv").rows
    assert (float(row["a"]), row["b"], row["c"]) == (0.1 + 0.2, "", 'ä, "x"')
