"""What the ledger knows of, and how it gets into the study file; times that were taken elsewhere are entered here."""

from __future__ import annotations

import math
import sqlite3
import unicodedata
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone

from thoraxseg.errors import OptionError
from thoraxseg.study.store import Store, utc_stamp

ACTIVITIES = ("look", "edit", "manual", "wait", "idle")
"""What lasts. look, edit (automated contours), manual (contours from nothing) are work; wait is for the computer."""
WORK = ("look", "edit", "manual")
VERDICTS = {"accept": "accepted", "needs work": "needs work", "reject": "rejected"}
TAKE_BACK = "take back"
"""The moment from which on an earlier verdict counts no more."""
MOMENTS = ("open", *VERDICTS, TAKE_BACK, "close")
KINDS = (*ACTIVITIES, "run", *MOMENTS)
RUN_PARTS = ("preprocessing_s", "inference_s", "export_s")
MAX_NAME = 200
MAX_SECONDS = 1e9
MAX_ENTERED_S = 24 * 3600.0
"""No entry of one sitting is longer: more is a slip of the finger, or not in seconds."""

# Where the stages of a case's `timings_s` belong; a stage that is not named here is part of the total alone.
_STAGES = {
    "preprocessing_s": ("read", "preprocess"),
    "inference_s": ("lung_map", "first_stage", "inference"),
    "export_s": ("write_volumes", "figures"),
}


@dataclass
class Event:
    """One line of the ledger. `seconds` is work, waiting (wait) or computing (run); `idle_s` is beside it."""

    number: int
    kind: str
    structure: str
    started_utc: str
    ended_utc: str
    seconds: float = 0.0
    idle_s: float = 0.0
    preprocessing_s: float | None = None
    inference_s: float | None = None
    export_s: float | None = None


@dataclass(frozen=True)
class Who:
    """Whose time it is: the animal, the scan of this animal, the operator; names as people gave them."""

    animal: str
    scan: str
    operator: str

    def __post_init__(self) -> None:
        for field in ("animal", "scan", "operator"):
            object.__setattr__(self, field, checked_name(getattr(self, field), field))


def checked_name(name: str, what: str) -> str:
    """Return a name without blanks around it; OptionError where it is empty, too long or no plain text."""
    name = name.strip()
    plain = not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
    if not (name and plain and len(name) <= MAX_NAME):
        raise OptionError(
            f"expected the name of the {what}, one line of text of at most {MAX_NAME} characters, got {name!r:.80}."
        )
    return name


def checked_structure(kind: str, structure: str | None) -> str:
    """Return the structure of an activity; '' where none was named. Only edit and manual have one."""
    if structure is None:
        return ""
    if kind not in ("edit", "manual"):
        raise OptionError(f"expected a structure for edit or manual only, got {structure!r:.80} for {kind}.")
    return checked_name(structure, "structure")


def structure_key(structure: str) -> str:
    """Return what two spellings of one structure share: `heart` and `Heart ` are the same."""
    return structure.strip().casefold()


def checked_seconds(seconds: float, what: str) -> float:
    """Return a duration; OptionError unless it is 0 or more and finite."""
    if not (math.isfinite(seconds) and 0 <= seconds < MAX_SECONDS):
        raise OptionError(f"{what}: expected seconds, 0 or more, got {seconds:g}.")
    return float(seconds)


def checked_run(parts: Mapping[str, float | None], total_s: float | None) -> dict[str, float | None]:
    """Return the times of a run: its parts as given, and `seconds`, the whole; without a total, the sum of the parts.

    Raises OptionError where there is no time at all, or the total is more than a hundredth below the sum of the parts.
    """
    if unknown := [name for name in parts if name not in RUN_PARTS]:
        raise OptionError(f"expected times of a run among {', '.join(RUN_PARTS)}, got {unknown[0]}.")
    known = {name: checked_seconds(value, name) for name, value in parts.items() if value is not None}
    if total_s is None and not known:
        raise OptionError(
            "expected the seconds that the run took: the total, or its parts (preprocessing, inference, export)."
        )
    whole = sum(known.values())
    total_s = whole if total_s is None else checked_seconds(total_s, "total_s")
    if total_s < 0.99 * whole:
        raise OptionError(
            f"expected a total of at least the sum of the parts, {whole:g} s, got {total_s:g} s."
        )
    return {name: known.get(name) for name in RUN_PARTS} | {"seconds": max(total_s, whole)}


def run_from_timings(timings_s: Mapping[str, float]) -> dict[str, float]:
    """Return the arguments of `Ledger.run` for the `timings_s` of a case's record.

    preprocessing: reading the image and preparing it. inference: the network, with the lung map or first stage that it
    takes. export: writing contours and figures. total: all stages, so also loading the checkpoint, clean-up, doubt.
    """
    stages = {name: seconds for name, seconds in timings_s.items() if name != "total"}
    found = {part: sum(stages.get(name, 0.0) for name in names) for part, names in _STAGES.items()}
    return found | {"total_s": max(timings_s.get("total", 0.0), sum(stages.values()))}


def save_events(
    store: Store,
    who: Who,
    session_uid: str,
    opened_utc: str,
    idle_after_s: float,
    events: Iterable[Event],
    busy_s: float | None = None,
) -> None:
    """Write events of a live session, new ones and those that grew, in one transaction; again is no harm.

    Raises OutputError or InputError as `Store.writing` does; then none was written.
    """
    with store.writing(busy_s) as db:
        session = _session(db, who, session_uid, "live", opened_utc, idle_after_s)
        for event in events:
            _put(db, session, event)


def log_event(
    store: Store,
    who: Who,
    kind: str,
    structure: str | None = None,
    seconds: float | None = None,
    run_parts: Mapping[str, float | None] | None = None,
    now: datetime | None = None,
) -> Event:
    """Enter one event that a stopwatch or another program timed, and return it.

    Activities need their `seconds`; a run its `seconds` (the whole) or `run_parts`; moments (open, accept, needs work,
    reject, take back, close) have none. An entered activity counts as given: no idle time is taken off.
    Raises OptionError for an unknown kind, times that do not fit it or are above 24 hours, OutputError when the file
    cannot be written.
    """
    if kind not in KINDS:
        raise OptionError(f"expected one of the events {', '.join(KINDS)}, got {kind!r:.80}.")
    if run_parts and kind != "run":
        raise OptionError(f"{', '.join(run_parts)}: only a run has these, not {kind}.")
    structure = checked_structure(kind, structure)
    times: dict[str, float | None] = {}
    if kind == "run":
        times = checked_run(run_parts or {}, seconds)
    elif kind in MOMENTS and seconds is not None:
        raise OptionError(f"{kind} is a moment and takes no seconds, got {seconds:g}.")
    elif kind in ACTIVITIES:
        if seconds is None:
            raise OptionError(f"{kind}: expected the seconds it took.")
        times = {"idle_s" if kind == "idle" else "seconds": checked_seconds(seconds, kind)}
    _refuse_typing_errors(kind, times)
    stamp = utc_stamp(now or datetime.now(timezone.utc))
    with store.writing() as db:
        case, operator = _case_and_operator(db, who)
        query = "SELECT uid FROM sessions WHERE case_id = ? AND operator_id = ? AND source = 'entered'"
        row = db.execute(query, (case, operator)).fetchone()
        session = _session(db, who, row[0] if row else uuid.uuid4().hex, "entered", stamp, None)
        query = "SELECT coalesce(max(number), 0) + 1 FROM events WHERE session_id = ?"
        number = db.execute(query, (session,)).fetchone()[0]
        event = Event(number, kind, structure, stamp, stamp, **times)  # type: ignore[arg-type]
        _put(db, session, event)
    return event


def undo_last(store: Store, who: Who, now: datetime | None = None) -> Event:
    """Take back the last event that `log_event` entered for this scan and operator, and return it.

    Again, it takes the one before. The event stays in the file, marked with the moment, and counts nowhere. What a
    `Ledger` measured cannot be taken back. Raises OptionError where nothing is left to take back, OutputError when the
    file cannot be written.
    """
    names = ", ".join(f"events.{field.name}" for field in fields(Event))
    query = f"""SELECT events.id, {names} FROM events
        JOIN sessions ON sessions.id = session_id JOIN cases ON cases.id = case_id
        JOIN animals ON animals.id = animal_id JOIN operators ON operators.id = operator_id
        WHERE source = 'entered' AND withdrawn_utc IS NULL
        AND animals.name = ? AND scan = ? AND operators.name = ? ORDER BY events.id DESC LIMIT 1"""  # noqa: S608
    stamp = utc_stamp(now or datetime.now(timezone.utc))
    with store.writing() as db:
        row = db.execute(query, (who.animal, who.scan, who.operator)).fetchone()
        if row is None:
            raise OptionError(
                f"expected something entered for animal {who.animal!r}, scan {who.scan!r}, operator {who.operator!r}, "
                "got nothing that can be taken back. Check the names; measured times stay."
            )
        db.execute("UPDATE events SET withdrawn_utc = ? WHERE id = ?", (stamp, row[0]))
    return Event(*row[1:])


def _refuse_typing_errors(kind: str, times: Mapping[str, float | None]) -> None:
    longest = max((value for value in times.values() if value is not None), default=0.0)
    if longest > MAX_ENTERED_S:
        raise OptionError(
            f"{kind}: expected seconds, at most {MAX_ENTERED_S:g} (24 hours) in one entry, got {longest:.10g}. Check "
            "for a typing error; enter what really took longer in parts."
        )


def _session(
    db: sqlite3.Connection, who: Who, uid: str, source: str, opened_utc: str, idle_after_s: float | None
) -> int:
    row = db.execute("SELECT id FROM sessions WHERE uid = ?", (uid,)).fetchone()
    if row:
        return row[0]
    columns = "uid, case_id, operator_id, source, idle_after_s, opened_utc"
    values = (uid, *_case_and_operator(db, who), source, idle_after_s, opened_utc)
    return _insert(db, f"INSERT INTO sessions ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)  # noqa: S608


def _case_and_operator(db: sqlite3.Connection, who: Who) -> tuple[int, int]:
    animal = _find_or_add(db, "animals", {"name": who.animal})
    case = _find_or_add(db, "cases", {"animal_id": animal, "scan": who.scan})
    return case, _find_or_add(db, "operators", {"name": who.operator})


def _find_or_add(db: sqlite3.Connection, table: str, values: Mapping[str, object]) -> int:
    """Return the id of the row with these values, which is made where there is none; the words are our own."""
    where = " AND ".join(f"{column} = ?" for column in values)
    row = db.execute(f"SELECT id FROM {table} WHERE {where}", (*values.values(),)).fetchone()  # noqa: S608
    if row:
        return row[0]
    marks = ", ".join("?" * len(values))
    return _insert(db, f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", (*values.values(),))  # noqa: S608


def _insert(db: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> int:
    row = db.execute(statement, values).lastrowid
    if row is None:
        raise sqlite3.DatabaseError("a row was not made")
    return row


def _put(db: sqlite3.Connection, session: int, event: Event) -> None:
    grown = (event.ended_utc, event.seconds, event.idle_s)
    there = "UPDATE events SET ended_utc = ?, seconds = ?, idle_s = ? WHERE session_id = ? AND number = ?"
    if db.execute(there, (*grown, session, event.number)).rowcount:
        return
    values = {"session_id": session, **vars(event)}
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    db.execute(f"INSERT INTO events ({columns}) VALUES ({marks})", (*values.values(),))  # noqa: S608
