"""Several observers of one scan: how well they agree, what they agree on, and where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from thoraxseg.agreement.consensus import make_consensus, rules_of, write_consensus
from thoraxseg.agreement.masks import Reading
from thoraxseg.agreement.measuring import Measuring
from thoraxseg.agreement.observer_pages import (
    ALONE_COLUMNS,
    CIGEN_COLUMNS,
    alone_rows,
    cigen_row,
    pair_rows,
    scan_sections,
)
from thoraxseg.agreement.scan import Absent, read_drawn
from thoraxseg.agreement.scan_scores import OBSERVER_DEFINITIONS, PAIR_KEYS, scan_scores
from thoraxseg.agreement.words import percent
from thoraxseg.agreement.writing import Csv, Report, finished
from thoraxseg.errors import InputError
from thoraxseg.progress import Progress, part, silent
from thoraxseg.report import printable


def observers(
    paths: Sequence[Path],
    reading: Reading | None = None,
    how: Measuring | None = None,
    absent: Absent = Absent.AUTO,
    staple: bool = False,
    progress: Progress = silent,
) -> Report:
    """Return the agreement of two mask files or more of one scan, each by an observer of its own.

    The record's `structures`: name, label, observers, cigen, pairs, consensus_voxels and more, as in its
    `definitions`. Raises InputError for one file only, and as `match` does.
    """
    reading, how = reading or Reading(), how or Measuring()
    if len(paths) < 2:
        raise InputError(
            f"{paths[0]}: expected the masks of two observers or more, got one file. Give one file per observer, or "
            "a table (CSV) of scans."
        )
    files = dict(zip(_names([Path(path) for path in paths]), map(Path, paths), strict=True))
    reading.check_roles(files)
    drawn = read_drawn("the masks", files, reading, absent, (), part(progress, 0, 0.2))
    rows = scan_scores(drawn, how, part(progress, 0.2, 0.8))
    rules = rules_of(staple)
    made = {rule: make_consensus(drawn, rule) for rule in rules}
    decided = [note for _, notes in made.values() for note in notes]
    progress(0.8, "Drawing")
    record = finished(
        OBSERVER_DEFINITIONS,
        {**how.to_record(), **reading.to_record(), "absent": absent.value, "staple": staple},
        [*drawn.matched.notes, *decided],
        [*drawn.matched.warnings, *drawn.decided],
        structures=rows,
        observer_names=[printable(name) for name in drawn.names],
        inputs=list(drawn.inputs),
    )
    return Report(
        "observers",
        record,
        "Agreement between observers",
        f"{len(paths)} observers, one scan",
        [(percent(row["cigen"]), f"CIgen, {row['name']}") for row in rows[:6]],
        partial(scan_sections, drawn, rows),
        {
            "": Csv(CIGEN_COLUMNS, [cigen_row(row) for row in rows]),
            "_without_each": Csv(["structure", *ALONE_COLUMNS], alone_rows(rows)),
            "_pairs": Csv(["structure", "a", "b", *PAIR_KEYS, "remarks"], pair_rows(rows)),
        },
        [partial(write_consensus, drawn, {rule: labels for rule, (labels, _) in made.items()})],
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for every observer: of the file, with its folder where names are alike, else numbered."""
    names = [_stem(path) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.absolute().parent.name}/{_stem(path)}" for path in paths]
    if len(set(names)) < len(names):
        names = [f"{name} ({n})" for n, name in enumerate(names, 1)]
    return names


def _stem(path: Path) -> str:
    name = path.name
    for ending in (".seg.nrrd", ".nii.gz", ".nrrd", ".nii", ".mha", ".mhd", ".nhdr", ".tiff", ".tif"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
