"""Our numbers beside the printed ones, cell by cell, in the paper's rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thoraxseg.reproduce.published import Paper, Printed, PublishedTable

Key = tuple[str, tuple[str, ...], str]
"""Table, row and column."""
AFTER = ", largest component"
"""Such columns stand in parentheses behind the one before, as the paper prints them."""
CSV_COLUMNS = (
    *("table", "row", "column", "published_text", "published", "published_sd", "published_asterisk"),
    *("ours_text", "ours", "ours_sd", "ours_asterisk", "n", "difference", "comparable", "why"),
)


@dataclass(frozen=True)
class Ours:
    """What we found for one cell."""

    value: float | None
    """None where it is undefined; `why` then says why."""
    sd: float | None = None
    n: int = 0
    """Scans in it."""
    asterisk: bool | None = None
    """Whether it differs from the base model; None where no test belongs to the cell."""
    why: str = ""
    """Why it cannot be laid beside the printed number as it is; empty: the protocol is the same as far as known."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Other readings of the same cell, numbers and words that survive JSON."""


@dataclass(frozen=True)
class Cell:
    """One cell, printed and ours."""

    table: str
    row: tuple[str, ...]
    column: str
    printed: Printed
    ours: Ours
    ours_text: str

    @property
    def difference(self) -> float | None:
        """Ours minus the printed number; None where one of them is missing."""
        if self.ours.value is None or self.printed.value is None:
            return None
        return self.ours.value - self.printed.value

    @property
    def comparable(self) -> bool:
        """Whether both numbers exist and nothing known keeps them from being compared."""
        return self.difference is not None and not self.ours.why

    def to_record(self) -> dict[str, Any]:
        """Return the cell as plain data: `CSV_COLUMNS` and `details`."""
        printed, ours = self.printed, self.ours
        return {
            "table": self.table,
            "row": " / ".join(self.row),
            "column": self.column,
            "published_text": printed.text,
            "published": printed.value,
            "published_sd": printed.sd,
            "published_asterisk": printed.asterisk,
            "ours_text": self.ours_text,
            "ours": ours.value,
            "ours_sd": ours.sd,
            "ours_asterisk": ours.asterisk,
            "n": ours.n,
            "difference": self.difference,
            "comparable": "yes" if self.comparable else "no",
            "why": ours.why or ("" if printed.value is not None else "the paper prints no number here"),
            "details": dict(ours.details),
        }


def lay_beside(paper: Paper, found: Mapping[Key, Ours], absent: str) -> list[Cell]:
    """Return the cells of all tables of a paper in its order, and rows of ours that it does not have below.

    `absent` says why a cell of the paper that is not in `found` is empty on our side.
    """
    cells = []
    for table in paper.tables.values():
        more = dict.fromkeys(key[1] for key in found if key[0] == table.name and key[1] not in table.rows)
        for row in (*table.rows, *more):
            printed = table.rows.get(row, (Printed(""),) * len(table.columns))
            for column, one in zip(table.columns, printed, strict=True):
                ours = found.get((table.name, row, column), Ours(None, why=absent))
                cells.append(Cell(table.name, row, column, one, ours, _text(ours, one, table, column)))
    return cells


def _text(ours: Ours, printed: Printed, table: PublishedTable, column: str) -> str:
    """Return our number in the paper's rounding; a dash where there is none."""
    if ours.value is None:
        return "–"
    usual = table.like(column)
    like = printed if printed.value is not None else usual
    scale, unit = (100, "%") if like.percent else (1, "")
    decimals = max(like.decimals, usual.decimals)  # the paper may print 0 for 0.00
    text = f"{ours.value * scale:.{decimals}f}{unit}"
    if like.sd is not None:
        sd = (
            "–"
            if ours.sd is None
            else f"{ours.sd * scale:.{max(like.sd_decimals, usual.sd_decimals)}f}{unit}"
        )
        text += f" ± {sd}"
    return text + ("*" if ours.asterisk else "")


def as_tables(paper: Paper, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return each table for people: two lines a row, what the paper prints above what we found.

    One dictionary a table: `name`, `title`, `columns`, `rows` (texts) and `footnotes`.
    """
    tables = []
    for table in paper.tables.values():
        own = [cell for cell in cells if cell.table == table.name]
        rows = []
        for row in dict.fromkeys(cell.row for cell in own):
            mine = [cell for cell in own if cell.row == row]
            rows.append([*row, "paper", *_merged([(cell.column, cell.printed.text) for cell in mine])])
            rows.append([*row, "ours", *_merged([(cell.column, cell.ours_text) for cell in mine])])
        columns = [column for column in table.columns if not column.endswith(AFTER)]
        reasons: dict[str, int] = {}
        for cell in own:
            if cell.ours.why and (cell.printed.text or cell.ours.value is not None):
                reasons[cell.ours.why] = reasons.get(cell.ours.why, 0) + 1
        notes = [f"Not comparable, {count} cells: {why}" for why, count in reasons.items()]
        if len(columns) < len(table.columns):
            notes.insert(
                0, "In parentheses: the largest component of the organ alone, where it differs or is printed"
            )
        tables.append(
            {
                "name": table.name,
                "title": table.title,
                "source": table.source,
                "columns": [*table.row_names, "", *columns],
                "rows": rows,
                "footnotes": notes,
            }
        )
    return tables


def _merged(cells: Sequence[tuple[str, str]]) -> list[str]:
    """Return the texts of one line, with columns of `AFTER` in parentheses behind the one before."""
    texts: list[str] = []
    for column, text in cells:
        if not column.endswith(AFTER):
            texts.append(text or "–")
        elif text not in ("", "–", texts[-1]):
            texts[-1] += f" ({text})"
    return texts
