"""Sessions as text: whole, checked, and taken in by any study without counting twice."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from thoraxseg.errors import InputError
from thoraxseg.study import (
    Clock,
    Ledger,
    create_study,
    log_event,
    put_sessions,
    sessions_from_text,
    sessions_of,
    sessions_to_text,
    times,
)

pytestmark = pytest.mark.usefixtures("unflushed")


@pytest.fixture
def clock():
    """A clock that goes on by 10 s at each look."""
    now = {"n": 0}

    def seconds():
        now["n"] += 1
        return now["n"] * 10.0

    return Clock(
        seconds, lambda: datetime(2026, 3, 1, tzinfo=timezone.utc) + timedelta(seconds=now["n"] * 10)
    )


@pytest.fixture
def a_study(tmp_path, clock):
    study = create_study(tmp_path / "mice.sqlite")
    for operator in ("Ann", "Ben"):
        with Ledger(study, "M1", "d0", operator, clock=clock) as ledger:
            ledger.run(inference_s=27.25, total_s=40.5)
            ledger.begin("look")
            ledger.begin("edit", "heart")
            ledger.accept()
    return study


def test_text_brings_every_event_into_another_study(a_study, tmp_path):
    text = sessions_to_text(sessions_of(a_study), 40.0)
    assert text.isascii()
    assert "\n" not in text
    sessions, minutes = sessions_from_text(text, "here")
    assert minutes == 40.0
    assert sessions == sessions_of(a_study)
    other = create_study(tmp_path / "other.sqlite")
    put_sessions(other, sessions)
    assert times(other, 40) == times(a_study, 40)


def test_taking_in_again_counts_nothing_twice(a_study):
    before = times(a_study)
    put_sessions(a_study, sessions_of(a_study))
    assert times(a_study) == before


def test_what_grew_is_brought_up_to_date_and_what_is_older_changes_nothing(a_study, tmp_path):
    sessions = sessions_of(a_study)
    shorter = replace(sessions[0].events[2], seconds=1.0)
    older = [replace(sessions[0], events=(*sessions[0].events[:2], shorter)), sessions[1]]
    other = create_study(tmp_path / "other.sqlite")
    put_sessions(other, older)
    put_sessions(other, sessions)
    assert sessions_of(other) == sessions
    put_sessions(other, older)
    assert sessions_of(other) == sessions


def test_sessions_come_in_the_order_in_which_they_were_opened(tmp_path, clock):
    study, other = (create_study(tmp_path / f"{name}.sqlite") for name in ("mice", "other"))
    for verdict in ("reject", "accept"):
        with Ledger(study, "M1", "d0", "Ann", clock=clock) as ledger:
            getattr(ledger, verdict)()
    put_sessions(other, reversed(sessions_of(study)))
    assert times(other)[0]["verdict"] == "accepted"


def test_entered_times_are_no_sessions(a_study):
    from thoraxseg.study import Who

    log_event(a_study, Who("M2", "d0", "Ann"), "manual", seconds=100)
    assert {one.who.animal for one in sessions_of(a_study)} == {"M1"}


def test_one_session_under_two_names_is_refused(a_study):
    (one, _other) = sessions_of(a_study)
    with pytest.raises(InputError, match="One of the two was changed by hand"):
        put_sessions(a_study, [replace(one, who=replace(one.who, operator="Chris"))])


def test_a_number_cut_off_is_refused_with_where_it_was(a_study):
    text = sessions_to_text(sessions_of(a_study))
    for wrong in (text[: len(text) // 2], "", "null", text.replace('"look"', '"sleep"')):
        with pytest.raises(InputError, match=r"^the scene: the contouring times are damaged"):
            sessions_from_text(wrong, "the scene")


def test_unknown_members_are_left_alone(a_study):
    record = json.loads(sessions_to_text(sessions_of(a_study)))
    record["color"] = record["sessions"][0]["color"] = record["sessions"][0]["events"][0]["color"] = "red"
    assert sessions_from_text(json.dumps(record), "here")[0] == sessions_of(a_study)


def test_a_verdict_is_taken_back(a_study, clock):
    with Ledger(a_study, "M1", "d0", "Ann", clock=clock) as ledger:
        ledger.take_back()
    assert {row["operator"]: row["verdict"] for row in times(a_study)} == {"Ann": "none", "Ben": "accepted"}


def test_a_flush_writes_at_once(tmp_path, clock):
    study = create_study(tmp_path / "mice.sqlite")
    ledger = Ledger(study, "M1", "d0", "Ann", clock=clock, heartbeat_s=1e6)
    ledger.begin("look")
    ledger.flush()
    assert times(study)[0]["looking_s"] == 10
    ledger.close()
    ledger.flush()
    assert times(study)[0]["looking_s"] == 20
