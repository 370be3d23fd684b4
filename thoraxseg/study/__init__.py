"""The store of a study: who contoured what, and the time it took, in one SQLite file."""

from thoraxseg.study.events import KINDS, Event, Who, log_event, run_from_timings, undo_last
from thoraxseg.study.export import coded, flat_rows, record, write_times
from thoraxseg.study.ledger import HEARTBEAT_S, IDLE_AFTER_S, Clock, Ledger
from thoraxseg.study.portable import Session, put_sessions, sessions_from_text, sessions_of, sessions_to_text
from thoraxseg.study.store import Store, checked_minutes, create_study, open_study
from thoraxseg.study.times import (
    DEFINITIONS,
    MEASURED,
    PAPER_MANUAL_MIN,
    PAPER_RUNTIME_S,
    Review,
    all_totals,
    reviews,
    saved_percent,
    times,
    totals,
)

__all__ = [
    "DEFINITIONS",
    "HEARTBEAT_S",
    "IDLE_AFTER_S",
    "KINDS",
    "MEASURED",
    "PAPER_MANUAL_MIN",
    "PAPER_RUNTIME_S",
    "Clock",
    "Event",
    "Ledger",
    "Review",
    "Session",
    "Store",
    "Who",
    "all_totals",
    "checked_minutes",
    "coded",
    "create_study",
    "flat_rows",
    "log_event",
    "open_study",
    "put_sessions",
    "record",
    "reviews",
    "run_from_timings",
    "saved_percent",
    "sessions_from_text",
    "sessions_of",
    "sessions_to_text",
    "times",
    "totals",
    "undo_last",
    "write_times",
]
