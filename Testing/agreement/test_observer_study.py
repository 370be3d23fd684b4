"""`observers` on a table of scans: a bad scan stops no other, and nothing is left out without a word."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.agreement.making import (
    box,
    read_csv,
    record_of,
    refused,
    strict_json,
    write_map,
    write_segments,
    write_table,
)
from thoraxseg.cli import main
from thoraxseg.io import read_segmentation

THREE = {name: box((2, 5, 4 + shift), (10, 10, 10)) for name, shift in (("a", 0), ("b", 2), ("c", 4))}


@pytest.fixture
def masks(tmp_path):
    """Three boxes with a CIgen of 11/19, in a.nrrd, b.nrrd and c.nrrd."""
    for name, labels in THREE.items():
        write_map(tmp_path / f"{name}.nrrd", labels)
    return tmp_path


def study(folder, text):
    return write_table(folder / "study.csv", text)


def test_the_mean_over_scans_is_that_of_their_cigen(masks, capsys):
    table = study(
        masks,
        """case,animal,anna,ben,chris
        s1,m1,a.nrrd,b.nrrd,c.nrrd
        s2,m1,a.nrrd,a.nrrd,b.nrrd
        s3,m2,a.nrrd,b.nrrd,b.nrrd""",
    )
    record = record_of(capsys, "observers", table)
    cigens = [11 / 19, 13 / 17, 13 / 17]
    (row,) = record["structures"]
    assert (row["name"], row["scans"], row["observers"], row["cigen_n"]) == ("label 1", 3, 3, 3)
    assert row["cigen_mean"] == pytest.approx(np.mean(cigens))
    assert row["cigen_sd"] == pytest.approx(np.std(cigens, ddof=1))
    assert row["cigen_median"] == pytest.approx(13 / 17)
    assert [one["structures"][0]["cigen"] for one in record["cases"]] == pytest.approx(cigens)
    assert [(one["case"], one["animal"]) for one in record["cases"]] == [
        ("s1", "m1"),
        ("s2", "m1"),
        ("s3", "m2"),
    ]
    assert record["failures"] == []


def test_bad_scans_are_listed_and_the_others_measured(masks, capsys):
    (masks / "bad.nrrd").write_text("nothing", encoding="utf-8")
    write_map(masks / "other.nrrd", box((1, 1, 1), (2, 2, 2), shape=(5, 5, 5)))
    table = study(
        masks,
        """case,animal,anna,ben,chris
        good,m1,a.nrrd,b.nrrd,c.nrrd
        gone,m2,a.nrrd,gone.nrrd,c.nrrd
        bad,m3,a.nrrd,bad.nrrd,c.nrrd
        shape,m4,a.nrrd,other.nrrd,c.nrrd
        alone,m5,a.nrrd,,failed
        pair,m6,a.nrrd,,c.nrrd""",
    )
    out = masks / "out"
    assert main(["observers", str(table), "-o", str(out)]) == 3
    text, err = capsys.readouterr()
    assert "4 file(s) or scan(s) could not be measured, all others were" in err
    assert "gone.nrrd is not there" in err
    record = strict_json((out / "observers.json").read_text("utf-8"))
    assert [one["case"] for one in record["failures"]] == ["gone", "bad", "shape", "alone"]
    assert [one["case"] for one in record["cases"]] == ["good", "pair"]
    assert [one["structures"][0]["observers"] for one in record["cases"]] == [3, 2]
    assert "pair: No masks of ben; left out there." in record["notes"]
    page = (out / "observers.html").read_text("utf-8")
    assert "What failed" in page and "gone.nrrd is not there" in page
    assert [row["case"] for row in read_csv(out / "observers.csv")] == ["good", "pair"]
    assert "Generalized conformity index" in text


def test_a_table_none_of_whose_scans_can_be_measured_is_refused(masks, capsys):
    table = study(masks, "case,animal,anna,ben\n s1,m1,gone.nrrd,b.nrrd")
    assert "no scan could be measured. s1: " in refused(capsys, "observers", table)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case,animal,anna,ben\n s1,m1,a.nrrd,b.nrrd\n s1,m2,a.nrrd,b.nrrd", "'s1' is in the table twice"),
        ("case,animal,anna\n s1,m1,a.nrrd", "columns of two observers or more"),
        ("animal,anna,ben\n m1,a.nrrd,b.nrrd", "case is missing"),
        ("case,animal,anna,ben\n ,m1,a.nrrd,b.nrrd", "expected a name in case"),
        ("case,animal,anna,ben\n s1,,a.nrrd,b.nrrd", "expected a name in animal"),
        ("case,animal,anna,ben\n s1,m1,https://x.org/a.nrrd,b.nrrd", "Download it first"),
        ("case,animal,anna,ben\n s1,m1,a.nrrd", "expected 4 cells"),
    ],
)
def test_a_bad_table_is_refused_before_anything_is_read(text, words, masks, capsys):
    assert words in refused(capsys, "observers", study(masks, text))


def test_an_unknown_model_is_refused(masks, capsys):
    table = study(masks, "case,anna,ben\n s1,a.nrrd,b.nrrd")
    assert "--model: net is no column" in refused(capsys, "observers", table, "--model", "net", status=2)


def test_models_are_judged_by_the_consensus_of_the_observers(masks, capsys):
    table = study(
        masks,
        """case,animal,anna,ben,chris,net
        s1,m1,a.nrrd,b.nrrd,c.nrrd,b.nrrd
        s2,m2,a.nrrd,b.nrrd,c.nrrd,failed""",
    )
    record = record_of(capsys, "observers", table, "--model", "net")
    assert record["observer_names"] == ["anna", "ben", "chris"]
    (row,) = record["structures"]
    assert row["cigen_mean"] == 11 / 19
    majority = sum(THREE.values()) >= 2
    both = np.count_nonzero(majority & (THREE["b"] == 1))
    model = row["models"]["net"]
    assert (model["cigen_n"], model["cigen_mean"]) == (1, both / (2000 - both))
    (entry,) = record["cases"][0]["structures"][0]["models"]
    assert (entry["model"], entry["dsc"]) == ("net", 2 * both / 2000)
    assert "s2: No masks of net; left out there." in record["notes"]
    assert "Not commensurable" in record["definitions"]["models"]


def test_a_structure_has_one_row_whatever_capitals_the_scans_write(tmp_path, capsys):
    for case, name in (("s1", "Liver left"), ("s2", "LIVER_left")):
        for who in "ab":
            write_segments(tmp_path / f"{case}{who}.seg.nrrd", THREE[who], {1: name})
    table = study(tmp_path, "case,anna,ben\n s1,s1a.seg.nrrd,s1b.seg.nrrd\n s2,s2a.seg.nrrd,s2b.seg.nrrd")
    (row,) = record_of(capsys, "observers", table)["structures"]
    assert (row["name"], row["scans"]) == ("Liver left", 2)


def test_names_like_formulas_and_paths_stay_names(masks, capsys):
    table = study(
        masks, "case,animal,anna,ben\n =1+1,@m,a.nrrd,b.nrrd\n ../x,-m,a.nrrd,b.nrrd\n ../X,m,a.nrrd,b.nrrd"
    )
    out = masks / "deep" / "out"
    assert main(["observers", str(table), "-o", str(out), "--write-masks"]) == 0
    record = strict_json((out / "observers.json").read_text("utf-8"))
    assert [(one["case"], one["animal"]) for one in record["cases"]] == [
        ("=1+1", "@m"),
        ("../x", "-m"),
        ("../X", "m"),
    ]
    assert [(row["case"], row["animal"]) for row in read_csv(out / "observers.csv")] == [
        ("'=1+1", "'@m"),
        ("../x", "'-m"),
        ("../X", "m"),
    ]
    assert [path.name for path in (masks / "deep").iterdir()] == ["out"]
    written = sorted(out.glob("*_consensus_majority.seg.nrrd"))
    assert len({path.name.lower() for path in written}) == 3
    for path in written:
        assert np.array_equal(read_segmentation(path).labels > 0, (THREE["a"] > 0) & (THREE["b"] > 0))
    assert len(list(out.glob("*_disagreement.nrrd"))) == 3
