"""One paper, one data set, the checkpoints given: what it comes to beside what was printed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from thoraxseg import RESEARCH_USE, report
from thoraxseg.errors import OptionError
from thoraxseg.files import check_output, publish_together
from thoraxseg.options import Device, SegmentOptions
from thoraxseg.progress import Progress, part, silent
from thoraxseg.report import DataTable, Section
from thoraxseg.reproduce import ensemble, kaniewski, malimban, phantom_data, rrc_unet
from thoraxseg.reproduce.cells import CSV_COLUMNS, as_tables, lay_beside
from thoraxseg.reproduce.cohort import Cohort, choose
from thoraxseg.reproduce.decathlon_layout import read_decathlon
from thoraxseg.reproduce.deepmeta_layout import GEOMETRY, LABELS, read_deepmeta
from thoraxseg.reproduce.manifest import read_manifest
from thoraxseg.reproduce.micro_ct_layout import SETS, read_micro_ct
from thoraxseg.reproduce.protocol import Found, Work, failures_table
from thoraxseg.reproduce.published import read_paper
from thoraxseg.reproduce.running import about_models, open_models
from thoraxseg.tables import csv_text

NAMES = ("reproduce.json", "reproduce.csv", "reproduce.html")
IS_PHANTOM = "phantom: no animal or person was imaged and nothing was trained"
NO_CHECKPOINT = "no checkpoint was given for this row, or the data do not have it"


@dataclass(frozen=True)
class Protocol:
    """How a paper's data are read and its numbers made."""

    run: Callable[[Work], Found]
    read: Callable[[Path], Cohort]
    layout: Callable[[Path], Cohort]
    """Reads a table that names the files instead."""
    replicates: bool
    """Whether the published code departs from the paper in something that can be done here too."""


PROTOCOLS = {
    "kaniewski": Protocol(
        kaniewski.run, read_deepmeta, lambda path: read_manifest(path, ("test",), LABELS, GEOMETRY), True
    ),
    "malimban": Protocol(malimban.run, read_micro_ct, lambda path: read_manifest(path, SETS, None), False),
    "rrc-unet": Protocol(
        rrc_unet.run, read_decathlon, lambda path: read_manifest(path, ("labeled",), {1: "tumors"}), False
    ),
    "ensemble": Protocol(
        ensemble.run, read_decathlon, lambda path: read_manifest(path, ("labeled",), {1: "tumors"}), True
    ),
}


@dataclass(frozen=True)
class Request:
    """What is asked for: a paper, where its data lie, and the checkpoints of its rows."""

    paper: str
    data: Path | None = None
    """The folder of the data set, laid out as published."""
    layout: Path | None = None
    """A table that names the files instead."""
    phantom: bool = False
    checkpoints: Sequence[tuple[str, str]] = ()
    """Row of the paper's table, and name or path of the checkpoint."""
    lungs: str | None = None
    """Checkpoint that makes the lung map of a network that takes one."""
    cases: Sequence[str] | None = None
    replicate: bool = False
    device: Device = Device.AUTO

    def __post_init__(self) -> None:
        read_paper(self.paper)  # refuses an unknown name
        sources = [self.data is not None, self.layout is not None, self.phantom]
        if sum(sources) != 1:
            raise OptionError(
                "expected one of --data DIR (the data set as published), --layout FILE.csv (a table of its "
                f"files) and --phantom (a small phantom cohort), got {sum(sources)} of them. About the data: "
                f"{read_paper(self.paper).data}."
            )
        if not self.checkpoints and not self.phantom:
            raise OptionError(
                '--checkpoint: expected one or more, as "ROW=CHECKPOINT"; the rows of the paper are '
                f"{', '.join(rows_of(self.paper))}."
            )
        if self.replicate and not PROTOCOLS[self.paper].replicates:
            raise OptionError(
                f"--replicate: there is nothing in {self.paper} that the published code does otherwise."
            )


@dataclass(frozen=True, eq=False)
class Reproduction:
    """Our numbers beside a paper's."""

    record: dict[str, Any]
    """Everything, as plain data for JSON."""
    tables: list[dict[str, Any]]
    """The paper's tables, two lines a row; see `cells.as_tables`."""
    found: Found

    @property
    def failures(self) -> list[dict[str, str]]:
        """The scans that are in no number."""
        return self.record["failures"]


def reproduce(request: Request, progress: Progress = silent) -> Reproduction:
    """Run a paper's protocol and lay our numbers beside the printed ones.

    Scans that fail are in `failures`; the others are scored. Raises OptionError, InputError (the data are not laid
    out as expected) and CheckpointError before any scan is looked at.
    """
    protocol = PROTOCOLS[request.paper]
    if request.layout is not None:
        return _run(request, protocol.layout(request.layout), request.checkpoints, progress)
    if request.data is not None:
        return _run(request, protocol.read(request.data), request.checkpoints, progress)
    with tempfile.TemporaryDirectory(prefix="thoraxseg-phantoms-") as scratch:
        progress(0.0, "Drawing phantoms")
        data = phantom_data.write_cohort(request.paper, Path(scratch) / "data")
        pairs = request.checkpoints or phantom_data.stand_ins(request.paper, Path(scratch) / "models")
        cohort = replace(protocol.read(data), incomparable=(IS_PHANTOM,))
        return _run(request, cohort, pairs, part(progress, 0.1, 1.0))


def _run(
    request: Request, cohort: Cohort, pairs: Sequence[tuple[str, str]], progress: Progress
) -> Reproduction:
    paper, phantom = read_paper(request.paper), request.phantom
    cohort = choose(cohort, request.cases)
    models = open_models([(_canonical(request.paper, row), given) for row, given in pairs], request.lungs)
    options = SegmentOptions(device=request.device)
    work = Work(cohort, models, options, request.replicate, progress)
    found = PROTOCOLS[request.paper].run(work)
    cells = lay_beside(paper, found.cells, NO_CHECKPOINT)
    warnings = work.log.told()
    others = [f"Not the paper's data: {one}." for one in cohort.incomparable]
    record = {
        "paper": paper.name,
        "title": paper.title,
        "citation": paper.citation,
        "data": paper.data,
        "phantom": phantom,
        "replicate": request.replicate,
        "definitions": found.definitions,
        "differences": found.differences,
        "cells": [cell.to_record() for cell in cells],
        "scans": [
            {
                "case": scan.case,
                "animal": scan.animal,
                "set": scan.group,
                "observers": sorted(scan.references),
            }
            for scan in cohort.scans
        ],
        "failures": [vars(one) for one in work.log.failures],
        "rows": found.rows,
        "tables": [_plain(table) for table in found.tables],
        **found.extras,
        "checkpoints": about_models(models),
        "devices": sorted(work.log.devices),
        "versions": report.versions(),
        "finished_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "notes": [*cohort.notes, *found.notes, *([] if phantom else others)],
        "warnings": [phantom_data.WARNING, *warnings] if phantom else warnings,
        "notice": RESEARCH_USE,
    }
    progress(1.0, "The tables are ready")
    return Reproduction(record, as_tables(paper, cells), found)


def _plain(table: DataTable) -> dict[str, Any]:
    return {
        "title": table.title,
        "columns": list(table.columns),
        "rows": [list(row) for row in table.rows],
        "footnotes": list(table.footnotes),
    }


def rows_of(paper: str) -> list[str]:
    """Return the models that a paper's tables have as rows, and that a checkpoint can stand for."""
    found: dict[str, None] = {}
    for table in read_paper(paper).tables.values():
        at = table.row_names.index("Model")
        found |= dict.fromkeys(row[at] for row in table.rows)
    return [row for row in found if row not in (malimban.OBSERVERS, malimban.QUOTED, ensemble.AVERAGE)]


def _canonical(paper: str, name: str) -> str:
    """Return a row's name as the paper writes it, where it differs in case alone."""
    return next((row for row in rows_of(paper) if row.casefold() == name.casefold()), name)


def write(done: Reproduction, folder: Path, progress: Progress = silent) -> list[Path]:
    """Write `reproduce.json` (everything), `.csv` (a row a cell) and `.html`, all or none; return their paths.

    Raises OutputError when the folder has such files already or cannot be written.
    """
    folder = Path(folder)
    check_output(folder, NAMES)
    with publish_together(folder, marker=NAMES[0]) as scratch:
        text = json.dumps(done.record, indent=2, ensure_ascii=False, allow_nan=False)
        (scratch / NAMES[0]).write_text(text + "\n", "utf-8")
        (scratch / NAMES[1]).write_text(csv_text(CSV_COLUMNS, done.record["cells"]), "utf-8", newline="")
        progress(0.2, "Drawing figures")
        (scratch / NAMES[2]).write_text(page(done), "utf-8")
    progress(1.0, "Wrote the tables")
    return [folder / name for name in NAMES]


def page(done: Reproduction) -> str:
    """Return the tables as an HTML page."""
    record = done.record
    tables = [
        DataTable(f"{table['name']}. {table['title']}", table["columns"], table["rows"], table["footnotes"])
        for table in done.tables
    ]
    scored = {row["case"] for row in record["rows"] if row["status"] == "ok"}
    beside = [*done.found.tables]
    if done.found.pictures or beside:
        more = [Section("Beside the tables", (), beside, [draw() for draw in done.found.pictures])]
    else:
        more = []
    failed = [failures_table(_failures(record))] if record["failures"] else []
    sections = [
        Section(
            "The paper's tables and ours",
            ("Above what the paper prints, below what was found here.",),
            tables,
        ),
        *more,
        Section("What differs from the paper", record["differences"], failed),
    ]
    warnings = list(record["warnings"])
    if record["failures"]:
        warnings.append(
            f"{len(record['failures'])} scan(s) could not be scored and are in no number; they are listed below."
        )
    models = {
        one["row"]: f"{one['name']} ({one['architecture']}), SHA-256 {', '.join(one['weights_sha256'])}"
        for one in record["checkpoints"]
    }
    facts = [
        (str(len(scored)), f"of {len(record['scans'])} scans scored"),
        (str(len(record["checkpoints"])), "checkpoints"),
        (
            str(sum(cell["comparable"] == "yes" for cell in record["cells"])),
            f"of {len(record['cells'])} cells comparable",
        ),
    ]
    provenance = {
        **models,
        "Data": record["data"],
        "Versions": ", ".join(f"{name} {number}" for name, number in record["versions"].items()),
        "Finished (UTC)": record["finished_utc"],
    }
    title = f"{'PHANTOM: ' if record['phantom'] else ''}{record['paper']}: published tables and ours"
    subtitle = f"{record['title']}. {record['citation']}"
    return report.render_report(
        title, subtitle, facts, sections, warnings, record["notes"], record["definitions"], provenance
    )


def _failures(record: dict[str, Any]) -> list[Any]:
    from thoraxseg.reproduce.running import Failure

    return [Failure(**one) for one in record["failures"]]
