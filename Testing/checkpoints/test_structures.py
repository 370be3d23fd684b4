"""Names of labels become structures: ours where the name is known, no side where none is said, never two alike."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thoraxseg.checkpoints.fields import FieldError
from thoraxseg.checkpoints.structures import all_different, from_json, has_side, key_of, named, other, to_json
from thoraxseg.segmentation import STRUCTURES, Structure, Terminology


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("heart", "heart"),
        ("Heart", "heart"),
        ("HEART", "heart"),
        ("spinal cord", "spinal_cord"),
        ("Spinal_Cord", "spinal_cord"),
        ("SpinalCord", "spinal_cord"),
        ("spinalcord", "spinal_cord"),
        ("lung", "lungs"),
        ("lungs", "lungs"),
        ("total lung", "lungs"),
        ("Lung_R", "right_lung"),
        ("lung_l", "left_lung"),
        ("right lung", "right_lung"),
        ("Right Lung", "right_lung"),
        ("rightLung", "right_lung"),
        ("lung-right", "right_lung"),
        ("left lungs", "left_lung"),
        ("LT lung", "left_lung"),
        ("rt. lung", "right_lung"),
        ("tumor", "tumors"),
        ("Tumours", "tumors"),
        ("lung tumor", "tumors"),
        ("lung_cancer", "tumors"),
        ("metastases", "tumors"),
        ("cancer", "tumors"),
    ],
)
def test_a_known_name_in_any_spelling_is_our_structure(name, key):
    assert named(name, 9) is STRUCTURES[key]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "lung 1",
            "lung1",
            "left right lung",
            "l r lung",
            "lung lobe",
            "right",
            "L",
            "lung tumor right",
            "RLung",
        ),
        *(
            "right heart",
            "liver",
            "left kidney",
            "lung_upper_lobe_left",
            "not lung",
            "mass",
            "2",
            "",
            "_",
            "lung?l?r",
        ),
        # A letter after one that is not of the alphabet is no word of its own, and so no side.
        *("lung\xe9r", "Lung\xf6 l\xe4", "lung\u0301r", "\xe9r lungs_\xe9l", "\u80baL lung"),
    ],
    ids=ascii,
)
def test_any_other_name_is_a_structure_of_its_own_and_no_side_is_guessed(name):
    found = named(name, 9)
    assert found == other(name, 9)
    assert found.key not in STRUCTURES
    assert found.terminology.type.meaning == "Tissue"


@pytest.mark.parametrize(
    ("name", "key", "shown"),
    [
        ("liver", "liver", "Liver"),
        ("Left_kidney", "left_kidney", "Left kidney"),
        ("Leber (Lappen 2)", "leber_lappen_2", "Leber (Lappen 2)"),
        ("Tum\xf6r", "tumor", "Tum\xf6r"),
        ("M\xfcller", "muller", "M\xfcller"),
        ("\u80ba", "label_9", "\u80ba"),
        ("", "label_9", "Label 9"),
        ("  _ ", "label_9", "Label 9"),
        ("lungs?", "label_9", "Lungs?"),
        ("x" * 300, "x" * 60, "X" + "x" * 79),
        ("\xdf" * 300, "label_9", "SS" + "\xdf" * 78),
        ("a\nb\x1b[31m\ud800c\u202ed", "a_b_31m_c_d", "A b [31m c d"),
    ],
    ids=ascii,
)
def test_a_new_structure_has_a_plain_key_and_a_name_for_people(name, key, shown):
    found = other(name, 9)
    assert (found.key, found.name) == (key, shown)


def test_labels_side_by_side_have_colors_that_can_be_told_apart():
    colors = [other("x", label).color for label in range(1, 30)]
    assert len(set(colors)) == len(colors)
    for one, next_one in pairwise(colors):
        assert max(abs(a - b) for a, b in zip(one, next_one, strict=True)) > 0.2


@given(st.dictionaries(st.integers(1, 255), st.text(max_size=12), max_size=8))
def test_whatever_labels_are_called_their_keys_differ_and_a_card_can_hold_them(names):
    found = all_different({label: named(name, label) for label, name in names.items()})
    assert list(found) == list(names)
    assert len({structure.key for structure in found.values()}) == len(names)
    for structure in found.values():
        told = json.loads(json.dumps(to_json(structure)).encode("utf-8"))
        assert from_json(told, "card.labels") == structure


def test_of_two_labels_of_one_name_the_first_is_it_and_the_second_another():
    found = all_different({n: named("lung", n) for n in (1, 2, 3)})
    assert found[1] is STRUCTURES["lungs"]
    assert [(found[n].key, found[n].name) for n in (2, 3)] == [("lungs_2", "Lungs 2"), ("lungs_3", "Lungs 3")]


def test_names_made_to_collide_still_differ():
    lungs = STRUCTURES["lungs"]
    taken = {1: other("lungs 4", 1), 2: other("label 4", 2), 3: lungs, 4: lungs, 5: other("label 5", 5)}
    assert [one.key for one in all_different(taken).values()] == [
        "lungs_4",
        "label_4",
        "lungs",
        "label_5",
        "label_5_5",
    ]


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_our_structures_stand_in_a_card_by_their_key_alone(structure):
    assert to_json(structure) == structure.key
    assert from_json(structure.key, "card.labels.1") is structure


def test_a_structure_like_ours_but_changed_is_written_out(tmp_path):
    ours = STRUCTURES["heart"]
    changed = Structure("my_heart", "Heart", (0.0, 0.5, 1.0), ours.terminology)
    assert from_json(to_json(changed), "x") == changed
    assert isinstance(to_json(Structure("heart", "Heart", (0.0, 0.5, 1.0), ours.terminology)), dict)


CODES = "a~A^1^A~T^2^T~^^~r~^^~^^"
WHOLE = {"key": "liver", "name": "Liver", "color": [0, 0.5, 1], "terminology": CODES}


def test_a_whole_description_is_read():
    found = from_json(WHOLE, "card.labels.1")
    assert (found.key, found.name, found.color) == ("liver", "Liver", (0.0, 0.5, 1.0))
    assert found.terminology == Terminology.from_slicer(CODES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("gills", "unknown structure 'gills'; known are heart"),
        (None, "must be an object"),
        (["heart"], "must be an object"),
        ({"key": "heart"}, "'heart' is a structure of ThoraxSeg; name it by its key alone"),
        ({"key": "../x"}, "key must be a plain name"),
        ({"key": ""}, "key must be a plain name"),
        ({"key": 3}, "key must be text"),
        ({"name": ""}, "name must have 1 to 80 characters"),
        ({"name": "x" * 81}, "name must have 1 to 80 characters"),
        ({"name": "a\x1b[31m"}, "name must have 1 to 80 characters, all printable"),
        ({"name": "a\nSegment9_ID:=evil"}, "all printable"),
        ({"name": "\ud800"}, "all printable"),
        ({"color": [0, 0.5]}, "color must be a list of 3"),
        ({"color": [0, 0.5, 1.01]}, "color must be red, green and blue from 0 to 1"),
        ({"color": [0, -0.1, 1]}, "color must be red, green and blue from 0 to 1"),
        ({"color": [0, float("nan"), 1]}, "color[1] must be a finite number"),
        ({"terminology": "Liver"}, "terminology must be a terminology entry of 3D Slicer"),
        ({"terminology": CODES + "~x"}, "terminology must be a terminology entry"),
        ({"terminology": CODES.replace("T^2", "T|x^2")}, "terminology must be a terminology entry"),
        ({"terminology": CODES.replace("T^2", "T\n^2")}, "terminology must be a terminology entry"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
    ids=ascii,
)
def test_a_description_that_a_file_could_not_hold_is_refused_by_name(change, words):
    value = WHOLE | change if isinstance(change, dict) else change
    with pytest.raises(FieldError) as caught:
        from_json(value, "card.labels.1")
    assert words in str(caught.value) and str(caught.value).startswith(("card.labels.1", "unknown key"))


@pytest.mark.parametrize("missing", WHOLE)
def test_a_description_lacks_nothing(missing):
    with pytest.raises(FieldError, match=f"key '{missing}' is missing in card.labels.1"):
        from_json({key: value for key, value in WHOLE.items() if key != missing}, "card.labels.1")


@pytest.mark.parametrize(
    ("name", "sided"),
    [
        ("right lung", True),
        ("left_kidney", True),
        ("Kidney L", True),
        ("kidneyR", True),
        ("lobe lt", True),
        ("lungs", False),
        ("liver", False),
        ("Tum\xf6r", False),
        ("leftover", False),
        ("spinal cord", False),
    ],
)
def test_a_structure_has_a_side_when_a_word_of_its_name_says_one(name, sided):
    assert has_side(named(name, 3)) == sided


@pytest.mark.parametrize(
    ("key", "name", "meant"),
    [
        ("Segment_1", "Left lung", "left_lung"),
        ("right_lung", "Left lung", "left_lung"),
        ("Segment_2", "Aorta", "Segment_2"),
        ("heart", "Heart", "heart"),
    ],
)
def test_a_segment_is_what_its_name_says_whatever_its_id(key, name, meant):
    assert key_of(Structure(key, name, (0, 0, 0), STRUCTURES["heart"].terminology)) == meant
