"""`stats` on published worked examples and on tables as they come: the numbers, and what is left out and why."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.agreement.making import read_csv, record_of, refused, strict_json, write_table
from thoraxseg.cli import main

HOLLANDER_WOLFE = (
    (1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30),
    (0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29),
)
"""Depression scores of R's manual (wilcox.test): V = 40, p = 0.0390625."""
DARWIN = (6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75)
"""Differences in height of maize, of SciPy's manual (wilcoxon): statistic 24, p = 0.041259765625."""
NAMES = (
    *(
        "n",
        "n_zero",
        "p",
        "significant",
        "method",
        "mean_a",
        "sd_a",
        "median_a",
        "mean_b",
        "sd_b",
        "median_b",
    ),
    *("effect", "effect_low", "effect_high", "n_used", "n_missing"),
)
"""Names that other programs read."""


@pytest.fixture
def stats(tmp_path, capsys):
    """Run `stats` on a table given as text and return the record."""

    def run(text, *words):
        return record_of(capsys, "stats", write_table(tmp_path / "scores.csv", text), *words)

    return run


def table_of(a, b, animals=None):
    head = "scan,animal,a,b" if animals else "scan,a,b"
    rows = [
        ",".join([f"s{n}", *([animals[n]] if animals else []), str(x), str(y)])
        for n, (x, y) in enumerate(zip(a, b, strict=True))
    ]
    return "\n".join([head, *rows])


def test_the_record_has_the_names_that_other_programs_read_over_scans_and_over_animals(stats):
    record = stats(table_of(*HOLLANDER_WOLFE, ["m1", "m1", "m1", "m2", "m2", "m2", "m3", "m3", "m3"]))
    for level in (record, record["per_animal"]):
        assert set(NAMES) <= set(level)
        assert level["undefined"] == {} or set(level["undefined"]) <= set(level)


def test_the_depression_scores_of_hollander_and_wolfe(stats):
    record = stats(table_of(*HOLLANDER_WOLFE))
    assert (record["w_plus"], record["p"], record["method"], record["n"]) == (40, 0.0390625, "exact", 9)
    assert record["significant"] is True
    assert record["per_animal"] is None
    assert record["effect"] == pytest.approx(0.46, abs=0.005)
    assert "no column animal" in record["notes"][0]


def test_the_maize_of_darwin(stats):
    record = stats(table_of(DARWIN, [0] * 15))
    assert (record["statistic"], record["p"]) == (24, 0.041259765625)


def test_alpha_decides_the_asterisk(stats):
    assert stats(table_of(*HOLLANDER_WOLFE), "--alpha", "0.01")["significant"] is False


def test_over_animals_scores_are_averaged_first(stats):
    record = stats(table_of((5, 1, 2, 4), (1, 1, 1, 1), ["m1", "m1", "m2", "m3"]))
    animals = record["per_animal"]
    assert (record["n"], record["n_zero"], animals["n"]) == (4, 1, 3)
    assert (animals["mean_a"], animals["median_a"], animals["p"]) == (3, 3, 0.25)
    assert animals["can_be_significant"] is False
    assert any("with 3 differing animals no result can be significant" in one for one in record["warnings"])


def test_an_animal_without_a_complete_pair_is_missing_there(stats):
    record = stats("scan,animal,a,b\n s1,m1,2,1\n s2,m2,,1\n s3,m3,3,1")
    assert (record["per_animal"]["n"], record["per_animal"]["n_missing"]) == (2, 1)


def test_scores_that_are_all_equal_have_no_p_and_no_asterisk(stats):
    record = stats(table_of((0.5, 0.6, 0.7), (0.5, 0.6, 0.7)))
    assert (record["p"], record["significant"], record["n_zero"]) == (None, False, 3)
    assert record["undefined"]["p"] == "no difference other than zero"
    assert (record["p_holm"], record["p_bh"]) == (None, None)


def test_one_scan_has_no_sd_and_says_so(stats):
    record = stats("scan,a,b\n s1,1,2")
    assert (record["n"], record["p"], record["sd_a"]) == (1, 1, None)
    assert record["undefined"]["sd_a"] == "one pair has no SD"


def test_missing_and_failed_cells_are_left_out_counted_and_listed(stats):
    text = (
        "scan,a,b\n s1,0.9,0.8\n s2,,0.8\n s3,failed,0.8\n s4,0.7,FAILED\n s5,0.9,–\n s6,0.5,0.6\n s7,,fail"
    )
    record = stats(text)
    assert (record["n"], record["n_missing"], record["n_failed_a"], record["n_failed_b"]) == (2, 5, 1, 2)
    assert {one["scan"]: one["reason"] for one in record["left_out"]} == {
        "s2": "a has no number",
        "s3": "a failed",
        "s4": "b failed",
        "s5": "b has no number",
        "s7": "a has no number; b failed",
    }
    assert "5 scan(s) left out: s2, s3, s4, s5, s7." in record["notes"][0]
    assert record["with_failed"] is None


def test_failed_cells_can_be_counted_as_a_number_beside(stats):
    text = "scan,animal,a,b\n s1,m1,0.9,0.8\n s2,m2,failed,0.8\n s3,m3,0.7,\n s4,m4,0.9,0.7"
    record = stats(text, "--failed-as", "0")
    assert (record["n"], record["mean_a"]) == (2, 0.9)
    other = record["with_failed"]
    assert (other["n"], other["mean_a"], other["n_missing"]) == (3, pytest.approx(0.6), 1)
    assert other["per_animal"]["n"] == 3


def test_several_columns_are_each_compared_with_one_and_corrected(stats):
    better = [1 + n for n in range(6)]
    rows = "\n".join(f"s{n},{0.1 * b},{(-1) ** n * b},0" for n, b in enumerate(better))
    record = stats(f"scan,2d,aimos,full\n{rows}", "--a", "2d", "--a", "aimos", "--b", "full")
    one, other = record["comparisons"]
    assert (one["name_a"], one["name_b"], one["p"]) == ("2d", "full", 2 / 2**6)
    assert (one["p_holm"], one["p_bh"]) == (2 * one["p"], 2 * one["p"])
    assert other["p_holm"] == other["p"] > 0.5
    assert "p" not in record


def test_correction_over_animals_is_among_animals(stats):
    rows = "\n".join(f"s{n},m{n},{1 + n},{2 + n},0" for n in range(4))
    record = stats(f"scan,animal,x,y,z\n{rows}", "--a", "x", "--a", "y", "--b", "z")
    assert [one["per_animal"]["p_holm"] for one in record["comparisons"]] == [0.25, 0.25]


@pytest.mark.parametrize("cell", ["good", "=1+1", "nan", "NaN", "inf", "-inf", "1e400", "0.9 mm", "n/a"])
def test_what_is_no_number_is_refused_with_its_place(cell, tmp_path, capsys):
    path = write_table(tmp_path / "scores.csv", f"scan,a,b\n s1,0.9,0.8\n s2,0.7,{cell}")
    text = refused(capsys, "stats", path)
    assert "scores.csv, line 3, b: expected a number" in text
    assert "Leave the cell empty" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scan,a,b\n s1,1,2\n s1,1,2", "'s1' is in the table twice"),
        ("scan,a,b\n ,1,2", "expected a scan"),
        ("scan,animal,a,b\n s1,,1,2", "expected a scan (and an animal)"),
        ("case,a,b\n s1,1,2", "scan is missing"),
        ("scan,a,b", "one row or more"),
        ("scan,a,a\n s1,1,2", "all different"),
        ("scan,a,b\n s1,1", "expected 3 cells"),
    ],
)
def test_a_bad_table_is_refused(text, words, tmp_path, capsys):
    assert words in refused(capsys, "stats", write_table(tmp_path / "scores.csv", text))


def test_a_table_without_the_columns_is_refused_with_those_it_has(tmp_path, capsys):
    path = write_table(tmp_path / "scores.csv", "scan,a,c\n s1,1,2")
    assert "b is missing. Its columns are scan, a, c" in refused(capsys, "stats", path, status=3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--b", "animal"), "animal is missing"),
        (("--b", "a"), "expected different columns"),
        (("--a", "a", "--a", "a", "--b", "c"), "expected different columns"),
        (("--b", "c", "--failed-as", "nan"), "--failed-as: expected a number"),
    ],
)
def test_columns_and_numbers_that_cannot_be_meant_are_refused(words, said, tmp_path, capsys):
    path = write_table(tmp_path / "scores.csv", "scan,a,c\n s1,1,2")
    assert said in refused(capsys, "stats", path, *words, status=2)


def test_the_table_and_the_page_hold_both_levels_and_guard_names_like_formulas(tmp_path):
    path = write_table(
        tmp_path / "scores.csv", "scan,animal,=a,@b\n =s1,+m,1,2\n s2,m2,failed,2\n s3,m3,4,2\n s4,m4,4,2"
    )
    out = tmp_path / "out"
    words = ["--a", "=a", "--b", "@b", "--failed-as", "0", "-o", str(out)]
    assert main(["stats", str(path), *words]) == 0
    rows = read_csv(out / "stats.csv")
    assert {(row["a"], row["b"]) for row in rows} == {("'=a", "'@b")}
    assert [row["level"] for row in rows] == [
        *("scan", "animal"),
        *("scan, failed counted", "animal, failed counted"),
    ]
    assert [row["n"] for row in rows] == ["3", "3", "4", "4"]
    record = strict_json((out / "stats.json").read_text("utf-8"))
    assert record["left_out"] == [{"scan": "s2", "reason": "=a failed"}]
    assert "=a failed" in (out / "stats.html").read_text("utf-8")


def test_a_hundred_scans_are_exact_and_their_left_out_ones_are_counted_not_listed_in_the_note(stats):
    rng = np.random.default_rng(0)
    rows = "\n".join(f"s{n},{x:.6f},{'' if n < 8 else 0}" for n, x in enumerate(rng.normal(0.3, 1, 100)))
    record = stats(f"scan,a,b\n{rows}")
    assert (record["n"], record["method"]) == (92, "exact")
    assert "s0, s1, s2, s3, s4 and 3 more" in record["notes"][0]
    assert len(record["left_out"]) == 8
