"""The table of a cohort: one row a scan, one column a reader, a model or an observer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thoraxseg.errors import InputError
from thoraxseg.files import sha256_file
from thoraxseg.report import printable
from thoraxseg.tables import Row, Table, is_there, read_table

FAILED_WORDS = ("failed", "fail")
"""What a cell may say where a model gave no answer; an empty cell says the same."""


@dataclass(frozen=True)
class Scan:
    """One row: the files of a scan by column; None where there is no answer."""

    case: str
    animal: str
    where: str
    """Words that name the row in a message."""
    files: Mapping[str, Path | None]

    def file(self, column: str) -> Path:
        """Return the file of a column; raises InputError where it is not there."""
        path = self.files[column]
        if path is None or not is_there(path):
            what = "no file is named" if path is None else f"{path} is not there"
            raise InputError(f"{self.where}, {column}: {what}.")
        return path


@dataclass(frozen=True)
class Manifest:
    """A cohort as its table has it."""

    path: Path
    readers: tuple[str, ...]
    """The columns that hold files, beside those that the command asks for."""
    scans: tuple[Scan, ...]
    has_animals: bool

    def to_record(self) -> dict[str, str]:
        """Return what identifies the table."""
        return {"role": "table", "name": printable(self.path.name), "sha256": sha256_file(self.path)}


def read_manifest(path: Path, required: Sequence[str] = ()) -> Manifest:
    """Return the scans of a CSV table with the columns case, `required`, animal (optional), and one per reader.

    Paths are relative to the table. An empty cell, or the word failed, says that there is no answer. Without a
    column animal every scan counts as an animal of its own. Raises InputError for a table without these columns,
    cases without a name, the same case twice, and addresses in place of files.
    """
    table = read_table(path, ("case", *required))
    readers = tuple(name for name in table.columns if name not in ("case", "animal", *required))
    seen: dict[str, Scan] = {}
    for row in table.rows:
        scan = _scan(table, row, (*required, *readers))
        if scan.case in seen:
            raise InputError(f"{table.where(row)}: the case {scan.case!r:.80} is in the table twice.")
        seen[scan.case] = scan
    return Manifest(table.path, readers, tuple(seen.values()), "animal" in table.columns)


def _scan(table: Table, row: Row, columns: Sequence[str]) -> Scan:
    where = table.where(row)
    case = row["case"]
    animal = row.values.get("animal", case)
    if not case or not animal:
        raise InputError(
            f"{where}: expected a name in {'case' if not case else 'animal'}, the cell is empty."
        )
    files = {}
    for column in columns:
        text = row[column]
        if "://" in text:
            raise InputError(
                f"{where}, {column}: expected a file, got an address: {text!r:.80}. Download it first."
            )
        empty = not text or text.lower() in FAILED_WORDS
        files[column] = None if empty else table.path.parent / text
    return Scan(case, animal, where, files)
