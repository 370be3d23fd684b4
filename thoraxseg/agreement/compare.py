"""A prediction against a reference: every measure of every structure, from two files to a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thoraxseg.agreement.compare_page import compare_sections
from thoraxseg.agreement.masks import Reading, read_masks
from thoraxseg.agreement.matching import match, said_swapped
from thoraxseg.agreement.measuring import Measuring, csv_columns, flat, measure
from thoraxseg.agreement.words import fixed
from thoraxseg.agreement.writing import Csv, Report, finished
from thoraxseg.metrics import DEFINITIONS
from thoraxseg.progress import Progress, silent
from thoraxseg.report import printable


def compare(
    reference: Path,
    prediction: Path,
    reading: Reading | None = None,
    how: Measuring | None = None,
    progress: Progress = silent,
) -> Report:
    """Return the whole comparison of two mask files.

    The record's `structures` have the keys of `compare_labels`. Raises InputError for files that are no label maps,
    lie on different grids, or share no structure.
    """
    reading, how = reading or Reading(), how or Measuring()
    reading.check_roles(("reference", "prediction"))
    files = []
    for n, (path, role) in enumerate(((reference, "reference"), (prediction, "prediction"))):
        progress(0.1 * n, f"Reading the {role}")
        files.append(read_masks(path, role, reading))
    matched = match(files, reading)
    progress(0.2, "Measuring")
    rows = measure(matched, 0, 1, how)
    progress(0.7, "Drawing")
    record = finished(
        DEFINITIONS,
        {**how.to_record(), **reading.to_record()},
        matched.notes,
        [
            *matched.warnings,
            *said_swapped(matched, 0, 1),
            *_said_missing(rows),
            *how.said_unknown((one.name for one in matched.structures.values()), matched.structures),
        ],
        structures=rows,
        inputs=[one.to_record() for one in files],
    )
    return Report(
        "compare",
        record,
        "Agreement with the reference",
        f"{printable(files[1].name)} against {printable(files[0].name)}",
        [(fixed(row["dsc"], 3), f"Dice, {row['name']}") for row in rows[:6]],
        lambda: compare_sections(rows, matched, how),
        {"": Csv(csv_columns(rows), [flat(row) for row in rows])},
    )


def _said_missing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for every structure that one of the two files lacks."""
    return [
        f"{row['name']}: the {role} has no voxel of it; it counts as an empty mask."
        for row in rows
        for role, other in (("reference", "prediction"), ("prediction", "reference"))
        if row[f"voxels_{other}"] and not row[f"voxels_{role}"]
    ]
