"""The times as tables for other programs: CSV and JSON, with names or with codes in their place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thoraxseg import RESEARCH_USE
from thoraxseg.errors import OptionError, OutputError
from thoraxseg.files import publish_together
from thoraxseg.study.times import DEFINITIONS, Review, all_totals
from thoraxseg.tables import write_csv

_NESTED = ("editing_by_structure_s", "manual_by_structure_s")


def coded(found: Sequence[Review]) -> list[Review]:
    """Return copies of reviews with codes for animals (A001), scans (S001) and operators (O001), without dates.

    A code is the place of the name in the study file, so that it is the same in every export of it, whatever was added
    since, and says nothing of the name. Only who has the file can go back.
    """
    return [
        replace(
            review,
            animal=f"A{review.animal_id:03d}",
            scan=f"S{review.case_id:03d}",
            operator=f"O{review.operator_id:03d}",
            opened_utc="",
            verdict_utc="",
        )
        for review in found
    ]


def record(found: Sequence[Review]) -> dict[str, Any]:
    """Return all that is known as one record for JSON: rows, totals, and what every key means."""
    rows = [review.row() for review in found]
    return {
        "notice": RESEARCH_USE,
        "definitions": DEFINITIONS,
        "manual_reference_min": rows[0]["manual_reference_min"] if rows else None,
        "reviews": [{**row, "opened_utc": row["opened_utc"] or None} for row in rows],
        "totals": all_totals(found),
    }


def flat_rows(found: Sequence[Review]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and rows of the CSV: `row` with one column per structure, notes and reasons as text.

    The columns of a structure are `editing_NAME_s` and `manual_NAME_s`, 0 where the operator did not touch it; manual
    contouring of no named structure is `manual_unnamed_s`.
    """
    rows = [review.row() for review in found]
    names = {key: sorted({name for row in rows for name in row[key]}) for key in _NESTED}
    flat = []
    for row in rows:
        line: dict[str, Any] = {}
        for key, value in row.items():
            if key in _NESTED:
                kind = key.split("_")[0]
                line |= {f"{kind}_{name or 'unnamed'}_s": value.get(name, 0.0) for name in names[key]}
            elif key == "undefined":
                line[key] = "; ".join(f"{name}: {why}" for name, why in value.items())
            elif isinstance(value, list):
                line[key] = "; ".join(f"{item:g}" if isinstance(item, float) else item for item in value)
            elif isinstance(value, bool):
                line[key] = "yes" if value else "no"
            else:
                line[key] = value
        flat.append(line)
    empty = Review(0, 0, 0, "", "", "", "", None).row()
    columns = list(flat[0]) if flat else [key for key in empty if key not in _NESTED]
    return columns, flat


def write_times(path: Path, found: Sequence[Review], overwrite: bool = False) -> None:
    """Write the times to a new file: by its ending `flat_rows` as CSV or `record` as JSON, whole or not at all.

    Raises OptionError for another ending, OutputError when the file is there already (unless `overwrite`) or cannot be
    written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".json"):
        raise OptionError(f"{path}: expected a file name that ends in .csv or .json.")
    if not overwrite:
        _refuse_to_overwrite(path)
    with publish_together(path.parent) as scratch:
        made = scratch / path.name
        if path.suffix.lower() == ".csv":
            write_csv(made, *flat_rows(found))
        else:
            text = json.dumps(record(found), indent=2, ensure_ascii=False, allow_nan=False)
            made.write_text(text + "\n", encoding="utf-8")
        if not overwrite:
            _refuse_to_overwrite(path)


def _refuse_to_overwrite(path: Path) -> None:
    if path.exists():
        raise OutputError(f"{path} exists and was not changed. Choose another name, or move it away.")
