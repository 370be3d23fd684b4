"""The live ledger: every second is work, waiting or idle, once, whatever the operator and the machine do."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thoraxseg.errors import OptionError, OutputError
from thoraxseg.study import (
    HEARTBEAT_S,
    IDLE_AFTER_S,
    Clock,
    Ledger,
    Who,
    create_study,
    log_event,
    open_study,
    times,
)

pytestmark = pytest.mark.usefixtures("unflushed")


class FakeClock(Clock):
    """Two clocks that stand still until a test moves them."""

    def __init__(self):
        now = {"seconds": 1000.0, "utc": datetime(2026, 3, 1, 12, tzinfo=timezone.utc)}
        super().__init__(lambda: now["seconds"], lambda: now["utc"])
        object.__setattr__(self, "now", now)

    def pass_(self, seconds, wall=None):
        self.now["seconds"] += seconds
        self.now["utc"] += timedelta(seconds=seconds if wall is None else wall)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def a_study(tmp_path):
    return create_study(tmp_path / "mice.sqlite")


@pytest.fixture
def a_ledger(a_study, clock):
    return Ledger(a_study, "M1", "d0", "Ann", idle_after_s=60, clock=clock)


def written(study):
    (row,) = times(study)
    return row


def test_a_whole_review_is_told_apart_by_what_was_done(a_ledger, a_study, clock):
    clock.pass_(7)
    a_ledger.begin("wait")
    clock.pass_(40)
    a_ledger.run(preprocessing_s=5, inference_s=27, total_s=40)
    a_ledger.begin("look")
    clock.pass_(30)
    a_ledger.begin("edit", structure="heart")
    clock.pass_(20)
    a_ledger.begin("edit", structure="spinal cord")
    clock.pass_(11)
    a_ledger.begin("edit", structure="heart")
    clock.pass_(4)
    a_ledger.accept()
    clock.pass_(2)
    a_ledger.close()
    row = written(a_study)
    expected = {
        "looking_s": 30,
        "editing_s": 35,
        "waiting_s": 40,
        "idle_s": 9,
        "total_active_s": 65,
        "total_s": 114,
        "preprocessing_s": 5,
        "inference_s": 27,
        "export_s": None,
        "other_s": 8,
        "runtime_s": 40,
        "spent_s": 105,
    }
    assert {key: row[key] for key in expected} == expected
    assert row["editing_by_structure_s"] == {"heart": 24, "spinal cord": 11}
    assert row["accepted"] and row["finished"] and row["notes"] == []
    assert row["opened_utc"] == "2026-03-01T12:00:00.000Z"
    so_far = a_ledger.so_far()
    assert so_far == {key: row[key] for key in so_far}


@pytest.mark.parametrize(
    ("gap", "work", "idle"),
    [(59.999, 59.999, 0), (60, 60, 0), (60.001, 60, 0.001), (3600, 60, 3540), (0, 0, 0)],
)
@pytest.mark.parametrize("ticks", [1, 7], ids=["one look at the clock", "many"])
def test_time_after_the_last_touch_is_work_up_to_the_limit_and_idle_beyond_it(
    a_ledger, a_study, clock, gap, work, idle, ticks
):
    a_ledger.begin("look")
    clock.pass_(10)
    a_ledger.touch()
    for _ in range(ticks):
        clock.pass_(gap / ticks)
        a_ledger.tick()
    a_ledger.pause()
    row = written(a_study)
    assert (row["looking_s"], row["idle_s"]) == pytest.approx((10 + work, idle), abs=1e-9)


def test_touches_closer_than_the_limit_keep_hours_of_work(a_ledger, a_study, clock):
    a_ledger.begin("edit", structure="heart")
    for _ in range(120):
        clock.pass_(60)
        a_ledger.touch()
    a_ledger.close()
    assert (written(a_study)["editing_s"], written(a_study)["idle_s"]) == (7200, 0)


def test_each_absence_counts_as_work_for_its_first_minute_only(a_ledger, a_study, clock):
    a_ledger.begin("look")
    for _ in range(3):
        clock.pass_(100)
        a_ledger.touch()
    a_ledger.close()
    assert (written(a_study)["looking_s"], written(a_study)["idle_s"]) == (180, 120)


def test_without_a_grace_only_touches_without_pause_are_work(a_study, clock):
    ledger = Ledger(a_study, "M1", "d0", "Ann", idle_after_s=0, clock=clock)
    ledger.begin("look")
    clock.pass_(5)
    ledger.close()
    assert (written(a_study)["looking_s"], written(a_study)["idle_s"]) == (0, 5)


def test_beginning_ends_what_was_going_on_so_that_nothing_overlaps(a_ledger, a_study, clock):
    a_ledger.begin("edit", structure="heart")
    clock.pass_(5)
    a_ledger.begin("edit", structure="right lung")
    assert a_ledger.activity == ("edit", "right lung")
    clock.pass_(3)
    a_ledger.pause()
    assert a_ledger.activity == ("idle", "")
    clock.pass_(100)
    a_ledger.pause()
    a_ledger.close()
    row = written(a_study)
    assert row["editing_by_structure_s"] == {"heart": 5, "right lung": 3}
    assert row["idle_s"] == 100


def test_beginning_again_what_is_going_on_is_a_touch_and_no_new_line(a_ledger, a_study, clock):
    for _ in range(100):
        a_ledger.begin("edit", structure="heart")
        clock.pass_(50)
    a_ledger.close()
    assert written(a_study)["editing_s"] == 5000
    with closing(sqlite3.connect(a_study.path)) as db:
        assert db.execute("SELECT count(*) FROM events WHERE kind = 'edit'").fetchone()[0] == 1


def test_another_spelling_of_the_structure_is_the_same_work(a_ledger, a_study, clock):
    for name in ("heart", "Heart", "lung", " HEART "):
        a_ledger.begin("edit", structure=name)
        clock.pass_(5)
    assert a_ledger.activity == ("edit", "heart")
    assert a_ledger.so_far()["editing_by_structure_s"] == {"heart": 15, "lung": 5}
    a_ledger.close()
    assert written(a_study)["editing_by_structure_s"] == {"heart": 15, "lung": 5}


def test_contouring_by_hand_after_a_rejection_leaves_it_rejected(a_ledger, a_study, clock):
    a_ledger.reject()
    a_ledger.begin("manual", structure="heart")
    clock.pass_(50)
    a_ledger.close()
    assert (written(a_study)["verdict"], written(a_study)["manual_s"]) == ("rejected", 50)


def test_waiting_is_no_work_and_needs_no_touch(a_ledger, a_study, clock):
    a_ledger.begin("wait")
    clock.pass_(600)
    a_ledger.begin("look")
    clock.pass_(60)
    a_ledger.close()
    row = written(a_study)
    assert (row["waiting_s"], row["looking_s"], row["idle_s"], row["total_active_s"]) == (600, 60, 0, 60)


def test_a_run_does_not_touch_the_clock_of_the_operator(a_ledger, a_study, clock):
    a_ledger.begin("look")
    clock.pass_(50)
    a_ledger.run(total_s=500)
    clock.pass_(50)
    a_ledger.close()
    row = written(a_study)
    assert (row["looking_s"], row["idle_s"], row["runtime_s"]) == (60, 40, 500)
    assert row["preprocessing_s"] is None and row["other_s"] is None


@pytest.mark.parametrize(
    ("awake", "wall", "work", "idle"),
    [
        (10, 3610, 10, 3600),  # the monotonic clock slept too
        (3610, 3610, 60, 3550),  # it did not
        (10, -3600, 10, 0),  # the wall clock was set back
        (10, 11.9, 10, 0),  # clocks drift
    ],
    ids=["slept, clock stood", "slept, clock ran", "set back", "drift"],
)
def test_sleep_is_idle_and_a_wall_clock_set_back_changes_no_duration(
    a_ledger, a_study, clock, awake, wall, work, idle
):
    a_ledger.begin("edit", structure="heart")
    clock.pass_(awake, wall)
    a_ledger.close()
    row = written(a_study)
    assert (row["editing_s"], row["idle_s"]) == pytest.approx((work, idle))


def test_after_sleep_time_is_idle_until_the_next_touch(a_ledger, a_study, clock):
    a_ledger.begin("look")
    clock.pass_(1, 3601)
    a_ledger.tick()
    clock.pass_(30)
    a_ledger.tick()
    clock.pass_(10)
    a_ledger.touch()
    clock.pass_(5)
    a_ledger.close()
    assert (written(a_study)["looking_s"], written(a_study)["idle_s"]) == (6, 3640)


def test_sleep_while_waiting_is_idle_too(a_ledger, a_study, clock):
    a_ledger.begin("wait")
    clock.pass_(20, 1020)
    a_ledger.close()
    assert (written(a_study)["waiting_s"], written(a_study)["idle_s"]) == (20, 1000)


def test_a_clock_that_runs_backward_takes_no_time_away(a_ledger, a_study, clock):
    a_ledger.begin("look")
    clock.pass_(10)
    a_ledger.touch()
    clock.pass_(-5)
    a_ledger.close()
    assert written(a_study)["looking_s"] == 10


ACTIONS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0, 300), st.floats(-100, 5000)),
    st.tuples(
        st.sampled_from(["touch", "tick", "pause", "accept", "needs_work", "reject", "look", "manual"])
    ),
    st.tuples(st.sampled_from(["wait", "heart", "lung", "run"])),
)


@settings(max_examples=60)
@given(st.lists(ACTIONS, max_size=25), st.sampled_from([0.0, 1.0, 60.0]))
def test_work_waiting_and_idle_time_add_up_to_the_time_that_passed(tmp_path_factory, actions, idle_after_s):
    study = create_study(tmp_path_factory.mktemp("study") / "s.sqlite")
    clock, elapsed = FakeClock(), 0.0
    ledger = Ledger(study, "M1", "d0", "Ann", idle_after_s=idle_after_s, heartbeat_s=1e9, clock=clock)
    for name, *values in actions:
        if name == "pass":
            seconds, ahead = values
            clock.pass_(seconds, seconds + ahead)
            ledger.tick()
            elapsed += seconds + (ahead if ahead > 2.001 else 0 if ahead < 1.999 else float("nan"))
        elif name in ("look", "manual", "wait"):
            ledger.begin(name)
        elif name in ("heart", "lung"):
            ledger.begin("edit", structure=name)
        elif name == "run":
            ledger.run(total_s=123)
        else:
            getattr(ledger, name)()
    so_far = ledger.so_far()
    ledger.close()
    if elapsed == elapsed:  # a jump of just the limit may go either way
        row = written(study)
        parts = row["total_active_s"] + row["waiting_s"] + row["idle_s"]
        assert parts == pytest.approx(elapsed) == pytest.approx(row["total_s"])
        assert so_far["total_s"] == pytest.approx(elapsed)
        assert sum(row["editing_by_structure_s"].values()) == pytest.approx(row["editing_s"])
        assert row["idle_s"] >= 0


def test_touches_are_written_at_most_once_a_heartbeat(a_ledger, a_study, clock, monkeypatch):
    a_ledger.begin("look")
    writes = []
    real = type(a_study).writing
    monkeypatch.setattr(
        type(a_study), "writing", lambda self, busy=None: writes.append(busy) or real(self, busy)
    )
    for _ in range(1000):
        clock.pass_(0.1)
        a_ledger.touch()
    assert 100 / HEARTBEAT_S - 2 <= len(writes) <= 100 / HEARTBEAT_S
    assert all(busy < 1 for busy in writes)  # a mouse must not stutter


def test_what_a_kill_would_leave_is_whole_up_to_the_last_heartbeat(a_ledger, a_study, clock):
    a_ledger.begin("edit", structure="heart")
    for _ in range(199):
        clock.pass_(0.1)
        a_ledger.touch()
        assert 0 <= a_ledger.so_far()["editing_s"] - written(a_study)["editing_s"] < HEARTBEAT_S + 0.2


def test_the_last_verdict_counts_and_an_edit_takes_it_away(a_ledger, a_study, clock):
    a_ledger.begin("look")
    clock.pass_(5)
    a_ledger.needs_work()
    assert (written(a_study)["verdict"], written(a_study)["finished"]) == ("needs work", False)
    a_ledger.reject()
    assert (written(a_study)["verdict"], written(a_study)["finished"]) == ("rejected", True)
    a_ledger.accept()
    assert written(a_study)["accepted"]
    a_ledger.begin("look")
    clock.pass_(5)
    a_ledger.pause()
    assert written(a_study)["accepted"]
    a_ledger.begin("edit", structure="heart")
    clock.pass_(5)
    a_ledger.pause()
    row = written(a_study)
    assert (row["verdict"], row["accepted"], row["finished"]) == ("none", False, False)
    assert "edited after the verdict" in row["notes"][0]
    a_ledger.accept()
    a_ledger.close()
    assert written(a_study)["accepted"] and written(a_study)["notes"] == []


def test_sessions_of_one_scan_add_up(a_study, clock):
    for _ in range(3):
        with Ledger(a_study, "M1", "d0", "Ann", clock=clock) as ledger:
            ledger.begin("look")
            clock.pass_(20)
        clock.pass_(86400)
    row = written(a_study)
    assert (row["sessions"], row["looking_s"], row["idle_s"]) == (3, 60, 0)
    assert row["idle_after_s"] == [IDLE_AFTER_S]


def test_what_is_entered_while_a_session_is_open_mixes_with_nothing(a_ledger, a_study, clock):
    a_ledger.begin("look")
    log_event(a_study, Who("M1", "d0", "Ann"), "edit", "heart", 7)
    clock.pass_(10)
    a_ledger.accept()
    a_ledger.close()
    row = written(a_study)
    assert (row["looking_s"], row["editing_s"], row["accepted"], row["sessions"]) == (10, 7, True, 2)


def test_two_open_sessions_of_one_operator_at_once_are_pointed_out(a_study, clock):
    one = Ledger(a_study, "M1", "d0", "Ann", clock=clock)
    two = Ledger(a_study, "M2", "d0", "Ann", clock=clock)
    other = Ledger(a_study, "M3", "d0", "Bob", clock=clock)
    for ledger in (one, two, other):
        ledger.begin("look")
        clock.pass_(10)
    for ledger in (one, two, other):
        ledger.close()
    said = {row["animal"]: any("overlaps" in note for note in row["notes"]) for row in times(a_study)}
    assert said == {"M1": True, "M2": True, "M3": False}


def test_sessions_one_after_the_other_do_not_overlap(a_study, clock):
    for animal in ("M1", "M2"):
        with Ledger(a_study, animal, "d0", "Ann", clock=clock) as ledger:
            ledger.begin("look")
            clock.pass_(10)
    assert [row["notes"] for row in times(a_study)] == [[], []]


def test_a_wall_clock_set_back_in_a_session_is_no_overlap(a_ledger, a_study, clock):
    a_ledger.begin("look")
    clock.pass_(10)
    a_ledger.begin("edit", structure="heart")
    clock.pass_(10, -5)
    a_ledger.begin("look")
    clock.pass_(10)
    a_ledger.close()
    assert (written(a_study)["total_active_s"], written(a_study)["notes"]) == (30, [])


def test_a_file_that_cannot_be_written_stops_no_mouse_and_loses_nothing(a_study, clock):
    study = open_study(a_study.path, busy_s=0.05)
    ledger = Ledger(study, "M1", "d0", "Ann", clock=clock)
    with closing(sqlite3.connect(study.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutputError):
            ledger.begin("edit", structure="heart")
        clock.pass_(30)
        ledger.touch()
        assert "busy" in ledger.problem
        with pytest.raises(OutputError):
            ledger.accept()
        with pytest.raises(OutputError):
            ledger.close()
        other.execute("ROLLBACK")
    ledger.close()
    assert ledger.problem is None
    row = written(study)
    assert (row["editing_s"], row["accepted"], row["notes"]) == (30, True, [])


def test_a_heartbeat_heals_the_problem(a_study, clock):
    ledger = Ledger(a_study, "M1", "d0", "Ann", clock=clock)
    ledger.begin("look")
    hidden = a_study.path.rename(a_study.path.with_suffix(".away"))
    clock.pass_(10)
    ledger.touch()
    assert "still there" in ledger.problem
    hidden.rename(a_study.path)
    clock.pass_(10)
    ledger.touch()
    assert ledger.problem is None
    assert written(a_study)["looking_s"] == 20


def test_after_close_late_touches_say_nothing_and_the_rest_is_refused(a_ledger, a_study, clock):
    a_ledger.begin("look")
    a_ledger.close()
    clock.pass_(50)
    a_ledger.touch()
    a_ledger.tick()
    a_ledger.close()
    assert written(a_study)["total_s"] == 0
    for use in (
        lambda: a_ledger.begin("look"),
        a_ledger.pause,
        a_ledger.accept,
        lambda: a_ledger.run(total_s=1),
    ):
        with pytest.raises(OptionError, match="session is closed"):
            use()


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda ledger: ledger.begin("idle"), "look, edit, manual, wait"),
        (lambda ledger: ledger.begin("paint"), "look, edit, manual, wait"),
        (lambda ledger: ledger.begin("edit"), "structure"),
        (lambda ledger: ledger.begin("look", structure="heart"), "edit or manual only"),
        (lambda ledger: ledger.begin("edit", structure=" "), "name of the structure"),
        (lambda ledger: ledger.run(), "the total, or its parts"),
        (lambda ledger: ledger.run(inference_s=-1), "0 or more"),
        (lambda ledger: ledger.run(total_s=float("nan")), "0 or more"),
        (lambda ledger: ledger.run(inference_s=30, total_s=20), "at least the sum of the parts"),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_written(a_ledger, a_study, use, said):
    before = a_study.path.read_bytes()
    with pytest.raises(OptionError, match=said):
        use(a_ledger)
    assert a_ledger.activity == ("idle", "")
    assert a_study.path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0b", "\udcff", "x" * 201])
def test_names_that_are_no_line_of_text_are_refused(a_study, name):
    with pytest.raises(OptionError, match="name of the animal"):
        Ledger(a_study, name, "d0", "Ann")
    assert times(a_study) == []


@pytest.mark.parametrize("wrong", [{"idle_after_s": -1}, {"idle_after_s": float("nan")}, {"heartbeat_s": -1}])
def test_limits_below_zero_are_refused(a_study, wrong):
    with pytest.raises(OptionError, match="0 or more"):
        Ledger(a_study, "M1", "d0", "Ann", **wrong)


def test_the_real_clock_is_the_default(a_study):
    with Ledger(a_study, "M1", "d0", "Ann") as ledger:
        ledger.begin("look")
    row = written(a_study)
    assert 0 <= row["looking_s"] < 60
    assert row["opened_utc"].endswith("Z")


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
def test_stamps_are_the_same_in_every_time_zone(a_study, clock, monkeypatch, zone):
    import time

    monkeypatch.setenv("TZ", zone)
    if hasattr(time, "tzset"):
        time.tzset()
    Ledger(a_study, "M1", "d0", "Ann", clock=clock).close()
    assert written(a_study)["opened_utc"] == "2026-03-01T12:00:00.000Z"
