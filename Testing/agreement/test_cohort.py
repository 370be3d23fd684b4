"""The table of models: means, SDs, medians and asterisks as a paper prints them, checked by hand."""

from __future__ import annotations

from math import sqrt

import pytest

from thoraxseg.agreement.cohort import FAILED, MISSING, OK, Scored, model_table
from thoraxseg.errors import OptionError

BASE = (0.90, 0.80, 0.70, 0.60, 0.50, 0.40)
"""Scores of the base model in six scans; a model that is better in each has p = 2 / 2^6 = 0.03125."""


def scored(model, values, animals=None, measure="dsc", structure="lungs", voxel_mm=None):
    """Return the scores of a model: a number, None where undefined, or a status."""
    rows = []
    for n, value in enumerate(values):
        status = value if value in (FAILED, MISSING) else OK
        scores = {measure: value} if status == OK else {}
        about = (f"s{n}", (animals or range(99))[n], model, structure, structure.title())
        reason = "" if status == OK else f"{status} there"
        rows.append(Scored(*map(str, about), status, reason, scores, {measure: "why not"}, voxel_mm))
    return rows


def cells(rows, base=None, measure="dsc", **kwargs):
    table = model_table(rows, base, [measure], **kwargs)
    return {(cell["structure"], cell["model"]): cell for cell in table.cells}


def better(by=0.01):
    return [value + by * (1 + n) for n, value in enumerate(BASE)]


def test_mean_sd_and_median_are_over_scans_with_ddof_1():
    cell = cells(scored("net", (1, 2, 6)))["lungs", "net"]
    assert (cell["n_cases"], cell["n"], cell["mean"], cell["median"]) == (3, 3, 3, 2)
    assert cell["sd"] == sqrt((4 + 1 + 9) / 2)


def test_one_scan_has_no_sd():
    assert cells(scored("net", (0.5,)))["lungs", "net"]["sd"] is None


def test_every_case_is_counted_once_and_failed_ones_only_as_0_where_they_are_included():
    cell = cells(scored("net", (0.8, 0.6, None, FAILED, MISSING)))["lungs", "net"]
    counts = [cell[key] for key in ("n_cases", "n", "n_undefined", "n_failed", "n_missing")]
    assert counts == [5, 2, 1, 1, 1]
    assert cell["mean"] == pytest.approx(0.7)
    assert cell["mean_with_failed"] == pytest.approx(1.4 / 3)
    assert cell["median_with_failed"] == 0.6


def test_a_distance_has_no_value_for_a_failed_case():
    cell = cells(scored("net", (0.1, FAILED), measure="msd_mm"), measure="msd_mm")["lungs", "net"]
    assert (cell["mean"], cell["mean_with_failed"]) == (0.1, None)


def test_what_is_left_out_is_listed_with_its_reason():
    table = model_table(scored("net", (0.8, None, FAILED, MISSING)), None, ["dsc"])
    assert [(one["case"], one["reason"]) for one in table.excluded] == [
        ("s1", "why not"),
        ("s2", "failed there"),
        ("s3", "missing there"),
    ]
    assert table.excluded_table().rows[0] == ["s1", "net", "Lungs", "dsc", "why not"]
    notes = " ".join(table.footnotes())
    for words in ("failed", "undefined", "not measured"):
        assert f"Left out because {words} (listed by case below): net: 1 of 4 scans" in notes


def test_an_asterisk_stands_on_the_median_of_the_model_that_differs():
    table = model_table(scored("base", BASE) + scored("net", better()), "base", ["dsc"])
    (base, net) = table.cells
    assert (base["p"], base["significant"], net["p"], net["significant"]) == (None, False, 0.03125, True)
    rows = table.as_data_table().rows
    assert rows[0] == ["Lungs", "base", "6", "0.65 ± 0.19", "0.650"]
    assert rows[1] == ["Lungs", "net", "6", "0.69 ± 0.17", "0.685*†"]
    assert net["scans"]["effect"] == pytest.approx(0.035)


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests():
    rows = scored("base", BASE) + scored("net", better())
    rows += scored(
        "other", [value + 0.01 * sign for value, sign in zip(BASE, (1, -2, 3, -4, 5, -6), strict=True)]
    )
    found = cells(rows, "base")
    net, other = found["lungs", "net"], found["lungs", "other"]
    assert net["p_holm"] == 2 * 0.03125
    assert (net["significant"], net["significant_holm"]) == (True, False)
    assert other["p_holm"] == max(other["p"], net["p_holm"])
    assert net["p_bh"] == 2 * 0.03125
    table = model_table(rows, "base", ["dsc"])
    assert table.as_data_table().rows[1][4] == "0.685*"
    assert "for the 2 tests of this table" in " ".join(table.footnotes())


def test_scans_are_paired_by_case_and_never_by_order():
    one, other = scored("base", BASE), scored("net", better())
    assert cells(one + other[::-1], "base")["lungs", "net"]["p"] == 0.03125


def test_incomplete_pairs_are_left_out_of_the_test_and_counted():
    rows = scored("base", BASE) + scored("net", [FAILED, *better()[1:]])
    test = cells(rows, "base")["lungs", "net"]["scans"]
    assert (test["n"], test["n_missing"], test["p"]) == (5, 1, 2 / 2**5)


def test_the_test_is_also_made_with_failed_cases_as_0():
    cell = cells(scored("base", BASE) + scored("net", [FAILED, *better()[1:]]), "base")["lungs", "net"]
    # Differences -0.9 and five positive ones: the negative has the highest rank, W- = 6 of 21.
    assert cell["p_with_failed"] == pytest.approx(2 * 14 / 64)


def test_over_animals_scores_are_averaged_first():
    animals = ["m1", "m1", "m2", "m2", "m3", "m3"]
    rows = scored("base", BASE, animals) + scored("net", better(), animals)
    table = model_table(rows, "base", ["dsc"])
    animals = table.cells[1]["animals"]
    assert (animals["n"], animals["p"], animals["can_be_significant"]) == (3, 0.25, False)
    assert animals["mean_b"] == pytest.approx(0.65)
    assert table.tests_table().rows[0][-1] == "0.2500 (too few)"
    assert "no result could be significant" in " ".join(table.tests_table().footnotes)


def test_equal_scores_have_no_p_and_no_asterisk():
    cell = cells(scored("base", BASE) + scored("net", BASE), "base")["lungs", "net"]
    assert (cell["p"], cell["p_holm"], cell["significant"]) == (None, None, False)
    assert cell["scans"]["undefined"]["p"] == "no difference other than zero"


def test_a_difference_below_a_quarter_of_a_voxel_is_flagged():
    for voxel, flag in ((0.2, True), (0.1, False)):
        rows = scored("base", BASE, measure="msd_mm", voxel_mm=voxel)
        rows += scored("net", better(), measure="msd_mm", voxel_mm=voxel)
        table = model_table(rows, "base", ["msd_mm"])
        assert table.cells[1]["below_quarter_voxel"] is flag
        assert ("‡" in table.tests_table().rows[0][4]) is flag


def test_distances_have_the_decimals_of_the_paper():
    rows = scored("base", (0.1234, 0.5678), measure="hd95_mm")
    assert model_table(rows, None, ["hd95_mm"]).as_data_table().rows == [
        ["Lungs", "base", "2", "0.35 ± 0.31", "0.35"]
    ]


def test_an_unknown_base_or_measure_is_refused():
    rows = scored("base", BASE)
    with pytest.raises(OptionError, match="base model: expected one of base, got 'bsae'"):
        model_table(rows, "bsae")
    with pytest.raises(OptionError, match="measure: expected some of dsc"):
        model_table(rows, None, ["dice"])
