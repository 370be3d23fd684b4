"""Which animal a case is of is said, never guessed: names that look like repeated scans are refused."""

import pytest

from Testing.training import tiny_data as tiny
from thoraxseg.errors import InputError, OptionError
from thoraxseg.training.data import read_data_set
from thoraxseg.training.data.animals import assign_animals


@pytest.mark.parametrize(
    "ids",
    [
        ("M7_day3", "M7_day10", "M8_day3"),
        ("M7", "M7_day10"),
        ("m7d3", "m7d10"),
        ("8_m2PL_day25", "8_m2PL_day50"),
        ("M03_-001h", "M03_024h"),
        ("sub-01_ses-1", "sub-01_ses-2"),
        ("A_baseline", "A_followup"),
        ("mouse4_2023-05-01", "mouse4_2023-06-11"),
        ("mouse4 20230501", "mouse4 20230611"),
        ("cat_native", "cat_contrast"),
        ("M7_week 2", "M7_week 4"),
        ("A12_1", "A12_2", "B3_1"),
        ("mouse3_a", "mouse3_b", "mouse4_a"),
        ("img_rot90", "img_rot180"),
    ],
    ids=lambda ids: ids[0],
)
def test_names_that_look_like_scans_of_one_animal_are_refused(ids):
    with pytest.raises(InputError, match=r"look like several scans of one animal.*animals.csv"):
        assign_animals(ids, None, None)


@pytest.mark.parametrize(
    "ids",
    [
        ("lung_001", "lung_002", "lung_010"),
        ("mouse1", "mouse2"),
        ("ct280_001", "ct280_002"),
        ("M7", "M8"),
        ("1", "2", "12"),
        ("M7_day3", "M8_day3"),
        ("scan_1", "scan_2"),
        ("day3", "day10"),
        ("anna", "ben"),
    ],
    ids=lambda ids: ids[0],
)
def test_names_that_tell_nothing_count_as_animals_and_a_note_says_so(ids):
    animals, notes = assign_animals(ids, None, None)
    assert animals == dict(zip(ids, ids, strict=True))
    assert len(notes) == 1 and "scores on held-out cases are too good" in notes[0]


def test_a_person_may_say_that_every_case_is_an_animal():
    animals, notes = assign_animals(("M7_day3", "M7_day10"), "case", None)
    assert len({*animals.values()}) == 2 and "as was said" in notes[0]


def test_a_table_beside_the_data_set_says_it(tmp_path):
    root = tiny.nnunet(tmp_path, ("M7_day3", "M7_day10", "M8_day3"))
    rows = [{"case": case, "animal": case[:2]} for case in ("M7_day3", "M7_day10", "M8_day3", "M9_day1")]
    tiny.table(root / "animals.csv", rows)
    data = read_data_set(root)
    assert data.animals == {"M7_day3": "M7", "M7_day10": "M7", "M8_day3": "M8"}
    assert any("M9_day1" in note for note in data.notes)


def test_a_pattern_says_it():
    animals, _ = assign_animals(("x_M7_day3", "x_M7_day10", "x_M8_day3"), r"x_(.+)_day", None)
    assert [*animals.values()] == ["M7", "M7", "M8"]


@pytest.mark.parametrize("given", ["day", "(M)(7)", "(M7", "(?P<"], ids=repr)
def test_a_pattern_without_one_group_is_refused(given):
    with pytest.raises(OptionError, match="--animals"):
        assign_animals(("M7_day3",), given, None)


def test_a_case_that_the_pattern_does_not_fit_is_named():
    with pytest.raises(InputError, match="Q1"):
        assign_animals(("M7_day3", "Q1"), r"(.+)_day", None)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("a", "M1")], "b is not in the table"),
        ([("a", "M1"), ("b", "")], "expected a case and an animal"),
        ([("a", "M1"), ("b", "M2"), ("a", "M2")], "further up"),
        ([("a", "M1"), ("b", "m01")], "may be one"),
    ],
    ids=["missing", "empty", "twice", "spelling"],
)
def test_a_table_that_leaves_doubt_is_refused(tmp_path, rows, sentence):
    path = tiny.table(tmp_path / "animals.csv", [{"case": c, "animal": a} for c, a in rows])
    with pytest.raises(InputError, match=sentence):
        assign_animals(("a", "b"), path, None)
