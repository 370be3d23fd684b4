"""The published tables as data: numbers as the papers print them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from thoraxseg.cli import reproducing
from thoraxseg.errors import OptionError
from thoraxseg.reproduce import PAPERS, read_paper
from thoraxseg.reproduce.cells import AFTER
from thoraxseg.reproduce.published import parse_cell

TEXTS = Path(__file__).parents[2].parent / "shared" / "papers"


def cell(paper, table, row, column):
    table = read_paper(paper).tables[table]
    return table.rows[row][table.columns.index(column)]


def test_a_cell_gives_mean_sd_asterisk_and_rounding():
    assert vars(parse_cell("0.95 ± 0.01")) == {
        "text": "0.95 ± 0.01", "value": 0.95, "sd": 0.01, "asterisk": False,
        "decimals": 2, "sd_decimals": 2, "percent": False,
    }  # fmt: skip
    assert (parse_cell("0.949*").value, parse_cell("0.949*").asterisk) == (0.949, True)
    assert (parse_cell("90% ± 1%").value, parse_cell("90% ± 1%").sd) == (0.9, 0.01)
    assert parse_cell("5.29 ± 19.8").sd_decimals == 1


@pytest.mark.parametrize("text", ["", "-", "lower, no number given", "0.9 ±", "0.5 0.6"])
def test_what_is_no_number_has_none(text):
    assert parse_cell(text).value is None
    assert parse_cell(text).text == text


@pytest.mark.parametrize(
    ("paper", "table", "row", "column", "value", "sd"),
    [
        ("kaniewski", "Table 1", ("2D nnU-Net", "Lungs"), "IoU raw", 0.67, 0.03),
        ("kaniewski", "Table 1", ("DeepMeta", "Tumors"), "F1 post-processed", 0.75, 0.06),
        ("kaniewski", "Table 2", ("U-Net", "Tumors"), "IoU", 0.63, 0.38),
        ("kaniewski", "Table 3", ("nnU-Net 3D model",), "F1", 0.75, 0.18),
        ("malimban", "Table 1", ("Right lung", "2d"), "95p HD (mm) mean ± SD", 5.29, 19.8),
        ("malimban", "Table 1", ("Right lung", "2d"), f"95p HD (mm) mean ± SD{AFTER}", 0.42, 0.0),
        ("malimban", "Table 2", ("Left lung", "AIMOS"), "MSD (mm) mean ± SD", 0.42, 0.89),
        ("malimban", "Table 3", ("Interobserver variability",), "Total lungs, test set 2", 0.81, 0.08),
        ("malimban", "Table 4", ("3d_lowres",), "Preprocessing (s)", 14, None),
        ("rrc-unet", "Table 5", ("Recurrent block",), "Dice, tumor", 0.1992, None),
        ("ensemble", "Text", ("U-Net with isample",), "Dice", 0.41, None),
    ],
)
def test_some_cells_are_those_of_the_papers(paper, table, row, column, value, sd):
    printed = cell(paper, table, row, column)
    assert (printed.value, printed.sd) == (value, sd)


def test_the_mouse_ct_paper_has_its_numbers_of_rows_and_asterisks():
    tables = read_paper("malimban").tables
    stars = {
        name: sum(one.asterisk for cells in tables[name].rows.values() for one in cells) for name in tables
    }
    assert {name: len(table.rows) for name, table in tables.items()} == {
        "Table 1": 20, "Table 2": 12, "Table 3": 4, "Table 4": 5, "Text": 2,
    }  # fmt: skip
    assert stars["Table 1"] == 25
    assert stars["Table 2"] == 24
    after = [
        one for row in tables["Table 1"].rows.values()
        for column, one in zip(tables["Table 1"].columns, row, strict=True) if column.endswith(AFTER) and one.text
    ]  # fmt: skip
    assert len(after) == 3


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_says_where_it_stands_and_every_row_is_whole(paper):
    for table in read_paper(paper).tables.values():
        assert table.source
        assert table.rows
        assert all(len(cells) == len(table.columns) for cells in table.rows.values())


def test_an_unknown_paper_is_refused_with_the_known_ones():
    with pytest.raises(OptionError, match="kaniewski"):
        read_paper("nature")
    assert reproducing.PAPERS == PAPERS


@pytest.mark.parametrize(
    ("paper", "file", "names"),
    [
        ("kaniewski", "kaniewski-mouse-mri.txt", ("Table 1", "Table 2", "Table 3")),
        ("malimban", "malimban-mouse-ct.txt", ("Table 1", "Table 2", "Table 3", "Table 4")),
        ("rrc-unet", "rrc-unet-3d.txt", ("Table 3", "Table 4", "Table 5")),
    ],
)
def test_every_row_stands_in_the_text_of_the_paper(paper, file, names):
    if not (TEXTS / file).is_file():
        pytest.skip("the text of the paper is not here")
    text = re.sub(r"</?b>", "", (TEXTS / file).read_text("utf-8"))  # bold type
    words = " ".join(text.split())
    tables = read_paper(paper).tables
    for name in names:
        for row, cells in tables[name].rows.items():
            columns = zip(tables[name].columns, cells, strict=True)
            printed = [
                f"({one.text})" if column.endswith(AFTER) else one.text for column, one in columns if one.text
            ]
            assert " ".join(printed) in words, (name, row)
