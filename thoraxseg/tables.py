"""Tables of words (CSV) in and out: what spreadsheets write is read, what they could run is guarded."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thoraxseg.errors import InputError

MAX_BYTES = 16 << 20
OPTIONAL = ("animal",)
"""A column that tables may have; like those required it is found whatever its capitals."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Row:
    """One row of a table: its line in the file, and its cells by column, without blanks around them."""

    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]


@dataclass(frozen=True)
class Table:
    """A table as its file has it."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    decimal_comma: bool = False
    """Whether cells are parted by semicolons, as where 0,91 is a number."""

    def where(self, row: Row) -> str:
        """Return the words that name a row in a message."""
        return f"{self.path}, line {row.line}"

    def number(self, row: Row, column: str) -> float:
        """Return the number in a cell, with a decimal comma where the table is parted by semicolons.

        Raises InputError for text, formulas, NaN and infinity.
        """
        text = row[column]
        if self.decimal_comma and "." not in text and text.count(",") == 1:
            text = text.replace(",", ".")
        return number(text, f"{self.where(row)}, {column}")


def read_table(path: Path | str, required: Sequence[str] = ()) -> Table:
    """Return a CSV table in UTF-8, with a comma or (as spreadsheets of much of Europe write it) a semicolon.

    Rows without any text are left out. Raises InputError naming the line: no table, no row, columns without a
    name or with the same name, required columns missing, rows longer or shorter than the first line.
    """
    path = Path(path)
    lines, separator = _lines(path)
    if not lines:
        raise InputError(
            f"{path}: expected a table (CSV) with a first line that names the columns, got an empty file."
        )
    (first, names), *rest = lines
    wanted = {name.lower(): name for name in (*required, *OPTIONAL)}
    columns = tuple(wanted.get(name.strip().lower(), name.strip()) for name in names)
    if not all(columns) or len(set(columns)) < len(columns):
        raise InputError(
            f"{path}, line {first}: expected columns with a name each, all different, got {list(columns)}."
        )
    if missing := [name for name in required if name not in columns]:
        raise InputError(
            f"{path}: expected the columns {', '.join(required)}; {', '.join(missing)} is missing. Its columns are "
            f"{', '.join(columns)}."
        )
    rows = []
    for line, cells in rest:
        if len(cells) != len(columns):
            raise InputError(
                f"{path}, line {line}: expected {len(columns)} cells as in the first line, got {len(cells)}. Put "
                "text with commas in quotation marks."
            )
        rows.append(Row(line, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
    if not rows:
        raise InputError(f"{path}: expected a table with one row or more below the first line, got none.")
    return Table(path, columns, tuple(rows), separator == ";")


def _lines(path: Path) -> tuple[list[tuple[int, list[str]]], str]:
    """Return the rows that hold any text, each with the line it ends on, and what parts their cells."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the table cannot be read: {error.strerror or error}.") from error
    if len(raw) > MAX_BYTES or b"\0" in raw:
        raise InputError(
            f"{path}: expected a table (CSV) of at most {MAX_BYTES >> 20} MiB, got another file."
        )
    try:
        text = raw.decode("utf-8-sig")
        first = text.partition("\n")[0]
        comma = ";" if ";" in first and "," not in first else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=comma, strict=True)
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)], comma
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected a table (CSV in UTF-8), got others ({error.reason}, byte {error.start}). In Excel, "
            "save it as 'CSV UTF-8'."
        ) from error
    except csv.Error as error:
        raise InputError(f"{path}: expected a table (CSV in UTF-8), got: {error}.") from error


def is_there(path: Path) -> bool:
    """Return whether there is a file or folder of the name that a cell gives; False for what can be no name."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


def number(text: str, where: str) -> float:
    """Return the number that a cell holds; InputError for text, formulas, NaN and infinity."""
    try:
        value = float(text) if "_" not in text else math.nan  # Python's own 1_000 is no number of a table
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{where}: expected a number such as 0.95 (with a point), got {text!r:.80}. Leave the cell empty "
            "where there is none."
        )
    return value


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV: None is an empty cell, floats keep all digits, text that starts like a formula gets a `'`."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([cell(column) for column in columns])
    writer.writerows([cell(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `csv_text` to a file in UTF-8."""
    path.write_text(csv_text(columns, rows), encoding="utf-8", newline="")


def cell(value: Any) -> Any:
    """Return what stands in a CSV cell for a value; numbers stay numbers."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None else value
