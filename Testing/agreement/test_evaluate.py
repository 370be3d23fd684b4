"""`evaluate` on a cohort of boxes: scores known on paper, and no scan, model or structure lost without a word."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.agreement.making import (
    SHAPE,
    box,
    points,
    read_csv,
    record_of,
    refused,
    strict_json,
    write_map,
    write_segments,
    write_table,
)
from thoraxseg.cli import main

SHIFTS = {"r": 0, "d9": 1, "d8": 2, "d7": 3, "d6": 4}
"""Boxes of ten voxels along i: shifted by n against the reference r they have a Dice of 1 - n / 10."""


@pytest.fixture
def masks(tmp_path):
    for name, shift in SHIFTS.items():
        write_map(tmp_path / f"{name}.nrrd", box((2, 5, 4 + shift), (10, 10, 10)))
    write_map(tmp_path / "none.nrrd", np.zeros(SHAPE, np.uint8))
    return tmp_path


def cohort(folder, rows, head="case,animal,reference,good,weak"):
    return write_table(folder / "cohort.csv", f"{head}\n{rows}")


def cell_of(record, model, measure="dsc", structure="label 1"):
    (found,) = (
        one
        for one in record["summary"]
        if (one["model"], one["measure"], one["structure"]) == (model, measure, structure)
    )
    return found


def test_means_sds_medians_and_the_test_are_those_on_paper(masks, capsys):
    table = cohort(
        masks,
        """s1,m1,r.nrrd,d9.nrrd,d8.nrrd
        s2,m1,r.nrrd,d8.nrrd,d6.nrrd
        s3,m2,r.nrrd,d7.nrrd,d6.nrrd
        s4,m3,r.nrrd,r.nrrd,d7.nrrd""",
    )
    record = record_of(capsys, "evaluate", table, "--base", "good")
    assert (record["cases"], record["animals"], record["models"]) == (4, 3, ["good", "weak"])
    good, weak = cell_of(record, "good"), cell_of(record, "weak")
    assert (good["mean"], good["median"]) == pytest.approx((0.85, 0.85))
    assert good["sd"] == pytest.approx(np.std([0.9, 0.8, 0.7, 1], ddof=1))
    assert (weak["mean"], weak["median"]) == pytest.approx((0.675, 0.65))
    assert (weak["p"], weak["significant"]) == (2 / 2**4, False)
    assert weak["animals"]["n"] == 3
    assert weak["animals"]["mean_b"] == pytest.approx((0.85 + 0.7 + 1) / 3)
    assert cell_of(record, "weak", "hd95_mm")["n"] == 4
    scores = {(one["case"], one["model"]): one["dsc"] for one in record["scores"]}
    assert scores["s3", "weak"] == pytest.approx(0.6)
    assert "cannot reach p < 0.05" in " ".join(record["warnings"])
    assert "at most 3 animal(s) differ there" in " ".join(record["warnings"])


def test_other_measures_can_be_asked_for(masks, capsys):
    table = cohort(masks, "s1,m1,r.nrrd,d9.nrrd,d8.nrrd")
    record = record_of(capsys, "evaluate", table, "--measure", "hd_mm", "--measure", "volume_difference_mm3")
    assert {one["measure"] for one in record["summary"]} == {"hd_mm", "volume_difference_mm3"}
    assert cell_of(record, "weak", "hd_mm")["mean"] == 2
    assert record["notes"] == ["Without --base no model is tested against another."]


def test_failed_cases_are_counted_left_out_and_included(masks, capsys):
    table = cohort(
        masks, "s1,m1,r.nrrd,d9.nrrd,d8.nrrd\n s2,m2,r.nrrd,d9.nrrd,FAILED\n s3,m3,r.nrrd,d9.nrrd,"
    )
    record = record_of(capsys, "evaluate", table, "--base", "good")
    weak = cell_of(record, "weak")
    assert (weak["n_cases"], weak["n"], weak["n_failed"]) == (3, 1, 2)
    assert (weak["mean"], weak["mean_with_failed"]) == pytest.approx((0.8, 0.8 / 3))
    assert weak["scans"]["n_missing"] == 2
    assert {(one["case"], one["model"], one["reason"]) for one in record["excluded"]} == {
        ("s2", "weak", "the model gave no answer"),
        ("s3", "weak", "the model gave no answer"),
    }
    assert "weak: no answer in 2 of 3 scans" in record["warnings"][0]
    assert record["failures"] == []


def test_a_file_that_cannot_be_read_is_a_failure_of_the_file_and_not_of_the_model(masks, capsys):
    (masks / "bad.nrrd").write_text("nothing", encoding="utf-8")
    table = cohort(
        masks,
        """s1,m1,r.nrrd,d9.nrrd,d8.nrrd
        s2,m2,gone.nrrd,d9.nrrd,d8.nrrd
        s3,m3,r.nrrd,bad.nrrd,d8.nrrd
        s4,m4,r.nrrd,gone.nrrd,d8.nrrd""",
    )
    out = masks / "out"
    assert main(["evaluate", str(table), "--base", "good", "-o", str(out)]) == 3
    text, err = capsys.readouterr()
    assert "3 file(s) or scan(s) could not be measured" in err
    assert "Scores of the models" in text
    record = strict_json((out / "evaluate.json").read_text("utf-8"))
    assert [(one["case"], one.get("model")) for one in record["failures"]] == [
        ("s2", None),
        ("s3", "good"),
        ("s4", "good"),
    ]
    good, weak = cell_of(record, "good"), cell_of(record, "weak")
    assert [good[key] for key in ("n_cases", "n", "n_missing", "n_failed")] == [4, 1, 3, 0]
    assert [weak[key] for key in ("n_cases", "n", "n_missing", "n_failed")] == [4, 3, 1, 0]
    assert good["mean"] == good["mean_with_failed"] == pytest.approx(0.9)
    reasons = {(row["case"], row["model"]) for row in read_csv(out / "evaluate_excluded.csv")}
    assert reasons == {("s2", "good"), ("s2", "weak"), ("s3", "good"), ("s4", "good")}
    assert "Files that failed" in (out / "evaluate.html").read_text("utf-8")


def test_a_cohort_of_which_nothing_can_be_measured_is_refused(masks, capsys):
    text = refused(capsys, "evaluate", cohort(masks, "s1,m1,gone.nrrd,d9.nrrd,d8.nrrd"))
    assert "nothing could be measured. s1: " in text
    assert "No model gave an answer" in refused(capsys, "evaluate", cohort(masks, "s1,m1,r.nrrd,,failed"))


def test_a_model_that_rightly_found_nothing_is_compared_with_one_that_did_not(masks, capsys):
    write_map(masks / "false.nrrd", box((2, 5, 4), (10, 10, 10)) + points((0, 0, 0), label=2))
    table = cohort(masks, "s1,m1,r.nrrd,r.nrrd,false.nrrd")
    record = record_of(capsys, "evaluate", table, "--base", "weak")
    good, weak = (cell_of(record, model, structure="label 2") for model in ("good", "weak"))
    assert (good["mean"], weak["mean"]) == (1, 0)
    assert good["scans"]["n"] == 1


def test_a_structure_that_no_file_of_a_scan_has_is_said_and_names_make_it_empty(masks, capsys):
    both = box((2, 5, 4), (10, 10, 10)) + points((0, 0, 0), label=2)
    write_map(masks / "both.nrrd", both)
    rows = "s1,m1,both.nrrd,both.nrrd,both.nrrd\n s2,m2,r.nrrd,d9.nrrd,d8.nrrd"
    record = record_of(capsys, "evaluate", cohort(masks, rows))
    assert cell_of(record, "good", structure="label 2")["n_cases"] == 1
    assert "label 2: no file has it in 1 of 2 scans (s2)" in record["notes"][0]
    record = record_of(capsys, "evaluate", cohort(masks, rows), "--labels", "1=lungs,2=tumors")
    cell = cell_of(record, "good", structure="tumors")
    assert (cell["n_cases"], cell["mean"]) == (2, 1)


def test_a_structure_that_is_only_called_otherwise_is_warned_of(tmp_path, capsys):
    labels = box((2, 5, 4), (4, 4, 4)) + points((0, 0, 0), label=2)
    write_segments(tmp_path / "r.seg.nrrd", labels, {1: "Heart", 2: "Liver"})
    write_segments(tmp_path / "p.seg.nrrd", labels, {1: "Heart", 2: "Leber"})
    table = cohort(tmp_path, "s1,m1,r.seg.nrrd,p.seg.nrrd", "case,animal,reference,net")
    warnings = " ".join(record_of(capsys, "evaluate", table)["warnings"])
    assert "Liver, net: the prediction has it in none of 1 scans" in warnings
    assert "Leber: the reference has none, taken as not contoured" in warnings
    assert "use --merge" in warnings


def test_structures_are_told_apart_by_name_and_not_by_the_number_of_their_segment(tmp_path, capsys):
    labels = box((2, 5, 4), (4, 4, 4))
    for case, name in (("s1", "Liver"), ("s2", "Kidney"), ("s3", "LIVER")):
        write_segments(tmp_path / f"{case}.seg.nrrd", labels, {1: name})
        write_segments(tmp_path / f"{case}p.seg.nrrd", labels, {1: name})
    rows = "\n".join(f"{case},{case}.seg.nrrd,{case}p.seg.nrrd" for case in ("s1", "s2", "s3"))
    record = record_of(capsys, "evaluate", cohort(tmp_path, rows, "case,reference,net"))
    assert {(one["structure"], one["name"], one["n_cases"]) for one in record["summary"]} == {
        ("liver", "Liver", 2),
        ("kidney", "Kidney", 1),
    }


def test_an_empty_answer_is_a_score_of_0_and_no_failed_case(masks, capsys):
    table = cohort(masks, "s1,m1,r.nrrd,none.nrrd,d8.nrrd\n s2,m2,r.nrrd,d9.nrrd,d8.nrrd")
    good = cell_of(record_of(capsys, "evaluate", table), "good")
    assert (good["n"], good["n_failed"], good["mean"]) == (2, 0, pytest.approx(0.45))
    record = record_of(capsys, "evaluate", table)
    distance = cell_of(record, "good", "msd_mm")
    assert (distance["n"], distance["n_undefined"]) == (1, 1)
    left_out = [one for one in record["excluded"] if one["measure"] == "msd_mm"]
    assert [(one["case"], one["reason"]) for one in left_out] == [("s1", "the prediction is empty")]


def test_labels_can_be_named_for_one_model(masks, capsys):
    write_map(masks / "nine.nrrd", box((2, 5, 4), (10, 10, 10), 9))
    table = cohort(masks, "s1,m1,r.nrrd,nine.nrrd,d8.nrrd")
    words = ("--labels", "1=lungs", "--labels", "good:9=lungs")
    record = record_of(capsys, "evaluate", table, *words)
    assert cell_of(record, "good", structure="lungs")["mean"] == 1
    assert "no best here" in refused(capsys, "evaluate", table, "--labels", "best:9=lungs", status=2)


def test_without_a_column_animal_nothing_is_tested_over_animals_and_that_is_said(masks, capsys):
    table = cohort(masks, "s1,r.nrrd,d9.nrrd,d8.nrrd\n s2,r.nrrd,d8.nrrd,d7.nrrd", "case,reference,good,weak")
    record = record_of(capsys, "evaluate", table, "--base", "good")
    assert "nothing is tested over animals" in record["notes"][0]
    tested = [cell for cell in record["summary"] if cell["model"] == "weak"]
    assert tested and all(cell["scans"] is not None and cell["animals"] is None for cell in tested)


def test_an_unknown_base_or_measure_is_refused_before_anything_is_read(masks, capsys):
    table = cohort(masks, "s1,m1,gone.nrrd,d9.nrrd,d8.nrrd")
    assert "it has good, weak" in refused(capsys, "evaluate", table, "--base", "best", status=2)
    assert "known are dsc" in refused(capsys, "evaluate", table, "--measure", "dice", status=2)


@pytest.mark.parametrize(
    ("head", "rows", "words"),
    [
        ("case,animal,reference", "s1,m1,r.nrrd", "one model or more"),
        ("case,animal,good", "s1,m1,r.nrrd", "reference is missing"),
        ("case,reference,good", "s1,r.nrrd,r.nrrd\n s1,r.nrrd,r.nrrd", "in the table twice"),
        ("case,reference,good,good", "s1,r.nrrd,r.nrrd,r.nrrd", "all different"),
    ],
)
def test_a_bad_table_is_refused(head, rows, words, masks, capsys):
    assert words in refused(capsys, "evaluate", cohort(masks, rows, head))


def test_the_tables_hold_every_score_and_guard_names_like_formulas(masks):
    table = cohort(masks, "=s1,+m1,r.nrrd,d9.nrrd,d8.nrrd")
    assert main(["evaluate", str(table), "--base", "good", "-o", str(masks / "out")]) == 0
    rows = read_csv(masks / "out" / "evaluate.csv")
    assert [(row["case"], row["animal"], row["model"], row["structure"]) for row in rows] == [
        ("'=s1", "'+m1", "good", "label 1"),
        ("'=s1", "'+m1", "weak", "label 1"),
    ]
    assert [float(row["dsc"]) for row in rows] == pytest.approx([0.9, 0.8])
    record = strict_json((masks / "out" / "evaluate.json").read_text("utf-8"))
    assert record["scores"][0]["case"] == "=s1"
    summary = read_csv(masks / "out" / "evaluate_summary.csv")
    assert len(summary) == 6
    assert float(summary[0]["mean"]) == pytest.approx(0.9)
