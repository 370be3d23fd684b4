"""What the papers print: every cell of their tables, as text and as numbers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from thoraxseg.errors import OptionError

PAPERS = ("kaniewski", "malimban", "rrc-unet", "ensemble")
_FOLDER = Path(__file__).parent / "published"
_NUMBER = r"(\d+(?:\.(\d+))?)(%?)"
_CELL = re.compile(rf"{_NUMBER}(?: ± {_NUMBER})?(\*?)")


@dataclass(frozen=True)
class Printed:
    """One cell of a published table."""

    text: str
    """As printed; empty where the paper has no such cell, `-` where it prints a dash."""
    value: float | None = None
    """The first number, a percentage as a fraction; None where there is none."""
    sd: float | None = None
    """The number after ±."""
    asterisk: bool = False
    decimals: int = 3
    sd_decimals: int = 3
    percent: bool = False


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper; `Text` holds numbers that stand in its text only."""

    name: str
    title: str
    source: str
    """Where in the paper it stands."""
    row_names: tuple[str, ...]
    columns: tuple[str, ...]
    rows: dict[tuple[str, ...], tuple[Printed, ...]]

    def like(self, column: str) -> Printed:
        """Return the first cell with a number of a column: how its numbers are rounded."""
        at = self.columns.index(column)
        return next((cells[at] for cells in self.rows.values() if cells[at].value is not None), Printed(""))


@dataclass(frozen=True)
class Paper:
    """A paper and its tables, by name."""

    name: str
    title: str
    citation: str
    data: str
    """What its numbers were measured on, and where that is."""
    tables: dict[str, PublishedTable]


@cache
def read_paper(name: str) -> Paper:
    """Return the tables of one of `PAPERS`; raises OptionError for another name."""
    if name not in PAPERS:
        raise OptionError(f"paper: expected one of {', '.join(PAPERS)}, got {name!r:.60}.")
    data = json.loads((_FOLDER / f"{name}.json").read_text("utf-8"))
    tables = {table["name"]: _table(table) for table in data["tables"]}
    return Paper(data["paper"], data["title"], data["citation"], data["data"], tables)


def _table(data: dict) -> PublishedTable:
    keys = len(data["rows"])
    rows = {tuple(row[:keys]): tuple(map(parse_cell, row[keys:])) for row in data["cells"]}
    columns = tuple(data["columns"])
    return PublishedTable(data["name"], data["title"], data["source"], tuple(data["rows"]), columns, rows)


def parse_cell(text: str) -> Printed:
    """Return the numbers in a cell such as `0.95 ± 0.01`, `0.949*` or `90% ± 1%`; others are words alone."""
    match = _CELL.fullmatch(text)
    if match is None:
        return Printed(text)
    mean, decimals, percent, sd, sd_decimals, _, asterisk = match.groups()
    scale = 100 if percent else 1
    return Printed(
        text,
        float(mean) / scale,
        None if sd is None else float(sd) / scale,
        bool(asterisk),
        len(decimals or ""),
        len(sd_decimals or ""),
        bool(percent),
    )
