"""The study file: ours or refused, whole or not there, and shared by several programs."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from thoraxseg.errors import InputError, OptionError, OutputError
from thoraxseg.files import sha256_file
from thoraxseg.study import Who, create_study, log_event, open_study, schema, times, undo_last

ROOT = Path(__file__).parents[2]
WHO = Who("M1", "d0", "Ann")


@pytest.fixture
def a_study(tmp_path):
    return create_study(tmp_path / "mice.sqlite")


def count(path, table="events"):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_a_new_study_is_one_whole_file_that_says_whose_it_is(a_study):
    assert [path.name for path in a_study.path.parent.iterdir()] == ["mice.sqlite"]
    raw = a_study.path.read_bytes()
    assert raw[68:72] == b"TXSG"
    assert int.from_bytes(raw[60:64], "big") == len(schema.MIGRATIONS)
    assert raw[18:20] == b"\x01\x01"  # a rollback journal, no write-ahead log
    assert open_study(a_study.path) == a_study
    assert times(a_study) == []


def test_making_a_study_never_replaces_what_is_there(a_study):
    before = sha256_file(a_study.path)
    with pytest.raises(OutputError, match="exists and was not changed"):
        create_study(a_study.path)
    assert sha256_file(a_study.path) == before


def test_where_a_disk_has_no_links_a_study_is_made_and_not_replaced_all_the_same(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    study = create_study(tmp_path / "a.sqlite")
    assert open_study(study.path).uid == study.uid
    with pytest.raises(OutputError, match="exists"):
        create_study(study.path)


def test_of_many_who_make_a_study_at_once_one_does(tmp_path):
    path, made, refused = tmp_path / "mice.sqlite", [], []

    def make():
        try:
            made.append(create_study(path))
        except OutputError as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 7)
    assert open_study(path).uid == made[0].uid


@pytest.mark.parametrize("name", ["100%.sqlite", "a b?#.sqlite", "Mäuse.sqlite", "file:x?mode=memory"])
def test_any_name_of_a_file_is_that_file(tmp_path, name):
    study = create_study(tmp_path / name)
    log_event(study, WHO, "open")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(times(open_study(tmp_path / name))) == 1


def foreign(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE bookmarks (id)")
        db.commit()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "it is not there"),
        (lambda path: path.mkdir(), "got a folder"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_text("animal,operator\nM1,Ann\n" * 50), "a file of another kind"),
        (foreign, "a database of another program"),
    ],
    ids=["missing", "folder", "empty", "table", "foreign"],
)
def test_what_is_no_study_is_refused_in_a_sentence_and_left_alone(tmp_path, make, said):
    path = tmp_path / "mice.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(InputError, match=said) as caught:
        open_study(path)
    assert "thoraxseg study new" in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_study_of_a_newer_version_is_refused_and_left_alone(a_study):
    with closing(sqlite3.connect(a_study.path)) as db:
        db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    before = sha256_file(a_study.path)
    for use in (lambda: open_study(a_study.path), lambda: log_event(a_study, WHO, "open")):
        with pytest.raises(InputError, match=r"newer ThoraxSeg.*Update ThoraxSeg"):
            use()
    assert sha256_file(a_study.path) == before


def filled(study, events=400):
    with study.writing() as db:
        db.execute("INSERT INTO animals (name) VALUES ('M1')")
        db.execute("INSERT INTO cases (animal_id, scan) VALUES (1, 'd0')")
        db.execute("INSERT INTO operators (name) VALUES ('Ann')")
        db.execute(
            "INSERT INTO sessions (uid, case_id, operator_id, source, opened_utc) VALUES ('u', 1, 1, 'entered', 'x')"
        )
        db.executemany(
            "INSERT INTO events (session_id, number, kind, started_utc, ended_utc, seconds) "
            "VALUES (1, ?, 'look', 'x', 'x', 1)",
            [(number,) for number in range(events)],
        )
    return study


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:4096] + b"\xff" * 8192 + raw[12288:],
        lambda raw: raw[:-4096] + bytes(4096),
    ],
    ids=["cut", "overwritten", "zeros"],
)
def test_a_damaged_study_is_refused_with_what_to_do_and_left_alone(a_study, spoil):
    filled(a_study)
    a_study.path.write_bytes(spoil(a_study.path.read_bytes()))
    before = sha256_file(a_study.path)
    with pytest.raises(InputError, match=r"damaged.*backup.*recover"):
        open_study(a_study.path)
    assert sha256_file(a_study.path) == before


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP TABLE events", "damaged"),
        ("ALTER TABLE events RENAME COLUMN idle_s TO idle", "damaged"),
        ("DELETE FROM study", "damaged"),
        ("PRAGMA foreign_keys = OFF; DELETE FROM operators", "damaged"),
        ("PRAGMA ignore_check_constraints = ON; UPDATE events SET seconds = -5", "damaged"),
        ("CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM animals; END", "trigger or view 't'"),
        ("CREATE VIEW v AS SELECT * FROM events", "trigger or view 'v'"),
    ],
)
def test_a_study_that_was_tampered_with_is_refused(a_study, statement, said):
    filled(a_study, 3)
    with closing(sqlite3.connect(a_study.path, isolation_level=None)) as db:
        db.executescript(statement)
    with pytest.raises(InputError, match=said):
        open_study(a_study.path)


def test_a_table_that_somebody_added_is_no_harm(a_study):
    with closing(sqlite3.connect(a_study.path)) as db:
        db.execute("CREATE TABLE my_notes (text)")
    log_event(open_study(a_study.path), WHO, "open")
    assert count(a_study.path, "my_notes") == 0


NEW_STEP = (
    "CREATE TABLE later (case_id INTEGER NOT NULL REFERENCES cases (id), note TEXT)",
    "ALTER TABLE animals ADD COLUMN species TEXT",
)


def test_an_older_study_is_read_as_it_is_and_brought_up_to_date_by_the_first_change(a_study, monkeypatch):
    log_event(a_study, WHO, "look", seconds=12.5)
    old, before = times(a_study), sha256_file(a_study.path)
    monkeypatch.setattr("thoraxseg.study.store.MIGRATIONS", (*schema.MIGRATIONS, NEW_STEP))
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, NEW_STEP))
    study = open_study(a_study.path)
    assert times(study) == old
    with study.reading() as db:
        assert db.execute("SELECT name, species FROM animals").fetchall() == [("M1", None)]
    assert sha256_file(a_study.path) == before
    log_event(study, WHO, "look", seconds=2.5)
    assert count(a_study.path, "later") == 0
    assert times(open_study(a_study.path))[0]["looking_s"] == 15.0
    assert count(a_study.path) == 2


def test_a_study_of_the_first_layout_opens_and_its_entries_can_be_taken_back(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thoraxseg.study.store.MIGRATIONS", schema.MIGRATIONS[:1])
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        path = create_study(tmp_path / "mice.sqlite").path
        log_event(open_study(path), WHO, "look", seconds=12.5)
        log_event(open_study(path), WHO, "accept")
    before = sha256_file(path)
    study = open_study(path)
    assert times(study)[0]["accepted"] and times(study)[0]["looking_s"] == 12.5
    assert sha256_file(path) == before
    assert undo_last(study, WHO).kind == "accept"
    assert not times(open_study(path))[0]["accepted"]
    assert count(path) == 2


def test_a_step_that_fails_leaves_the_older_study_as_it_was(a_study, monkeypatch):
    log_event(a_study, WHO, "open")
    before = sha256_file(a_study.path)
    broken = (*schema.MIGRATIONS, (NEW_STEP[0], "CREATE TABLE later (again)"))
    monkeypatch.setattr("thoraxseg.study.store.MIGRATIONS", broken)
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    with pytest.raises(OutputError):
        log_event(a_study, WHO, "accept")
    assert sha256_file(a_study.path) == before


def test_the_published_steps_are_never_edited():
    """Files in the field were made with them: a change belongs into a further step."""
    import hashlib

    texts = [" ".join(" ".join(step).split()) for step in schema.MIGRATIONS]
    found = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
    assert found == ["5cd54b25e46c3740", "15998a88ef52c898", "e16950d385fca39b"]


def test_a_study_kept_busy_by_another_program_is_said_after_the_wait_and_nothing_is_half_written(a_study):
    study = open_study(a_study.path, busy_s=0.2)
    with closing(sqlite3.connect(study.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        with pytest.raises(OutputError, match=r"busy for 0.2 s. Nothing was written. Try again"):
            log_event(study, WHO, "open")
        assert 0.15 < time.monotonic() - start < 2
        with pytest.raises(InputError, match="Nothing was read"):
            times(study)
        other.execute("ROLLBACK")
    log_event(study, WHO, "open")
    assert count(study.path) == 1


def test_a_change_has_the_file_for_itself_from_its_first_look_on(a_study):
    """Else two programs could look, find nobody called Ann, and wait for each other or make her twice."""
    with a_study.writing(), closing(sqlite3.connect(a_study.path, timeout=0, isolation_level=None)) as other:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        assert other.execute("SELECT count(*) FROM operators").fetchone() == (0,)


def test_an_error_in_a_change_takes_all_of_it_back(a_study):
    def change():
        with a_study.writing() as db:
            db.execute("INSERT INTO animals (name) VALUES ('M1')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()
    assert count(a_study.path, "animals") == 0


def test_a_study_that_was_moved_away_is_not_made_anew(a_study):
    a_study.path.rename(a_study.path.with_name("moved.sqlite"))
    with pytest.raises(OutputError, match="still there"):
        log_event(a_study, WHO, "open")
    assert not a_study.path.exists()


def test_another_study_under_the_same_name_gets_nothing(a_study):
    a_study.path.unlink()
    create_study(a_study.path)
    with pytest.raises(InputError, match="another study"):
        log_event(a_study, WHO, "open")
    assert count(a_study.path) == 0


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_read_only_study_in_a_read_only_folder_can_be_read(a_study):
    log_event(a_study, WHO, "look", seconds=3)
    a_study.path.chmod(0o444)
    a_study.path.parent.chmod(0o555)
    try:
        assert times(open_study(a_study.path))[0]["looking_s"] == 3
        if os.geteuid() != 0:  # root may write anything
            with pytest.raises(OutputError):
                log_event(a_study, WHO, "open")
    finally:
        a_study.path.parent.chmod(0o755)


def test_reading_changes_no_byte_and_leaves_no_file_beside(a_study):
    filled(a_study)
    before = sha256_file(a_study.path)
    times(open_study(a_study.path))
    assert sha256_file(a_study.path) == before
    assert [path.name for path in a_study.path.parent.iterdir()] == ["mice.sqlite"]


def test_a_change_that_a_kill_left_half_done_is_taken_back(a_study, tmp_path):
    filled(a_study)
    killed = tmp_path / "killed"
    killed.mkdir()
    with closing(sqlite3.connect(a_study.path, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE events SET seconds = 999, kind = 'manual manual manual manual manual'")
        for path in tmp_path.glob("mice.sqlite*"):  # as a power cut would leave the disk
            shutil.copy(path, killed / path.name)
        db.execute("ROLLBACK")
    assert (killed / "mice.sqlite-journal").exists()
    with closing(sqlite3.connect(f"file:{killed}/mice.sqlite?mode=ro&immutable=1", uri=True)) as db:
        spoiled = db.execute("PRAGMA quick_check").fetchall() != [("ok",)]
        assert spoiled or db.execute("SELECT max(seconds) FROM events").fetchone()[0] == 999
    assert times(open_study(killed / "mice.sqlite"))[0]["looking_s"] == 400


WRITER = """
import sys
from thoraxseg.study import Ledger, open_study
study = open_study(sys.argv[1], busy_s=60)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    with Ledger(study, f"M{number}", "d0", sys.argv[2]) as ledger:
        ledger.run(total_s=1)
        ledger.begin("edit", structure="heart")
        ledger.accept()
"""


def test_two_operators_write_into_one_file_at_once_and_nothing_is_lost(a_study):
    command = [sys.executable, "-c", WRITER, str(a_study.path)]
    processes = [
        subprocess.Popen([*command, who, "15"], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for who in ("Ann", "Bob")
    ]
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    rows = times(open_study(a_study.path))
    assert len(rows) == 30
    assert all(row["accepted"] and row["runs"] == 2 and row["sessions"] == 1 for row in rows)
    assert count(a_study.path, "animals") == count(a_study.path, "cases") == 15
    assert count(a_study.path, "operators") == 2
    assert count(a_study.path, "events WHERE kind != 'idle'") == 30 * 5


EDITOR = """
import sys, time
from thoraxseg.study import Ledger, open_study
ledger = Ledger(open_study(sys.argv[1]), "M1", "d0", "Ann", heartbeat_s=0.2)
ledger.begin("look")
ledger.begin("edit", structure="heart")
start = time.monotonic()
while True:
    ledger.touch()
    print(f"{time.monotonic() - start:.6f}", flush=True)
    time.sleep(0.01)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_kill_loses_the_last_heartbeat_at_most_and_leaves_a_whole_file(a_study):
    command = [sys.executable, "-c", EDITOR, str(a_study.path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        while float(process.stdout.readline()) < 1.5:
            pass
    finally:
        process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].decode().splitlines()
    worked = float(rest[-1]) if rest else 1.5
    (row,) = times(open_study(a_study.path))
    assert worked - 0.6 < row["editing_s"] <= worked + 0.1
    assert row["editing_by_structure_s"].keys() == {"heart"}
    assert not row["finished"]
    assert "not closed" in row["notes"][0]
    log_event(a_study, WHO, "accept")
    assert times(a_study)[0]["accepted"]


def test_the_manual_reference_is_unset_until_somebody_says_it(a_study):
    assert a_study.manual_reference_min() is None
    a_study.set_manual_reference(40)
    assert open_study(a_study.path).manual_reference_min() == 40
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="above 0"):
            a_study.set_manual_reference(wrong)
    a_study.set_manual_reference(None)
    assert a_study.manual_reference_min() is None
