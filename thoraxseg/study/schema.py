"""The tables of a study file, as a list of steps that bring any older file up to date."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from itertools import chain

APPLICATION_ID = 0x54585347
"""`TXSG` in the header of the file: SQLite's own place for saying whose file it is."""

# A step that was published is never edited: files in the field were made with it. What is new (runs keyed by input,
# model and options, observers ...) is a further step, with tables that point to `cases` and `operators`.
# Times of an event: `seconds` is work (look, edit, manual), waiting (wait) or computing (run); `idle_s` is the rest.
# An event that was taken back stays, with the moment of it in `withdrawn_utc`, and counts nowhere.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE study (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            uid TEXT NOT NULL,
            created_utc TEXT NOT NULL,
            made_with TEXT NOT NULL,
            manual_reference_min REAL CHECK (manual_reference_min > 0 AND manual_reference_min < 1e6)
        )""",
        """CREATE TABLE animals (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE CHECK (length(name) > 0)
        )""",
        """CREATE TABLE cases (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            animal_id INTEGER NOT NULL REFERENCES animals (id),
            scan TEXT NOT NULL CHECK (length(scan) > 0),
            UNIQUE (animal_id, scan)
        )""",
        """CREATE TABLE operators (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE CHECK (length(name) > 0)
        )""",
        """CREATE TABLE sessions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            uid TEXT NOT NULL UNIQUE,
            case_id INTEGER NOT NULL REFERENCES cases (id),
            operator_id INTEGER NOT NULL REFERENCES operators (id),
            source TEXT NOT NULL CHECK (source IN ('live', 'entered')),
            idle_after_s REAL,
            opened_utc TEXT NOT NULL
        )""",
        """CREATE TABLE events (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            session_id INTEGER NOT NULL REFERENCES sessions (id),
            number INTEGER NOT NULL,
            kind TEXT NOT NULL,
            structure TEXT NOT NULL DEFAULT '',
            started_utc TEXT NOT NULL,
            ended_utc TEXT NOT NULL,
            seconds REAL NOT NULL DEFAULT 0 CHECK (seconds >= 0 AND seconds < 1e9),
            idle_s REAL NOT NULL DEFAULT 0 CHECK (idle_s >= 0 AND idle_s < 1e9),
            preprocessing_s REAL CHECK (preprocessing_s >= 0 AND preprocessing_s < 1e9),
            inference_s REAL CHECK (inference_s >= 0 AND inference_s < 1e9),
            export_s REAL CHECK (export_s >= 0 AND export_s < 1e9),
            UNIQUE (session_id, number)
        )""",
        "CREATE INDEX sessions_of_case ON sessions (case_id, operator_id)",
    ),
    ("ALTER TABLE events ADD COLUMN withdrawn_utc TEXT",),
    # `contours`: where image and mask lie that a verdict (`event_id`) is about. `results`: the record of a run.
    # `structures` is JSON, label -> key. Paths are relative to the study file where they lie beside or below it.
    (
        """CREATE TABLE contours (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            event_id INTEGER NOT NULL UNIQUE REFERENCES events (id),
            image TEXT NOT NULL CHECK (length(image) > 0),
            image_sha256 TEXT NOT NULL,
            mask TEXT NOT NULL CHECK (length(mask) > 0),
            mask_sha256 TEXT NOT NULL,
            structures TEXT NOT NULL,
            named_utc TEXT NOT NULL
        )""",
        """CREATE TABLE results (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            case_id INTEGER NOT NULL REFERENCES cases (id),
            record TEXT NOT NULL CHECK (length(record) > 0),
            named_utc TEXT NOT NULL,
            UNIQUE (case_id, record)
        )""",
    ),
)


def version_of(db: sqlite3.Connection) -> int:
    """Return how many steps made the tables of a file."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def migrate(db: sqlite3.Connection) -> None:
    """Run the steps that a file lacks; the caller holds the transaction, so that all of them happen or none."""
    for statement in chain.from_iterable(MIGRATIONS[version_of(db) :]):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def layout(db: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """Return the tables of a file, each with the names of its columns."""
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        name: tuple(row[0] for row in db.execute("SELECT name FROM pragma_table_info(?)", (name,)))
        for name in names
        if not name.startswith("sqlite_")
    }


def expected_layout(version: int) -> dict[str, tuple[str, ...]]:
    """Return the layout that a file has after its first `version` steps."""
    return _layout_after(MIGRATIONS[:version])


@cache
def _layout_after(steps: tuple[tuple[str, ...], ...]) -> dict[str, tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in chain.from_iterable(steps):
            db.execute(statement)
        return layout(db)
