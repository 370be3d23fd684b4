"""A table that names the files, for data that do not lie as published: `--layout FILE.csv`.

Columns: `case`, `image` and `reference` (or `observer1`, and `observer2` ... where others contoured too); if wanted
`animal`, `set` (`test set 1`), `split` (`train` rows are left out), `labels` (`1=heart;2=spinal cord`; `labels2` ...
for other observers) and `dark` (`yes` or `no`, mouse MRI). Paths are relative to the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from thoraxseg.checkpoints.describe import parse_labels
from thoraxseg.errors import InputError, OptionError
from thoraxseg.io import StackGeometry
from thoraxseg.reproduce.cohort import Cohort, Reference, Scan, check_cohort
from thoraxseg.tables import Row, Table, read_table

_KNOWN = re.compile(r"case|image|reference|animal|set|split|dark|(?:labels|observer)\d*")
_SPLITS = {"": False, "test": False, "train": True, "training": True, "validation": True}
_DARK = {"": None, "yes": True, "no": False}


def read_manifest(
    path: Path,
    groups: Sequence[str],
    labels: Mapping[int, str] | None,
    stack_geometry: StackGeometry | None = None,
) -> Cohort:
    """Return the scans that a table names.

    `groups` are the paper's test sets; the only one need not be named. `labels` are taken where the table names none.
    A row whose files are not there is in the cohort, as broken. Raises InputError naming the line for columns or words
    that mean nothing here, cases that are there twice, and animals on both sides of the split.
    """
    table = read_table(path, required=("case", "image"))
    unknown = [column for column in table.columns if not _KNOWN.fullmatch(column)]
    observers = {"1": "reference" if "reference" in table.columns else "observer1"}
    observers |= {
        column[8:]: column
        for column in table.columns
        if re.fullmatch(r"observer\d+", column) and column != "observer1"
    }
    if unknown or observers["1"] not in table.columns or {"reference", "observer1"} <= {*table.columns}:
        raise InputError(
            f"{path}: expected the columns case, image and reference (or observer1, observer2 ...), and "
            f"perhaps animal, set, split, labels and dark; its columns are {', '.join(table.columns)}."
        )
    scans, training = [], []
    for row in table.rows:
        group = _word(
            table,
            row,
            "set",
            dict(zip(groups, groups, strict=True)) | ({"": groups[0]} if len(groups) == 1 else {}),
        )
        animal = row.values.get("animal") or row["case"]
        if _word(table, row, "split", _SPLITS):
            training.append(animal)
        else:
            scans.append(_scan(table, row, group, animal, observers, labels))
    check_cohort(scans, training, path)
    if not scans:
        raise InputError(f"{path}: expected one row or more that is not for training, got none.")
    note = f"The files were named by {path.name}, not found by their published layout."
    return Cohort(
        tuple(scans),
        (note,),
        ("the scans were named in a table, not read from the published layout",),
        stack_geometry,
    )


def _scan(
    table: Table,
    row: Row,
    group: str,
    animal: str,
    observers: Mapping[str, str],
    labels: Mapping[int, str] | None,
) -> Scan:
    home = table.path.parent
    case, image = (row[column] for column in ("case", "image"))
    if not case or not image:
        raise InputError(
            f"{table.where(row)}: expected a case and an image, got {case!r:.40} and {image!r:.40}."
        )
    paths = {number: home / row[column] for number, column in observers.items() if row[column]}
    for given in (image, *(row[column] for column in observers.values())):
        if "://" in given:
            raise InputError(
                f"{table.where(row)}: expected a path, got an address: {given:.80}. Fetch the file first."
            )
    references = {
        number: Reference(path, _labels(table, row, number, path, labels)) for number, path in paths.items()
    }
    missing = [str(path) for path in (home / image, *paths.values()) if not path.exists()]
    broken = f"{table.where(row)}: {' and '.join(missing)} is not there." if missing else ""
    if "1" not in paths:
        broken = f"{table.where(row)}: there is no path in {observers['1']}."
    return Scan(case, animal, group, home / image, references, broken, _word(table, row, "dark", _DARK))


def _labels(
    table: Table, row: Row, observer: str, path: Path, labels: Mapping[int, str] | None
) -> Mapping[int, str]:
    column = "labels" if observer == "1" or not row.values.get(f"labels{observer}") else f"labels{observer}"
    text = row.values.get(column, "")
    if path.name.lower().endswith(".seg.nrrd"):
        return {}
    if text:
        try:
            return parse_labels(text.replace(";", ","))
        except OptionError as error:
            raise InputError(
                f"{table.where(row)}: expected {column} such as '1=heart;2=spinal cord', got {text!r:.80}."
            ) from error
    if labels is None:
        raise InputError(
            f"{table.where(row)}: {path.name} is a label map, and what its values stand for is not written. "
            f"Fill a column {column}, such as '1=heart;2=spinal cord;3=right lung;4=left lung'."
        )
    return labels


def _word(table: Table, row: Row, column: str, meanings: Mapping[str, object]) -> object:
    word = row.values.get(column, "").lower()
    if word not in meanings:
        known = ", ".join(filter(None, meanings))
        raise InputError(f"{table.where(row)}: expected {column} to be one of {known}, got {word!r:.40}.")
    return meanings[word]
