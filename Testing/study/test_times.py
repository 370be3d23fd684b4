"""Times and what they save: the paper's 98 % to the digit, and the figure that counts looking and editing."""

from __future__ import annotations

import csv
import json
import math
import re

import pytest

from thoraxseg import RESEARCH_USE
from thoraxseg import study as studies
from thoraxseg.errors import OptionError, OutputError
from thoraxseg.study import (
    DEFINITIONS,
    MEASURED,
    PAPER_MANUAL_MIN,
    PAPER_RUNTIME_S,
    Who,
    coded,
    create_study,
    log_event,
    reviews,
    run_from_timings,
    saved_percent,
    times,
    totals,
    undo_last,
    write_times,
)

pytestmark = pytest.mark.usefixtures("unflushed")


@pytest.fixture
def a_study(tmp_path):
    return create_study(tmp_path / "mice.sqlite")


@pytest.fixture
def log(a_study):
    def enter(animal, operator, kind, seconds=None, structure=None, scan="d0", **parts):
        return log_event(a_study, Who(animal, scan, operator), kind, structure, seconds, parts)

    return enter


@pytest.fixture
def a_cohort(a_study, log):
    """Ann accepts M1 and M2, rejects M3 and has not finished M4; Bob reviews M1 too and contours M5 by hand."""
    for animal, seconds in (("M1", 40), ("M2", 50), ("M3", 60), ("M4", 70)):
        log(animal, "batch", "run", seconds, preprocessing_s=5, inference_s=27)
    for animal, look, edits, verdict in (
        ("M1", 60, {"heart": 100}, "accept"),
        ("M2", 120, {"heart": 30, "left lung": 10}, "accept"),
        ("M3", 30, {}, "reject"),
        ("M4", 500, {"heart": 7}, "needs work"),
    ):
        log(animal, "Ann", "look", look)
        for structure, seconds in edits.items():
            log(animal, "Ann", "edit", seconds, structure)
        log(animal, "Ann", verdict)
    log("M1", "Bob", "look", 20)
    log("M1", "Bob", "accept")
    log("M5", "Bob", "manual", 1500, "heart")
    log("M5", "Bob", "manual", 900, "lungs")
    return a_study


def row_of(study, animal, operator, reference=None):
    (row,) = [r for r in times(study, reference) if (r["animal"], r["operator"]) == (animal, operator)]
    return row


def test_the_paper_s_98_percent_is_40_s_of_whole_run_against_40_minutes(a_study, log):
    assert saved_percent(PAPER_RUNTIME_S, PAPER_MANUAL_MIN) == pytest.approx(295 / 3, abs=1e-12)
    assert f"{saved_percent(40, 40):.2f} {saved_percent(40, 40):.0f}" == "98.33 98"
    assert round(saved_percent(5 + 27, 40)) == 99  # preprocessing and inference alone would not give the 98
    log("M1", "batch", "run", 40, preprocessing_s=5, inference_s=27)
    row = row_of(a_study, "M1", "batch", PAPER_MANUAL_MIN)
    assert row["saved_percent_paper"] == saved_percent(40, 40)
    assert row["saved_min_paper"] == 40 - 40 / 60
    assert (row["runtime_s"], row["other_s"]) == (40, 8)
    assert totals(a_study, 40)["study"]["per_scan"]["saved_percent_paper"]["mean"] == saved_percent(40, 40)


@pytest.mark.parametrize(
    ("runtime_s", "percent"), [(40, 98.33), (50, 97.92), (52, 97.83), (21, 99.12), (20, 99.17), (60, 97.5)]
)
def test_every_runtime_of_table_4_gives_its_percentage(runtime_s, percent):
    assert saved_percent(runtime_s, PAPER_MANUAL_MIN) == pytest.approx(percent, abs=0.006)


def test_the_honest_figure_counts_looking_and_editing(a_cohort):
    row = row_of(a_cohort, "M1", "Ann", 40)
    assert row["spent_s"] == 40 + 60 + 100
    assert row["saved_min"] == pytest.approx(40 - 200 / 60)
    assert row["saved_percent_with_review"] == pytest.approx(100 * (1 - 200 / 2400))
    assert row["saved_percent_paper"] == saved_percent(40, 40)
    assert row["undefined"] == {}


def test_contours_that_took_longer_than_by_hand_save_less_than_nothing(a_cohort):
    assert row_of(a_cohort, "M1", "Ann", 1)["saved_percent_with_review"] == pytest.approx(
        100 * (1 - 200 / 60)
    )


def test_rejected_contours_cost_their_time_and_leave_the_work_by_hand(a_cohort):
    row = row_of(a_cohort, "M3", "Ann", 40)
    assert row["finished"] and not row["accepted"]
    assert row["saved_min"] == pytest.approx(-1.5)
    assert row["saved_percent_with_review"] == pytest.approx(-1.5 / 40 * 100)


@pytest.fixture
def two_scans(a_study, log):
    """A is accepted and B rejected, each after a run of 40 s and a look of 60 s."""
    for animal, verdict in (("A", "accept"), ("B", "reject")):
        log(animal, "Ann", "run", 40)
        log(animal, "Ann", "look", 60)
        log(animal, "Ann", verdict)
    return a_study


def saved_in_all(study, animal):
    return row_of(study, animal, "Ann", 40)["saved_percent_with_review"]


def test_contouring_by_hand_after_a_rejection_leaves_it_rejected_and_is_what_was_spent(two_scans, log):
    assert saved_in_all(two_scans, "B") == pytest.approx(-100 / 24)
    log("B", "Ann", "manual", 2400)
    row = row_of(two_scans, "B", "Ann", 40)
    assert (row["verdict"], row["finished"], row["contouring"]) == ("rejected", True, "reviewed")
    assert row["spent_s"] == 40 + 60 + 2400
    assert row["saved_percent_with_review"] == pytest.approx(-100 / 24)
    assert row["notes"] == []
    sums = totals(two_scans, 40)["study"]
    assert [sums[key] for key in ("accepted", "rejected", "contoured_by_hand")] == [1, 1, 0]
    assert sums["unfinished"]["reviews"] == 0
    saved = sums["per_review"]["saved_percent_with_review"]
    assert (saved["n"], saved["mean"]) == (2, pytest.approx((100 - 100 / 24 - 100 / 24) / 2))


def test_the_time_logged_by_hand_stands_in_for_the_reference_and_not_on_top_of_it(two_scans, log):
    log("B", "Ann", "manual", 3000)
    assert saved_in_all(two_scans, "B") == pytest.approx(100 * (2400 - 3100) / 2400)


def test_a_rejected_scan_whose_contouring_by_hand_is_logged_in_part_saves_nothing_either(two_scans, log):
    before = row_of(two_scans, "B", "Ann", 40)["saved_min"]
    log("B", "Ann", "manual", 600, "heart")
    assert row_of(two_scans, "B", "Ann", 40)["saved_min"] == pytest.approx(before)
    assert before < 0


def test_a_rejection_without_a_look_is_no_contouring_by_hand_alone(a_study, log):
    log("B", "batch", "run", 40)
    log("B", "Ann", "reject")
    log("B", "Ann", "manual", 2400)
    row = row_of(a_study, "B", "Ann", 40)
    assert (row["contouring"], row["verdict"]) == ("reviewed", "rejected")
    assert row["saved_min"] == pytest.approx(-40 / 60)


@pytest.mark.parametrize("order", [("accept", "manual"), ("manual", "accept")])
@pytest.mark.parametrize("look_s", [0, 60])
def test_contouring_by_hand_beside_an_accepted_run_is_spent(a_study, log, order, look_s):
    log("A", "batch", "run", 40)
    log("A", "Ann", "look", look_s)
    for kind in order:
        log("A", "Ann", kind, *((300, "heart") if kind == "manual" else ()))
    row = row_of(a_study, "A", "Ann", 40)
    assert row["accepted"] and row["spent_s"] == 40 + look_s + 300
    assert row["saved_min"] == pytest.approx(40 - (340 + look_s) / 60)
    assert totals(a_study, 40)["study"]["per_review"]["manual_s"]["sum"] == 300


def test_contours_by_hand_that_were_accepted_where_nothing_ran_are_by_hand_all_the_same(a_study, log):
    log("A", "Ann", "manual", 1200)
    log("A", "Ann", "accept")
    assert row_of(a_study, "A", "Ann", 40)["contouring"] == "by hand"
    log("A", "Ann", "look", 5)
    assert row_of(a_study, "A", "Ann", MEASURED)["manual_reference_min"] == 20


def test_editing_after_a_rejection_takes_it_away_until_the_next_verdict(two_scans, log):
    log("B", "Ann", "edit", 30, "heart")
    assert row_of(two_scans, "B", "Ann")["verdict"] == "none"
    log("B", "Ann", "manual", 70)
    left = totals(two_scans, 40)["study"]["unfinished"]
    assert (left["reviews"], left["editing_s"], left["manual_s"]) == (1, 30, 70)


def test_one_structure_by_hand_beside_accepted_contours_measures_no_reference(two_scans, log):
    log("A", "Ann", "manual", 60, "heart")
    with pytest.raises(OptionError, match=r"contoured by hand.*got none"):
        times(two_scans, MEASURED)
    log("B", "Ann", "manual", 1200)
    assert row_of(two_scans, "A", "Ann", MEASURED)["manual_reference_min"] == 20
    assert totals(two_scans)["study"]["by_hand"]["manual_s"]["sum"] == 1200


def test_structures_that_differ_in_case_or_blanks_around_are_one_under_the_first_spelling(a_study, log):
    for animal, name in (("M1", "heart"), ("M1", "Heart"), ("M2", " HEART "), ("M2", "Lung")):
        log(animal, "Ann", "edit", 10, name)
    log("M1", "Ann", "manual", 5, "hearT")
    assert [row["editing_by_structure_s"] for row in times(a_study)] == [
        {"heart": 20},
        {"heart": 10, "Lung": 10},
    ]
    assert times(a_study)[0]["manual_by_structure_s"] == {"heart": 5}
    for animal in ("M1", "M2"):
        log(animal, "Ann", "accept")
    assert totals(a_study)["study"]["editing_by_structure_s"]["heart"]["sum"] == 30


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("look", {}), ("manual", {}), ("idle", {}), ("run", {}), ("run", {"inference_s": 86401})],
)
def test_a_time_above_a_day_is_refused_as_a_typing_error(a_study, log, kind, parts):
    with pytest.raises(OptionError, match=r"24 hours.*got 86401\. Check for a typing error"):
        log("M1", "Ann", kind, None if parts else 86401, **parts)
    assert times(a_study) == []
    log("M1", "Ann", kind, 86400)
    assert len(times(a_study)) == 1


def test_undo_takes_back_the_last_entry_of_this_scan_and_operator_and_then_the_one_before(two_scans, log):
    who = Who("B", "d0", "Ann")
    log("B", "Ann", "manual", 2400, "heart")
    log("B", "Bob", "look", 5)
    log("B", "Ann", "look", 7, scan="d7")
    taken = undo_last(two_scans, who)
    assert (taken.kind, taken.structure, taken.seconds) == ("manual", "heart", 2400)
    row = row_of(two_scans, "A", "Ann")
    assert row["withdrawn"] == 0
    rows = {(r["animal"], r["scan"], r["operator"]): r for r in times(two_scans, 40)}
    assert (rows["B", "d0", "Ann"]["manual_s"], rows["B", "d0", "Ann"]["withdrawn"]) == (0, 1)
    assert (rows["B", "d0", "Bob"]["looking_s"], rows["B", "d7", "Ann"]["looking_s"]) == (5, 7)
    assert undo_last(two_scans, who).kind == "reject"
    assert [undo_last(two_scans, who).kind for _ in range(2)] == ["look", "run"]
    with pytest.raises(OptionError, match="nothing that can be taken back"):
        undo_last(two_scans, who)
    assert ("B", "d0", "Ann") not in {(r["animal"], r["scan"], r["operator"]) for r in times(two_scans)}
    log("B", "Ann", "look", 3)
    assert [r["looking_s"] for r in times(two_scans) if r["withdrawn"]] == [3]


def test_what_was_taken_back_stays_in_the_file_as_withdrawn(two_scans):
    undo_last(two_scans, Who("B", "d0", "Ann"))
    with two_scans.reading() as db:
        found = db.execute("SELECT kind FROM events WHERE withdrawn_utc IS NOT NULL").fetchall()
        assert (found, db.execute("SELECT count(*) FROM events").fetchone()) == ([("reject",)], (6,))


def test_undo_makes_no_animal_of_a_misspelled_name(two_scans):
    with pytest.raises(OptionError, match=r"animal 'C'.*Check the names"):
        undo_last(two_scans, Who("C", "d0", "Ann"))
    with two_scans.reading() as db:
        assert db.execute("SELECT count(*) FROM animals").fetchone() == (2,)


def test_what_a_ledger_measured_is_not_taken_back(a_study):
    with studies.Ledger(a_study, "M1", "d0", "Ann") as ledger:
        ledger.accept()
    with pytest.raises(OptionError, match="measured times stay"):
        undo_last(a_study, Who("M1", "d0", "Ann"))
    assert times(a_study)[0]["accepted"]


def test_without_a_reference_nothing_is_saved_by_assumption(a_cohort):
    for row in times(a_cohort):
        saved = [key for key in row if key.startswith("saved")]
        assert len(saved) == 4
        assert all(row[key] is None for key in saved)
        assert row["undefined"].keys() == {*saved, "spent_share_of_manual"}
        assert row["manual_reference_min"] is None
    assert "no manual reference" in row_of(a_cohort, "M1", "Ann")["undefined"]["saved_min"]


@pytest.mark.parametrize(
    ("animal", "operator", "key", "why"),
    [
        ("M4", "Ann", "saved_min", "nobody accepted or rejected"),
        ("M1", "batch", "saved_percent_with_review", "nobody accepted or rejected"),
        ("M5", "Bob", "saved_percent_paper", "by hand"),
    ],
)
def test_what_is_undefined_says_why(a_cohort, animal, operator, key, why):
    row = row_of(a_cohort, animal, operator, 40)
    assert row[key] is None
    assert why in row["undefined"][key]


def test_a_review_without_a_logged_run_says_so(a_study, log):
    log("M1", "Ann", "look", 5)
    log("M1", "Ann", "accept")
    row = row_of(a_study, "M1", "Ann", 40)
    assert row["saved_min"] is None and "no run" in row["undefined"]["saved_min"]
    assert row["runtime_s"] is row["compute_s"] is row["spent_s"] is None


def test_the_reference_of_the_study_holds_until_another_is_given(a_cohort):
    a_cohort.set_manual_reference(30)
    assert row_of(a_cohort, "M1", "Ann")["manual_reference_min"] == 30
    assert row_of(a_cohort, "M1", "Ann", 40)["manual_reference_min"] == 40
    with pytest.raises(OptionError, match="above 0"):
        times(a_cohort, 0)


def test_the_reference_can_be_what_was_measured_by_hand_here(a_cohort, log):
    assert row_of(a_cohort, "M1", "Ann", MEASURED)["manual_reference_min"] == 40
    log("M6", "Ann", "manual", 1200)
    assert row_of(a_cohort, "M1", "Ann", MEASURED)["manual_reference_min"] == 30


def test_a_study_without_contours_by_hand_has_none_measured(a_study):
    with pytest.raises(OptionError, match=r"contoured by hand.*got none"):
        times(a_study, MEASURED)


def test_all_runs_of_a_scan_are_spent_and_the_last_one_is_the_runtime(a_study, log):
    log("M1", "Ann", "run", 100)
    log("M1", "Ann", "run", 40, inference_s=30)
    log("M1", "Ann", "accept")
    row = row_of(a_study, "M1", "Ann", 40)
    assert (row["runs"], row["runtime_s"], row["compute_s"], row["spent_s"]) == (2, 40, 140, 140)
    assert (row["inference_s"], row["preprocessing_s"], row["other_s"]) == (30, None, 10)


def test_scans_of_one_animal_are_rows_of_their_own(a_study, log):
    for scan in ("d0", "d7"):
        log("M1", "Ann", "look", 5, scan=scan)
    assert [(row["animal"], row["scan"]) for row in times(a_study)] == [("M1", "d0"), ("M1", "d7")]
    assert totals(a_study)["study"]["animals"] == 1
    assert totals(a_study)["study"]["scans"] == 2


def test_totals_count_scans_once_and_keep_unfinished_reviews_apart(a_cohort):
    sums = totals(a_cohort, 40)["study"]
    counts = ("animals", "scans", "reviews", "accepted", "rejected", "contoured_by_hand")
    assert [sums[key] for key in counts] == [5, 5, 5, 3, 1, 1]
    assert sums["unfinished"] == {
        "reviews": 1,
        "looking_s": 500,
        "editing_s": 7,
        "manual_s": 0,
        "idle_s": 0,
    }
    run = sums["per_scan"]["runtime_s"]
    assert (run["n"], run["sum"], run["mean"], run["median"]) == (4, 220, 55, 55)
    assert run["sd"] == pytest.approx(math.sqrt(500 / 3))
    look = sums["per_review"]["looking_s"]
    assert (look["n"], look["sum"], look["mean"], look["median"]) == (4, 230, 57.5, 45)
    heart = sums["editing_by_structure_s"]["heart"]
    assert (heart["n"], heart["sum"], heart["mean"]) == (4, 130, 32.5)
    assert sums["by_hand"]["manual_s"]["sum"] == 2400
    saved = [40 - 200 / 60, 40 - 210 / 60, -1.5, 40 - 60 / 60]
    assert sums["per_review"]["saved_min"]["sum"] == pytest.approx(sum(saved))


def test_totals_of_an_operator_are_of_what_they_did(a_cohort):
    found = {one["operator"]: one for one in totals(a_cohort, 40)["operators"]}
    assert list(found) == ["Ann", "Bob", "batch"]
    assert (found["Ann"]["reviews"], found["Ann"]["accepted"]) == (4, 2)
    assert (found["Bob"]["reviews"], found["Bob"]["contoured_by_hand"]) == (1, 1)
    assert (found["batch"]["reviews"], found["batch"]["per_scan"]["runtime_s"]["n"]) == (0, 4)
    assert found["Bob"]["per_review"]["looking_s"]["sd"] is None


def test_an_empty_study_has_totals_of_nothing(a_study):
    found = totals(a_study)
    assert found["operators"] == []
    assert found["study"]["reviews"] == 0
    assert found["study"]["per_scan"]["runtime_s"] == {
        "n": 0,
        "n_undefined": 0,
        "sum": None,
        "mean": None,
        "sd": None,
        "median": None,
    }


def test_undefined_values_are_counted_beside_the_means(a_study, log):
    for animal in ("M1", "M2"):
        log(animal, "Ann", "accept")
    log("M1", "Ann", "run", 60)
    saved = totals(a_study, 40)["study"]["per_review"]["saved_min"]
    assert (saved["n"], saved["n_undefined"], saved["mean"]) == (1, 1, 39)


def test_the_times_of_a_record_become_those_of_a_run():
    timings = {
        "read": 1.0,
        "load_checkpoint": 2.0,
        "preprocess": 3.0,
        "lung_map": 4.0,
        "inference": 20.0,
        "postprocess": 0.5,
        "uncertainty": 0.5,
        "measure": 1.0,
        "write_volumes": 5.0,
        "figures": 3.0,
        "total": 40.0,
    }
    assert run_from_timings(timings) == {
        "preprocessing_s": 4.0,
        "inference_s": 24.0,
        "export_s": 8.0,
        "total_s": 40.0,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("paint",), "one of the events"),
        (("look",), "seconds it took"),
        (("accept", 5), "takes no seconds"),
        (("look", -1), "0 or more"),
        (("look", float("inf")), "0 or more"),
        (("look", 5, "heart"), "edit or manual only"),
        (("run",), "the total, or its parts"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(a_study, log, arguments, said):
    with pytest.raises(OptionError, match=said):
        log("M1", "Ann", *arguments)
    assert times(a_study) == []


def test_only_a_run_has_parts(log):
    with pytest.raises(OptionError, match="only a run"):
        log("M1", "Ann", "look", 5, inference_s=3)


def test_entered_idle_time_is_idle(a_study, log):
    log("M1", "Ann", "idle", 90)
    assert (times(a_study)[0]["idle_s"], times(a_study)[0]["total_active_s"]) == (90, 0)


HOSTILE = "=HYPERLINK(1)"


def test_the_csv_holds_every_row_with_a_column_per_structure_and_no_formula(a_cohort, log, tmp_path):
    log(HOSTILE, "@Eve", "edit", 3.25, "-tumor")
    path = tmp_path / "times.csv"
    write_times(path, reviews(a_cohort, 40))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(times(a_cohort))
    ann = rows[[(row["animal"], row["operator"]) for row in rows].index(("M2", "Ann"))]
    assert float(ann["editing_heart_s"]) == 30 and float(ann["editing_left lung_s"]) == 10
    assert float(ann["editing_s"]) == 40 and ann["accepted"] == "yes"
    assert float(ann["saved_percent_with_review"]) == pytest.approx(100 * (1 - 210 / 2400))
    eve = rows[-1]
    assert (eve["animal"], eve["operator"]) == ("'" + HOSTILE, "'@Eve")
    assert float(eve["editing_-tumor_s"]) == 3.25
    assert "no run" in eve["undefined"] and eve["saved_min"] == ""
    text = path.read_text("utf-8")
    assert "nan" not in text.lower() and "inf," not in text.lower()


def test_the_json_keeps_raw_names_and_says_what_each_key_means(a_cohort, log, tmp_path):
    log(HOSTILE, "Eve", "look", 1)
    path = tmp_path / "times.json"
    write_times(path, reviews(a_cohort, 40))
    told = json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)
    assert told["reviews"][-1]["animal"] == HOSTILE
    assert told["notice"] == RESEARCH_USE
    assert told["totals"]["study"]["reviews"] == 6
    assert set(DEFINITIONS) <= {*told["reviews"][0]}
    assert told["definitions"] == DEFINITIONS


def test_a_csv_of_an_empty_study_has_its_columns(a_study, tmp_path):
    write_times(tmp_path / "times.csv", reviews(a_study))
    text = (tmp_path / "times.csv").read_text("utf-8")
    assert text.startswith("animal,scan,operator,") and len(text.splitlines()) == 1


def test_codes_hide_names_and_dates_and_stay_the_same_when_more_is_logged(a_cohort, log, tmp_path):
    first = [(r.animal, r.scan, r.operator) for r in coded(reviews(a_cohort))]
    log("A first name", "Aaron", "look", 1)
    found = coded(reviews(a_cohort))
    assert [(r.animal, r.scan, r.operator) for r in found][: len(first)] == first
    assert len({r.animal for r in found}) == 6 and len({r.operator for r in found}) == 4
    for name in ("t.csv", "t.json"):
        write_times(tmp_path / name, found)
        text = (tmp_path / name).read_text("utf-8")
        for hidden in ("M1", "Ann", "Bob", "Aaron", "d0", "batch"):
            assert f'"{hidden}' not in text and f",{hidden}," not in text, hidden
        assert "A001" in text
        assert not re.search(r"\d{4}-\d\d-\d\d", text)


def test_a_file_of_times_is_never_overwritten_and_has_an_ending_we_know(a_cohort, tmp_path):
    path = tmp_path / "times.csv"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists and was not changed"):
        write_times(path, reviews(a_cohort))
    assert path.read_text() == "mine"
    with pytest.raises(OptionError, match=r"ends in .csv or .json"):
        write_times(tmp_path / "times.xlsx", reviews(a_cohort))
    assert not (tmp_path / "times.xlsx").exists()


def test_every_public_name_is_there():
    assert all(hasattr(studies, name) for name in studies.__all__)
