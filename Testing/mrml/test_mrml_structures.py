"""What a segment is taken for: name before codes before ID, never a silent swap of sides."""

from __future__ import annotations

import pytest

from thoraxseg.errors import InputError
from thoraxseg.mrml.structures import TISSUE, SegmentFacts, structures_of
from thoraxseg.segmentation import STRUCTURES, Code, Terminology

GRAY = (0.5, 0.5, 0.5)
LIVER = Terminology(Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "10200004", "Liver"))


def facts(key="Segment_1", name="Segment_1", terminology=None, color=GRAY, label=None):
    return SegmentFacts(key, name, color, terminology, label)


def own(key):
    known = STRUCTURES[key]
    return facts(key, known.name, known.terminology, known.color, label=1)


def keys_of(*segments):
    return [structure.key for structure in structures_of(segments)]


def test_known_structures_come_back_as_they_are_in_the_table():
    assert structures_of([own(key) for key in STRUCTURES]) == list(STRUCTURES.values())


@pytest.mark.parametrize("key", STRUCTURES)
def test_codes_survive_slicers_string(key):
    terminology = STRUCTURES[key].terminology
    assert Terminology.from_slicer(terminology.to_slicer()) == terminology


@pytest.mark.parametrize("text", ["", "a~b", "x~1^2~a^b^c~^^~y~^^~^^"])
def test_a_damaged_code_string_is_no_code(text):
    assert Terminology.from_slicer(text) is None


@pytest.mark.parametrize("name", ["Right lung", "right_lung", "RIGHT LUNG", " Right-Lung "])
def test_a_name_is_recognized_however_it_is_written(name):
    assert keys_of(facts(name=name, terminology=TISSUE)) == ["right_lung"]


def test_codes_are_recognized_under_any_name():
    assert keys_of(facts(name="Herz", terminology=STRUCTURES["heart"].terminology)) == ["heart"]


def test_an_id_counts_only_where_there_are_no_codes():
    assert keys_of(facts("heart", "Herz", TISSUE)) == ["heart"]
    assert keys_of(facts("heart", "Herz")) == ["heart"]
    assert keys_of(facts("heart", "Liver", LIVER)) == ["liver"]


def test_renaming_a_lung_to_the_other_side_is_obeyed_or_asked_about():
    assert keys_of(facts("left_lung", "Right lung", STRUCTURES["right_lung"].terminology)) == ["right_lung"]
    with pytest.raises(InputError, match=r"'Right lung'.*codes of 'Left lung'"):
        structures_of([facts("left_lung", "Right lung", STRUCTURES["left_lung"].terminology)])


def test_a_name_may_say_the_side_that_the_codes_leave_open():
    lung = STRUCTURES["lungs"].terminology
    assert keys_of(facts(name="Left lung", terminology=lung), facts(name="Right lung", terminology=lung)) == [
        "left_lung",
        "right_lung",
    ]


def test_a_name_may_not_drop_the_side_that_the_codes_say():
    with pytest.raises(InputError, match="expected name and codes of one structure"):
        structures_of([facts(name="Lungs", terminology=STRUCTURES["left_lung"].terminology)])


def test_a_second_segment_of_a_structure_becomes_a_new_one():
    mass = STRUCTURES["tumors"].terminology
    first, second, named = structures_of(
        [facts(name="A", terminology=mass), facts(name="B", terminology=mass), own("tumors")]
    )
    assert (named.key, first.key, second.key) == ("tumors", "a", "b")
    assert second.terminology == mass


def test_new_structures_keep_name_color_and_codes_and_get_keys_fit_for_file_names():
    structures = structures_of(
        [facts(name="../Leber ß"), facts(name="腫瘍"), facts(name="腫瘍"), facts("x", "Liver", LIVER)]
    )
    assert [s.key for s in structures] == ["leber_ss", "segment", "segment_2", "liver"]
    assert [s.name for s in structures] == ["../Leber ß", "腫瘍", "腫瘍", "Liver"]
    assert structures[0].terminology == TISSUE
    assert structures[3].terminology == LIVER
    assert structures[0].color == GRAY


def test_a_structure_of_our_own_making_keeps_its_key():
    assert keys_of(facts("lesion-2b", "Heart", TISSUE, label=3)) == ["lesion-2b"]
    assert keys_of(facts("../../etc", "Thing", TISSUE, label=3)) == ["thing"]
