"""Which structures of several files are the same: by name in any writing, by value, and never by a guess."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.agreement.making import SHAPE, box, record_of, refused, write_map, write_segments
from thoraxseg.agreement.masks import Reading, parse_merge, parse_names, read_masks
from thoraxseg.agreement.matching import alike, match
from thoraxseg.errors import InputError, OptionError

A, B = box((1, 1, 1), (4, 4, 4), 1), box((8, 10, 10), (4, 4, 4), 2)


def swapped(labels):
    return np.array([0, 2, 1], np.uint8)[labels]


def scores(record):
    return {row["name"]: row["dsc"] for row in record["structures"]}


def compare(capsys, reference, prediction, *words):
    return record_of(capsys, "compare", "-r", reference, "-p", prediction, *words)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Right lung", "Lung_R"),
        ("right lung", "RIGHT  LUNG"),
        ("Lungs", "lung"),
        ("Tumors", "metastases"),
        ("Spinal cord", "SpinalCord"),
        ("Liver left lobe", "liver_LEFT-lobe"),
        ("Größe", "GRÖSSE"),
        ("Лёгкое", "лёгкое"),
        ("हृदय", "हृदय"),
        ("心臓", "心臓"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_names_are_alike_in_any_capitals_and_separators(one, other):
    assert alike(one) == alike(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Right lung", "Left lung"),
        ("दिल", "दील"),
        ("ที่", "ทา"),
        ("心臓", "肺"),
        ("!", "?"),
        ("Lung 1", "Lung 2"),
    ],
)
def test_names_that_differ_in_a_letter_a_vowel_sign_or_a_side_are_not_alike(one, other):
    assert alike(one) != alike(other)


def test_segments_are_matched_by_name_whatever_their_numbers(tmp_path, capsys):
    reference = write_segments(tmp_path / "r.seg.nrrd", A + B, {1: "Right lung", 2: "Heart"})
    prediction = write_segments(tmp_path / "p.seg.nrrd", swapped(A + B), {1: "HEART", 2: "Lung_R"})
    record = compare(capsys, reference, prediction)
    assert scores(record) == {"Right lung": 1, "Heart": 1}
    assert record["warnings"] == []


def test_unknown_names_in_other_scripts_are_matched_too(tmp_path, capsys):
    reference = write_segments(tmp_path / "r.seg.nrrd", A + B, {1: "肝臓", 2: "दिल"})
    prediction = write_segments(tmp_path / "p.seg.nrrd", swapped(A + B), {1: "दिल", 2: "肝臓"})
    assert scores(compare(capsys, reference, prediction)) == {"肝臓": 1, "दिल": 1}


def test_a_label_map_is_matched_with_segments_by_value_and_that_is_said(tmp_path, capsys):
    reference = write_segments(tmp_path / "r.seg.nrrd", A + B, {1: "Right lung", 2: "Heart"})
    record = compare(capsys, reference, write_map(tmp_path / "p.nrrd", A + B))
    assert scores(record) == {"Right lung": 1, "Heart": 1}
    (warning,) = record["warnings"]
    assert "prediction names no structures: matched by label value (1 = Right lung, 2 = Heart)" in warning


def test_an_empty_label_map_needs_no_names(tmp_path, capsys):
    reference = write_segments(tmp_path / "r.seg.nrrd", A, {1: "Heart"})
    record = compare(capsys, reference, write_map(tmp_path / "p.nrrd", np.zeros(SHAPE, np.uint8)))
    assert scores(record) == {"Heart": 0}
    assert not any("names no structures" in text for text in record["warnings"])


def test_segmentations_are_matched_by_name_beside_one_without_any_segment(tmp_path, capsys):
    one = write_segments(tmp_path / "a.seg.nrrd", A + B, {1: "Right lung", 2: "Heart"})
    other = write_segments(tmp_path / "b.seg.nrrd", swapped(A + B), {1: "Heart", 2: "Right lung"})
    empty = write_segments(tmp_path / "c.seg.nrrd", np.zeros(SHAPE, np.uint8), {})
    record = record_of(capsys, "observers", one, other, empty)
    assert {row["pairs"][0]["dsc"] for row in record["structures"]} == {1}
    assert {row["observers"] for row in record["structures"]} == {3}


def test_files_that_name_one_value_otherwise_beside_one_without_names_are_refused(tmp_path, capsys):
    one = write_segments(tmp_path / "a.seg.nrrd", A, {1: "Heart"})
    other = write_segments(tmp_path / "b.seg.nrrd", A, {1: "Liver"})
    plain = write_map(tmp_path / "c.nrrd", A)
    assert "--labels" in refused(capsys, "observers", one, other, plain)


def test_names_can_be_given_for_all_label_maps_or_for_one(tmp_path, capsys):
    reference, prediction = (
        write_map(tmp_path / "r.nrrd", A + B),
        write_map(tmp_path / "p.nrrd", swapped(A + B)),
    )
    assert scores(compare(capsys, reference, prediction)) == {"label 1": 0, "label 2": 0}
    each = ("--labels", "reference:1=lungs,2=heart", "--labels", "prediction:2=Lungs,1=heart")
    assert scores(compare(capsys, reference, prediction, *each)) == {"Lungs": 1, "Heart": 1}
    both = ("--labels", "1=lungs,2=heart", "--labels", "prediction:2=lungs,1=heart")
    assert scores(compare(capsys, reference, prediction, *both)) == {"Lungs": 1, "Heart": 1}


def test_values_that_names_leave_out_are_counted(tmp_path, capsys):
    path = write_map(tmp_path / "r.nrrd", A + B)
    record = compare(capsys, path, write_map(tmp_path / "p.nrrd", A), "--labels", "1=lungs")
    assert scores(record) == {"Lungs": 1}
    assert record["notes"] == ["r.nrrd: --labels does not name the label(s) 2: 64 voxels were left out."]


def test_names_for_a_file_that_is_not_there_are_refused(tmp_path, capsys):
    path = write_map(tmp_path / "r.nrrd", A)
    text = refused(capsys, "compare", "-r", path, "-p", path, "--labels", "observer:1=heart", status=2)
    assert "there is no observer here" in text
    assert "reference, prediction" in text


def test_names_for_a_file_that_names_its_segments_are_refused(tmp_path, capsys):
    path = write_segments(tmp_path / "r.seg.nrrd", A, {1: "Heart"})
    words = ("compare", "-r", path, "-p", path, "--labels", "reference:1=lungs")
    assert "names its segments itself" in refused(capsys, *words, status=2)


def test_labels_none_of_which_is_common_are_refused_with_the_way_out(tmp_path, capsys):
    reference, prediction = write_map(tmp_path / "r.nrrd", A), write_map(tmp_path / "p.nrrd", B)
    text = refused(capsys, "compare", "-r", reference, "-p", prediction)
    assert "has label 1, the others have label 2: none in common" in text
    assert "--labels 'reference:1=NAME'" in text
    words = ("--labels", "reference:1=heart", "--labels", "prediction:2=heart")
    assert scores(compare(capsys, reference, prediction, *words)) == {"Heart": 0}


def test_two_names_for_one_structure_are_joined_as_the_refusal_says(tmp_path, capsys):
    reference = write_segments(tmp_path / "r.seg.nrrd", A, {1: "Liver"})
    prediction = write_segments(tmp_path / "p.seg.nrrd", A, {1: "Leber"})
    text = refused(capsys, "compare", "-r", reference, "-p", prediction)
    assert "--merge 'Leber=Leber+Liver'" in text
    assert scores(compare(capsys, reference, prediction, "--merge", "Leber=Leber+Liver")) == {"Leber": 1}


def test_two_segments_with_one_name_are_refused(tmp_path, capsys):
    path = write_segments(tmp_path / "r.seg.nrrd", A + B, {1: "Liver", 2: "LIVER"})
    assert "two are called" in refused(capsys, "compare", "-r", path, "-p", path)


def test_parts_are_merged_before_everything_else(tmp_path, capsys):
    reference = write_segments(tmp_path / "r.seg.nrrd", A + B, {1: "right lung", 2: "left lung"})
    prediction = write_segments(tmp_path / "p.seg.nrrd", (A + B > 0) * np.uint8(7), {7: "lungs"})
    text = refused(capsys, "compare", "-r", reference, "-p", prediction)
    assert "right and left: --merge 'lungs=right lung+left lung' takes them together." in " ".join(
        text.split()
    )
    record = compare(capsys, reference, prediction, "--merge", "lungs=right lung+left lung")
    assert scores(record) == {"Lungs": 1}
    assert record["warnings"] == []


def test_values_that_are_called_alike_are_one_structure(tmp_path, capsys):
    reference, prediction = (
        write_map(tmp_path / "r.nrrd", A + B),
        write_map(tmp_path / "p.nrrd", swapped(A + B)),
    )
    assert scores(compare(capsys, reference, prediction, "--labels", "1=lungs,2=Lung")) == {"Lungs": 1}


def test_values_can_be_merged(tmp_path, capsys):
    reference, prediction = (
        write_map(tmp_path / "r.nrrd", A + B),
        write_map(tmp_path / "p.nrrd", swapped(A + B)),
    )
    assert scores(compare(capsys, reference, prediction, "--merge", "lungs=1+2")) == {"Lungs": 1}


def test_a_part_that_no_file_has_is_said_and_parts_none_of_which_is_there_are_refused(tmp_path, capsys):
    path = write_segments(tmp_path / "r.seg.nrrd", A + B, {1: "right lung", 2: "left lung"})
    other = write_segments(tmp_path / "p.seg.nrrd", A, {1: "right lung"})
    record = compare(capsys, path, other, "--merge", "lungs=right lung+lft lung")
    assert "--merge lungs: no file has 'lft lung'." in record["warnings"]
    words = ("compare", "-r", path, "-p", other, "--merge", "head=nose+ear")
    assert "none of nose, ear is in the masks" in refused(capsys, *words)


def test_labels_of_any_size_keep_apart(tmp_path):
    labels = np.zeros(SHAPE, np.int32)
    labels[1, 1, 1], labels[2, 2, 2], labels[3, 3, 3] = 1, 300, 70000
    other = write_map(tmp_path / "b.nrrd", labels)
    masks = [
        read_masks(write_map(tmp_path / "a.nrrd", labels), "a", Reading()),
        read_masks(other, "b", Reading()),
    ]
    found = match(masks, Reading())
    assert list(found.structures) == [1, 300, 70000]
    assert all(np.array_equal(one, labels) for one in found.maps)


def test_a_free_number_is_found_for_a_structure_whose_own_is_taken(tmp_path):
    reading = Reading(parse_names(["a:1=heart", "b:1=liver,2=heart"]))
    masks = [
        read_masks(write_map(tmp_path / "a.nrrd", A), "a", reading),
        read_masks(write_map(tmp_path / "b.nrrd", swapped(A + B)), "b", reading),
    ]
    found = match(masks, reading)
    assert {label: one.key for label, one in found.structures.items()} == {1: "heart", 2: "liver"}
    assert np.array_equal(found.maps[1], A + B)
    assert found.drawn == (frozenset({1}), frozenset({1, 2}))


def test_a_structure_of_one_file_only_does_not_stop_the_others(tmp_path):
    reading = Reading(parse_names(["a:1=heart", "b:1=liver"]))
    masks = [read_masks(write_map(tmp_path / f"{name}.nrrd", A), name, reading) for name in "ab"]
    with pytest.raises(InputError, match="none in common"):
        match(masks, reading)


def test_segments_keep_their_names_though_3d_slicer_numbers_their_ids_alike(tmp_path, capsys):
    reference = write_segments(tmp_path / "r.seg.nrrd", A + B, {1: "Heart", 2: "Liver"})
    prediction = write_segments(tmp_path / "p.seg.nrrd", A + B, {1: "Heart", 2: "Leber"})
    assert scores(compare(capsys, reference, prediction)) == {"Heart": 1, "Liver": 0, "Leber": 0}


def test_structures_have_keys_that_differ_though_their_names_are_spelled_alike_in_ascii(tmp_path):
    names = {1: "Größe", 2: "Große", 3: "Gros̈e", 4: "肝臓", 5: "心臓"}
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 1, 1:6] = range(1, 6)
    masks = [
        read_masks(write_segments(tmp_path / f"{name}.seg.nrrd", labels, names), name, Reading())
        for name in "ab"
    ]
    found = match(masks, Reading()).structures
    assert [one.name for one in found.values()] == list(names.values())
    assert len({one.key for one in found.values()}) == 5


@pytest.mark.parametrize(
    "text", ["1", "1=", "=heart", "0=heart", "x=heart", "1=a,1=b", "", "-1=heart", "1.5=a"]
)
def test_names_that_cannot_be_understood_are_refused(text):
    with pytest.raises(OptionError, match="--labels: expected whole numbers"):
        parse_names([text])


@pytest.mark.parametrize(
    "texts", [["lungs"], ["lungs="], ["lungs=a"], ["=a+b"], ["lungs=a+"], ["x=a+b", "x=c+d"]]
)
def test_merges_that_cannot_be_understood_are_refused(texts):
    with pytest.raises(OptionError, match="--merge: expected a name and two parts"):
        parse_merge(texts)
