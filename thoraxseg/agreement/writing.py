"""A finished comparison -> JSON for programs, CSV for spreadsheets, a page and figures for people: all or none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from thoraxseg import RESEARCH_USE
from thoraxseg.agreement.words import some
from thoraxseg.files import check_free, check_output, publish_together
from thoraxseg.report import DataTable, Picture, Section, printable, render_report, versions
from thoraxseg.tables import write_csv


@dataclass(frozen=True)
class Csv:
    """A table for spreadsheets."""

    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Report:
    """What a command hands out; see `write` for the files."""

    stem: str
    """Name of the command and of its files."""
    record: dict[str, Any]
    """What becomes the JSON file."""
    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    """(value, what it is) for the head of the page."""
    draw: Callable[[], Sequence[Section]]
    """Makes the page; who wants numbers alone need not wait for figures."""
    tables: Mapping[str, Csv] = field(default_factory=dict)
    """CSV files by what follows the stem in their names."""
    volumes: Sequence[Callable[[Path], None]] = ()
    """Writers of masks and maps into a folder."""

    @cached_property
    def sections(self) -> Sequence[Section]:
        """What the page shows."""
        return self.draw()

    @property
    def failed(self) -> Sequence[Mapping[str, str]]:
        """The cases that could not be read or compared."""
        return self.record.get("failures", ())

    def shown(self) -> list[DataTable]:
        """Return the tables that a terminal shows: those of the first section."""
        return list(self.sections[0].tables)


def finished(
    definitions: Mapping[str, str],
    options: Mapping[str, Any],
    notes: Sequence[str],
    warnings: Sequence[str],
    **more: Any,
) -> dict[str, Any]:
    """Return a record with what every command's record holds; None stands for what is undefined."""
    return {
        "schema": 1,
        "definitions": dict(definitions),
        **more,
        "options": dict(options),
        "notes": [printable(note) for note in dict.fromkeys(notes)],
        "warnings": [printable(warning) for warning in dict.fromkeys(warnings)],
        "versions": versions(),
        "finished_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "notice": RESEARCH_USE,
    }


def collapsed(said: Iterable[tuple[str, str]]) -> list[str]:
    """Return sentences with where they hold; one that holds in several places stands once, with their number."""
    places: dict[str, list[str]] = {}
    for where, what in said:
        places.setdefault(what, []).append(where)
    return [
        f"{where[0]}: {what}" if len(where) == 1 else f"{what} ({len(where)} times: {some(where)})"
        for what, where in places.items()
    ]


def names_of(stem: str) -> tuple[str, ...]:
    """Return the files that every command writes; more depend on what it finds."""
    return f"{stem}.json", f"{stem}.html", f"{stem}.csv"


def free_folder(stem: str) -> Path:
    """Return the folder `thoraxseg-STEM`, or with the first number behind it that is not taken."""
    number, folder = 1, Path(f"thoraxseg-{stem}")
    while folder.exists():
        number += 1
        folder = Path(f"thoraxseg-{stem}-{number}")
    return folder


def write(report: Report, folder: Path) -> list[Path]:
    """Write STEM.json, STEM.html, the CSV files, every figure as PNG and SVG, and the volumes; return their paths.

    Raises OutputError when a file of such a name is there already or the folder cannot be written; then nothing new
    is there.
    """
    folder = Path(folder)
    check_output(folder, names_of(report.stem))
    marker = f"{report.stem}.json"
    with publish_together(folder, marker=marker) as scratch:
        for suffix, table in report.tables.items():
            write_csv(scratch / f"{report.stem}{suffix}.csv", table.columns, table.rows)
        for name, picture in _pictures(report).items():
            (scratch / f"{report.stem}_{name}.png").write_bytes(picture.png)
            (scratch / f"{report.stem}_{name}.svg").write_bytes(picture.svg)
        for writer in report.volumes:
            writer(scratch)
        (scratch / f"{report.stem}.html").write_text(page(report), encoding="utf-8")
        text = json.dumps(report.record, indent=2, ensure_ascii=False, allow_nan=False)
        (scratch / marker).write_text(text + "\n", encoding="utf-8")
        names = sorted(path.name for path in scratch.iterdir())
        check_free(folder, names)
    return [folder / name for name in names]


def page(report: Report) -> str:
    """Return the report as one self-contained HTML page."""
    record = report.record
    inputs = {one["role"]: f"{one['name']}, SHA-256 {one['sha256']}" for one in record.get("inputs", ())}
    return render_report(
        report.title,
        report.subtitle,
        report.facts,
        report.sections,
        record["warnings"],
        record["notes"],
        record["definitions"],
        {
            **inputs,
            "options": ", ".join(f"{key} {_said(value)}" for key, value in record["options"].items()),
            "versions": ", ".join(f"{name} {number}" for name, number in record["versions"].items()),
            "finished": record["finished_utc"],
        },
    )


def _pictures(report: Report) -> dict[str, Picture]:
    """Return all figures by name; names that are alike once letters beyond ASCII are gone get numbers."""
    found: dict[str, Picture] = {}
    for picture in (picture for section in report.sections for picture in section.pictures):
        name, number = picture.name, 1
        while name in found:
            number += 1
            name = f"{picture.name}_{number}"
        found[name] = picture
    return found


def _said(value: Any) -> str:
    """Return the value of an option in words."""
    if value in (None, [], {}):
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{key or 'all'}: {_said(one)}" for key, one in value.items())
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)
