"""Measured sessions as text and back, for programs that keep them with something else than a study file.

A 3D Slicer scene keeps its times so: the text travels with the scene, and every study file can take it in, again and
again, without counting anything twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from thoraxseg import __version__
from thoraxseg.errors import InputError, ThoraxSegError
from thoraxseg.study.events import (
    KINDS,
    RUN_PARTS,
    Event,
    Who,
    checked_name,
    checked_seconds,
    save_events,
)
from thoraxseg.study.store import Store

SCHEMA = 1
MAX_CHARACTERS = 64 << 20
_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class Session:
    """What one `Ledger` measured, from open to close or to the last time it was written."""

    who: Who
    uid: str
    opened_utc: str
    idle_after_s: float
    events: tuple[Event, ...]


def sessions_of(store: Store, uid: str | None = None) -> list[Session]:
    """Return the sessions of a study that a ledger measured, in order; with `uid` that one alone.

    What was entered by hand is in none of them. Raises InputError as `open_study` does.
    """
    names = ", ".join(f"events.{field.name}" for field in fields(Event))
    query = f"""SELECT uid, opened_utc, idle_after_s, animals.name, scan, operators.name, {names}
        FROM events JOIN sessions ON sessions.id = session_id JOIN cases ON cases.id = case_id
        JOIN animals ON animals.id = animal_id JOIN operators ON operators.id = operator_id
        WHERE source = 'live' AND (? IS NULL OR uid = ?) ORDER BY session_id, number"""  # noqa: S608
    found: dict[str, Session] = {}
    with store.reading() as db:
        for own, opened, idle_after, animal, scan, operator, *values in db.execute(query, (uid, uid)):
            before = found.get(own) or Session(Who(animal, scan, operator), own, opened, idle_after, ())
            found[own] = Session(before.who, own, opened, idle_after, (*before.events, Event(*values)))
    return list(found.values())


def put_sessions(store: Store, sessions: Iterable[Session], busy_s: float | None = None) -> None:
    """Put sessions into a study: what is not there yet, and events that have grown since; again is no harm.

    Raises OutputError as `Store.writing` does, InputError where a session is there under other names.
    """
    sessions = sorted(sessions, key=lambda session: session.opened_utc)  # the last verdict counts
    of_store = {one.uid: one for one in sessions_of(store, sessions[0].uid if len(sessions) == 1 else None)}
    for session in sessions:
        there = of_store.get(session.uid)
        if there is not None and there.who != session.who:
            raise InputError(
                f"{store.path}: session {session.uid} is of {there.who} there, and of {session.who} here. One of the "
                "two was changed by hand: use a backup of it."
            )
        known = {event.number: _span(event) for event in there.events} if there is not None else {}
        grown = [event for event in session.events if _span(event) > known.get(event.number, -1.0)]
        if grown:
            save_events(
                store, session.who, session.uid, session.opened_utc, session.idle_after_s, grown, busy_s
            )


def _span(event: Event) -> float:
    """Return what only ever grows in an event: the wall clock may be set back."""
    return event.seconds + event.idle_s


def sessions_to_text(sessions: Sequence[Session], manual_reference_min: float | None = None) -> str:
    """Return sessions, and the minutes by hand where somebody said them, as one line of JSON in ASCII."""
    record = {
        "schema": SCHEMA,
        "made_with": f"thoraxseg {__version__}",
        "manual_reference_min": manual_reference_min,
        "sessions": [
            {
                **asdict(one.who),
                "uid": one.uid,
                "opened_utc": one.opened_utc,
                "idle_after_s": one.idle_after_s,
                "events": [_lean(event) for event in one.events],
            }
            for one in sessions
        ],
    }
    return json.dumps(record, separators=(",", ":"), allow_nan=False)


def sessions_from_text(text: str, where: str) -> tuple[list[Session], float | None]:
    """Return the sessions and the manual reference of a text that `sessions_to_text` made.

    Every value is looked at. Raises InputError, its sentence beginning with `where`, for anything else: a text that was
    cut or edited, times below 0, of a newer ThoraxSeg.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{where}: expected contouring times, got a text of {len(text):,} characters.")
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
            raise _WrongError("it is no record of contouring times")
        if record["schema"] > SCHEMA:
            raise InputError(
                f"{where}: the contouring times were written by a newer ThoraxSeg and are not read. Update ThoraxSeg."
            )
        sessions = [_session(one) for one in _list(record, "sessions")]
        if len({one.uid for one in sessions}) < len(sessions):
            raise _WrongError("a session is in it twice")
        minutes = record.get("manual_reference_min")
        if minutes is not None and not 0 < _number(record, "manual_reference_min") < 1e6:
            raise _WrongError("its manual reference is not above 0")
        return sessions, None if minutes is None else float(minutes)
    except InputError:
        raise
    except (ValueError, RecursionError, ThoraxSegError) as error:
        reason = str(error) if isinstance(error, (_WrongError, ThoraxSegError)) else "it is no JSON"
        raise InputError(
            f"{where}: the contouring times are damaged ({reason}) and do not count. The text was kept as it is; use "
            "a backup to get the times back."
        ) from error


class _WrongError(ValueError):
    """A part of the text that cannot have been written by us."""


def _session(record: Any) -> Session:
    if not isinstance(record, dict):
        raise _WrongError("a session is no record")
    who = Who(*(_text(record, key) for key in ("animal", "scan", "operator")))
    events = tuple(_event(one) for one in _list(record, "events"))
    if len({event.number for event in events}) < len(events) or not events:
        raise _WrongError("the events of a session are not in order")
    uid = checked_name(_text(record, "uid"), "session")
    idle_after_s = checked_seconds(_number(record, "idle_after_s"), "idle_after_s")
    return Session(who, uid, _stamp(record, "opened_utc"), idle_after_s, events)


def _event(record: Any) -> Event:
    if not isinstance(record, dict):
        raise _WrongError("an event is no record")
    number, kind = record.get("number"), _text(record, "kind")
    if type(number) is not int or not 0 < number < 1 << 31:
        raise _WrongError("an event has no number")
    if kind not in KINDS:
        raise _WrongError(f"an event is of the unknown kind {kind!r:.80}")
    structure = _text(record, "structure") if "structure" in record else ""
    times = {
        key: checked_seconds(_number(record, key), key)
        for key in ("seconds", "idle_s", *RUN_PARTS)
        if key in record
    }
    return Event(
        number,
        kind,
        checked_name(structure, "structure") if structure else "",
        _stamp(record, "started_utc"),
        _stamp(record, "ended_utc"),
        **times,
    )


def _lean(event: Event) -> dict[str, Any]:
    """Return an event without what every event is by default."""
    empty = Event(0, "", "", "", "")
    return {key: value for key, value in asdict(event).items() if value != getattr(empty, key)}


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list):
        raise _WrongError(f"{key} is no list")
    return value


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise _WrongError(f"{key} is no text")
    return value


def _number(record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    if type(value) not in (int, float) or abs(value) > 1e15:
        raise _WrongError(f"{key} is no number")
    return float(value)


def _stamp(record: Mapping[str, Any], key: str) -> str:
    """Return a moment as text; only in the one way in which stamps are in order as text."""
    text = _text(record, key)
    try:
        datetime.strptime(text, _STAMP)
    except ValueError:
        text = ""
    if len(text) != len("2026-11-21T15:37:07.123Z"):
        raise _WrongError(f"{key} is no moment")
    return text
