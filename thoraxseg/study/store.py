"""The study file: one SQLite file on a local or shared disk, opened anew for every look and every change.

The file has a rollback journal and no write-ahead log: a log needs memory that all writers share, which does not
exist across a network disk, and it keeps the latest rows in a second file that is forgotten when a study is copied.
No handle is held between two changes, so that a laptop may sleep, a disk may be unplugged and the file be moved or
backed up; each change is one transaction, flushed to the disk.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from thoraxseg import __version__
from thoraxseg.errors import InputError, OptionError, OutputError, ThoraxSegError
from thoraxseg.files import new_scratch
from thoraxseg.study.schema import APPLICATION_ID, MIGRATIONS, expected_layout, layout, migrate, version_of

BUSY_S = 5.0
"""How long a change waits for that of another program. A change takes milliseconds."""


@dataclass(frozen=True)
class Store:
    """A study file that was found whole; `create_study` and `open_study` give it."""

    path: Path
    uid: str
    busy_s: float = BUSY_S

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that cannot write; of an older file, one to a copy in memory that is up to date.

        Raises InputError when the file is not there, damaged or not ours.
        """
        with _told(self.path, self.busy_s, writing=False):
            _roll_back_a_killed_writer(self.path, self.busy_s)
            with closing(_connect(self.path, "ro", self.busy_s)) as db:
                db.execute("BEGIN")  # one moment of the file, though others write
                _check(db, self.path, self.uid)
                if version_of(db) == len(MIGRATIONS):
                    yield db
                    return
                with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
                    db.backup(copy)
                    migrate(copy)
                    yield copy

    @contextmanager
    def writing(self, busy_s: float | None = None) -> Iterator[sqlite3.Connection]:
        """Yield a connection inside a transaction: all that is done with it is written, or, on an error, nothing.

        An older file is brought up to date in the same transaction. Raises OutputError when another program has been
        writing for `busy_s` or the disk does not let us, InputError when the file is damaged or another one by now.
        """
        busy_s = self.busy_s if busy_s is None else busy_s
        with _told(self.path, busy_s, writing=True), closing(_connect(self.path, "rw", busy_s)) as db:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA journal_mode = DELETE")  # whatever another program set
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            try:
                _check(db, self.path, self.uid)
                if version_of(db) < len(MIGRATIONS):
                    migrate(db)
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def manual_reference_min(self) -> float | None:
        """Return how many minutes contouring one scan by hand takes in this study; None where nobody said."""
        with self.reading() as db:
            return db.execute("SELECT manual_reference_min FROM study").fetchone()[0]

    def set_manual_reference(self, minutes: float | None) -> None:
        """Set (or, with None, take away) the minutes that contouring one scan by hand takes in this study."""
        checked = None if minutes is None else checked_minutes(minutes)
        with self.writing() as db:
            db.execute("UPDATE study SET manual_reference_min = ?", (checked,))


def checked_minutes(minutes: float) -> float:
    """Return the minutes of a manual reference; OptionError unless above 0 and below a million."""
    if not 0 < minutes < 1e6:
        raise OptionError(f"expected the manual reference in minutes, above 0, such as 40; got {minutes:g}.")
    return float(minutes)


def create_study(path: Path | str, busy_s: float = BUSY_S) -> Store:
    """Make an empty study file and return it; whole under its name, or not there.

    Raises OutputError when there is something under this name or the folder cannot be written.
    """
    path = Path(path)
    scratch = new_scratch(path.parent)
    try:
        made = scratch / "study.sqlite"
        uid = uuid.uuid4().hex
        with _told(path, busy_s, writing=True), closing(_connect(made, "rwc", busy_s)) as db:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            migrate(db)
            now = utc_stamp(datetime.now(timezone.utc))
            values = (1, uid, now, f"thoraxseg {__version__}")
            db.execute("INSERT INTO study (id, uid, created_utc, made_with) VALUES (?, ?, ?, ?)", values)
            db.execute("COMMIT")
        _name_it(made, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Store(path, uid, busy_s)


def open_study(path: Path | str, busy_s: float = BUSY_S) -> Store:
    """Return the study file, which is looked through and not changed.

    Raises InputError saying what to do: no file, a folder, another program's file, made by a newer ThoraxSeg, damaged.
    """
    path = Path(path)
    with _told(path, busy_s, writing=False):
        _refuse_what_is_no_file(path)
        _roll_back_a_killed_writer(path, busy_s)
        with closing(_connect(path, "ro", busy_s)) as db:
            db.execute("BEGIN")
            _check(db, path, None)
            with closing(
                sqlite3.connect(":memory:")
            ) as copy:  # SQLite checks no values where it may not write
                db.backup(copy)
                wrong = [row[0] for row in copy.execute("PRAGMA quick_check(1)") if row[0] != "ok"]
                wrong += [f"{row[0]} points to nothing" for row in copy.execute("PRAGMA foreign_key_check")]
            if wrong:
                raise InputError(_damaged(path, wrong[0]))
            row = db.execute("SELECT uid FROM study").fetchone()
            if row is None:
                raise InputError(_damaged(path, "it does not say which study it is"))
            return Store(path, row[0], busy_s)


def utc_stamp(moment: datetime) -> str:
    """Return a moment as `2026-11-21T15:37:07.123Z`: the same in every time zone, and in order as text."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _refuse_what_is_no_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        reason = "it is not there" if error.errno == errno.ENOENT else error.strerror or str(error)
        raise InputError(
            f"{path}: expected a study file, but {reason}. Check the path, or make one with 'thoraxseg study new'."
        ) from error
    if path.is_dir() or size == 0:
        got = "a folder" if path.is_dir() else "an empty file"
        raise InputError(
            f"{path}: expected a study file of ThoraxSeg, got {got}. Check the path; 'thoraxseg study new' makes a "
            "study under a name that is free."
        )


def _check(db: sqlite3.Connection, path: Path, uid: str | None) -> None:
    """Raise InputError unless the open file is a study of ours, with the tables of its version, and still the same."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise InputError(
            f"{path}: expected a study file of ThoraxSeg, got a database of another program. It was not changed. "
            "Check the path, or make a study with 'thoraxseg study new'."
        )
    version = version_of(db)
    if version > len(MIGRATIONS):
        raise InputError(
            f"{path}: made by a newer ThoraxSeg (layout {version}; this one knows up to {len(MIGRATIONS)}). It was not "
            "changed. Update ThoraxSeg, then try again."
        )
    # A trigger or view would run with our changes, and we make none.
    foreign = db.execute("SELECT name FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchone()
    if foreign:
        raise InputError(
            f"{path}: expected a study file with tables only, it also has the trigger or view {foreign[0]!r:.80}, "
            "which ThoraxSeg did not make. Take it out, or use a backup."
        )
    there = layout(db)
    for table, columns in expected_layout(version).items():
        if table not in there or not {*columns} <= {*there[table]}:
            raise InputError(_damaged(path, f"the table {table} is not as ThoraxSeg made it"))
    if uid is not None and db.execute("SELECT uid FROM study").fetchone() != (uid,):
        raise InputError(
            f"{path}: another study lies under this name by now. Nothing was written. Open the study again."
        )


def _connect(path: Path, mode: str, busy_s: float) -> sqlite3.Connection:
    """Open by address, since only so SQLite neither makes a file that is not there nor writes where we read."""
    place = path.absolute().as_posix()
    place = quote(os.fsencode(place if place.startswith("/") else f"/{place}"))
    db = sqlite3.connect(f"file://{place}?mode={mode}", timeout=busy_s, isolation_level=None, uri=True)
    db.execute("PRAGMA trusted_schema = OFF")
    return db


def _roll_back_a_killed_writer(path: Path, busy_s: float) -> None:
    """Let SQLite take back a change that a killed program left half done: readers that may not write cannot."""
    if not path.with_name(path.name + "-journal").exists():
        return
    with suppress(sqlite3.OperationalError), closing(_connect(path, "rw", busy_s)) as db:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _name_it(made: Path, path: Path) -> None:
    """Give a whole file its name, never that of another file: two people may start one study at the same time."""
    taken = OutputError(
        f"{path} exists and was not changed. Choose another name, or use the study that is there."
    )
    try:
        os.link(made, path)
    except FileExistsError as error:
        raise taken from error
    except OSError:  # a disk without links
        if path.exists():
            raise taken from None
        try:
            made.replace(path)
        except OSError as error:
            raise OutputError(f"{path}: the study file cannot be made: {error.strerror or error}.") from error


def _damaged(path: Path, what: object) -> str:
    reason = " ".join(str(what).split())
    return (
        f"{path}: the study file is damaged ({reason}). It was not changed. Use a backup; what can be saved of "
        "this one, the program sqlite3 writes to a new file with '.recover'."
    )


@contextmanager
def _told(path: Path, busy_s: float, *, writing: bool) -> Iterator[None]:
    """Turn the errors of SQLite into ours."""
    try:
        yield
    except ThoraxSegError:
        raise
    except sqlite3.OperationalError as error:
        text, kind = str(error), OutputError if writing else InputError
        if "no such" in text:
            raise InputError(_damaged(path, text)) from error
        done = "Nothing was written" if writing else "Nothing was read"
        if "locked" in text:
            raise kind(
                f"{path}: another program has kept the study file busy for {busy_s:g} s. {done}. Try again; if it "
                "stays so, close programs that have the file open, or move it to a disk that can lock files."
            ) from error
        raise kind(
            f"{path}: the study file cannot be {'written' if writing else 'read'}: {text}. {done}. Check that it is "
            "still there, its permissions, and the space on the disk."
        ) from error
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise InputError(
                f"{path}: expected a study file of ThoraxSeg, got a file of another kind. It was not changed. Check "
                "the path, or make a study with 'thoraxseg study new'."
            ) from error
        raise InputError(_damaged(path, error)) from error
