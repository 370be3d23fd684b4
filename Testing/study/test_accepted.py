"""Accepted contours: which verdicts count for training, and that files are those that were judged."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest

from thoraxseg.errors import InputError, OptionError
from thoraxseg.study import (
    Clock,
    Ledger,
    Who,
    acceptance,
    accepted_cases,
    create_study,
    known_scans,
    log_event,
    name_contours,
    name_result,
    open_study,
    schema,
    undo_last,
)

pytestmark = pytest.mark.usefixtures("unflushed")

ANN, BEN = Who("M1", "d0", "Ann"), Who("M1", "d0", "Ben")
STRUCTURES = {1: "heart", 4: "left_lung"}


@pytest.fixture
def a_study(tmp_path):
    return create_study(tmp_path / "mice.sqlite")


@pytest.fixture
def a_pair(tmp_path):
    """An image and a mask; the study looks at their bytes alone."""
    (tmp_path / "image.nrrd").write_bytes(b"image")
    (tmp_path / "mask.seg.nrrd").write_bytes(b"mask")
    return tmp_path / "image.nrrd", tmp_path / "mask.seg.nrrd"


def accept(study, pair, who=ANN):
    log_event(study, who, "accept")
    name_contours(study, who, *pair, STRUCTURES, "0" * 64)


def only_reason(study, **options):
    found = acceptance(study, **options)
    assert found.cases == ()
    (one,) = found.left_out
    assert one.case == "M1_d0"
    return one.reason


def test_an_accepted_scan_says_who_what_where_and_when(a_study, a_pair):
    log_event(a_study, ANN, "edit", "heart", 20)
    accept(a_study, a_pair)
    (case,) = accepted_cases(open_study(a_study.path))
    assert (case.case, case.animal, case.scan, case.operator) == ("M1_d0", "M1", "d0", "Ann")
    assert (case.image, case.mask) == a_pair
    assert case.structures == STRUCTURES
    assert case.corrected
    assert case.image_sha256 == "0" * 64
    assert (case.code, case.animal_code) == ("S001", "A001")
    then = datetime.strptime(case.verdict_time, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    assert abs((datetime.now(timezone.utc) - then).total_seconds()) < 60


def test_what_nobody_accepted_is_counted_and_nothing_else(a_study, a_pair):
    accept(a_study, a_pair)
    for animal, kind in (("M2", "reject"), ("M3", "needs work"), ("M4", "open")):
        log_event(a_study, Who(animal, "d0", "Ann"), kind)
    found = acceptance(a_study)
    assert [case.animal for case in found.cases] == ["M1"]
    assert (found.left_out, found.others) == ((), 3)
    assert not found.cases[0].corrected


@pytest.mark.parametrize(
    "then",
    [
        lambda study: log_event(study, ANN, "edit", "heart", 5),
        lambda study: log_event(study, ANN, "take back"),
        lambda study: log_event(study, ANN, "reject"),
        lambda study: undo_last(study, ANN),
    ],
    ids=["edited", "taken back", "rejected", "entered by mistake"],
)
def test_a_verdict_that_does_not_stand_any_more_gives_no_training_data(a_study, a_pair, then):
    accept(a_study, a_pair)
    then(a_study)
    assert acceptance(a_study).cases == ()


def test_files_named_before_an_edit_are_not_what_is_accepted_after_it(a_study, a_pair):
    accept(a_study, a_pair)
    log_event(a_study, ANN, "edit", "heart", 5)
    log_event(a_study, ANN, "accept")
    assert "no files were named with this verdict" in only_reason(a_study)
    name_contours(a_study, ANN, *a_pair, STRUCTURES)
    assert len(accepted_cases(a_study)) == 1


def test_to_accept_twice_without_an_edit_between_changes_nothing(a_study, a_pair):
    accept(a_study, a_pair)
    (before,) = accepted_cases(a_study)
    log_event(a_study, ANN, "look", seconds=3)
    log_event(a_study, ANN, "accept")
    assert accepted_cases(a_study) == [before]


def test_files_that_were_named_with_a_verdict_that_was_taken_back_do_not_count(a_study, a_pair):
    log_event(a_study, ANN, "accept")
    accept(a_study, a_pair)
    undo_last(a_study, ANN)
    assert "no files were named" in only_reason(a_study)


def test_a_mask_that_was_changed_since_is_left_out_and_said(a_study, a_pair):
    accept(a_study, a_pair)
    a_pair[1].write_bytes(b"another mask")
    assert "was changed after it was accepted" in only_reason(a_study)


@pytest.mark.parametrize("n", [0, 1], ids=["image", "mask"])
def test_a_file_that_went_away_is_said(a_study, a_pair, n):
    accept(a_study, a_pair)
    a_pair[n].unlink()
    assert "is not there any more" in only_reason(a_study)


def test_an_objection_after_the_acceptance_counts_and_one_before_it_does_not(a_study, a_pair):
    log_event(a_study, BEN, "needs work")
    accept(a_study, a_pair)
    assert len(accepted_cases(a_study)) == 1
    log_event(a_study, Who("M1", "d0", "Eva"), "reject")
    assert only_reason(a_study) == "Eva said 'rejected' after Ann had accepted."
    assert len(accepted_cases(a_study, "Ann")) == 1


def test_of_two_people_who_accept_different_contours_somebody_has_to_choose(a_study, a_pair, tmp_path):
    other = tmp_path / "ben.seg.nrrd"
    shutil.copy(a_pair[1], other)
    accept(a_study, a_pair)
    accept(a_study, (a_pair[0], other), BEN)
    assert accepted_cases(a_study)[0].operator == "Ben"  # the same contours
    other.write_bytes(b"those of Ben")
    accept(a_study, (a_pair[0], other), BEN)
    assert only_reason(a_study) == "Ann and Ben accepted different contours. Say whose count with --operator."
    assert accepted_cases(a_study, "Ann")[0].mask == a_pair[1]
    with pytest.raises(OptionError, match=r"Ann, Ben.*got 'Eve'"):
        acceptance(a_study, "Eve")


def test_only_who_accepted_can_name_files(a_study, a_pair):
    log_event(a_study, BEN, "accept")
    for kind, said in ((None, "did not accept it"), ("accept", None), ("edit", "edited it since")):
        if kind is not None:
            log_event(a_study, ANN, kind, *(("heart", 3) if kind == "edit" else ()))
        if said is None:
            name_contours(a_study, ANN, *a_pair, STRUCTURES)
        else:
            with pytest.raises(OptionError, match=said):
                name_contours(a_study, ANN, *a_pair, STRUCTURES)


@pytest.mark.parametrize("structures", [{}, {1: ""}, {0: "heart"}, {1: "heart", 2: "heart"}])
def test_structures_that_say_nothing_are_refused(a_study, a_pair, structures):
    log_event(a_study, ANN, "accept")
    with pytest.raises(OptionError, match="structures that were reviewed"):
        name_contours(a_study, ANN, *a_pair, structures)
    assert acceptance(a_study).cases == ()


def test_a_study_can_be_moved_together_with_its_files(a_study, a_pair, tmp_path):
    accept(a_study, a_pair)
    (tmp_path / "moved").mkdir()
    for path in (a_study.path, *a_pair):
        path.rename(tmp_path / "moved" / path.name)
    (case,) = accepted_cases(open_study(tmp_path / "moved" / "mice.sqlite"))
    assert case.mask == tmp_path / "moved" / "mask.seg.nrrd"


def test_a_live_session_counts_like_entries(a_study, a_pair):
    now = iter(range(0, 1000, 10))
    clock = Clock(lambda: float(next(now)), lambda: datetime(2026, 3, 1, tzinfo=timezone.utc))
    with Ledger(a_study, "M1", "d0", "Ann", clock=clock) as ledger:
        ledger.begin("edit", "heart")
        ledger.accept()
        name_contours(a_study, ANN, *a_pair, STRUCTURES)
        assert accepted_cases(a_study)[0].corrected
        ledger.begin("edit", "heart")
        ledger.touch()
        ledger.flush()
        assert accepted_cases(a_study) == []


def test_scans_whose_names_would_be_one_file_stay_apart(a_study, a_pair):
    for who in (
        Who("M1", "a b", "Ann"),
        Who("m1", "A_b", "Ann"),
        Who("M1_a", "b", "Ann"),
        Who("M7", "M7_d3", "Ann"),
    ):
        accept(a_study, a_pair, who)
    names = [case.case for case in accepted_cases(a_study)]
    assert len({name.lower() for name in names}) == 4
    assert names[3] == "M7_d3"
    assert not any(letter in name for name in names for letter in " /\\")


def test_a_study_of_an_older_version_has_no_files_and_takes_them(tmp_path, a_pair, monkeypatch):
    with monkeypatch.context() as patch:
        for place in ("thoraxseg.study.schema.MIGRATIONS", "thoraxseg.study.store.MIGRATIONS"):
            patch.setattr(place, schema.MIGRATIONS[:2])
        old = create_study(tmp_path / "old.sqlite")
        log_event(old, ANN, "accept")
    before = old.path.read_bytes()
    assert "no files were named" in only_reason(open_study(old.path))
    assert old.path.read_bytes() == before
    name_contours(old, ANN, *a_pair, STRUCTURES)
    assert len(accepted_cases(open_study(old.path))) == 1


def test_damaged_structures_are_told_as_damage(a_study, a_pair):
    accept(a_study, a_pair)
    with closing(sqlite3.connect(a_study.path)) as db:
        db.execute("UPDATE contours SET structures = '[1'")
        db.commit()
    with pytest.raises(InputError, match="damaged"):
        acceptance(a_study)


def test_the_study_knows_the_records_of_its_runs(a_study, tmp_path):
    log_event(a_study, ANN, "run", seconds=3)
    for _ in range(2):
        name_result(a_study, ANN, tmp_path / "results" / "M1.json")
    (scan,) = known_scans(a_study)
    assert (scan.case, scan.animal, scan.verdict) == ("M1_d0", "M1", "")
    assert scan.records == (tmp_path / "results" / "M1.json",)
    assert Path(scan.records[0]).is_absolute()
    with pytest.raises(OptionError, match="no such scan"):
        name_result(a_study, Who("M9", "d0", "Ann"), tmp_path / "M9.json")
