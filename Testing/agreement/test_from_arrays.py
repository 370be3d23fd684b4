"""Masks in memory are compared as masks in files are: same matching, same refusals, same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from Testing.agreement.making import SHAPE, box, write_segments
from thoraxseg.agreement.grids import Onto
from thoraxseg.agreement.masks import Reading, masks_from
from thoraxseg.agreement.measuring import Measuring
from thoraxseg.agreement.observers import observers
from thoraxseg.agreement.remedies import Remedies
from thoraxseg.agreement.scan import Absent, drawn_from
from thoraxseg.agreement.scan_scores import scan_scores
from thoraxseg.checkpoints.structures import other
from thoraxseg.errors import InputError
from thoraxseg.segmentation import ANATOMICAL, STRUCTURES, Code, Segmentation, Terminology
from thoraxseg.volume import geometry_from_spacing

GRID = geometry_from_spacing((1.0, 1.0, 1.0), "LPS")
LIVER = Terminology(ANATOMICAL, Code("SCT", "10200004", "Liver"))
HERE = Remedies(
    "press R", "Pressing P does it", "draw an empty one", "press M", "Merging into ", "call both {mine}"
)


def segmentation(labels, names, grid=GRID, name="masks"):
    return Segmentation(
        labels,
        grid,
        {
            n: STRUCTURES[one] if one in STRUCTURES else replace(other(one, n), name=one)
            for n, one in names.items()
        },
        name,
    )


def drawn(*segmentations, names=("Ann", "Ben", "Chris"), onto=None, **reading):
    masks = [masks_from(one, name) for one, name in zip(segmentations, names, strict=False)]
    return drawn_from("a scan", masks, Reading(remedies=HERE, **reading), onto=onto)


A, B, C = (box((2, 4, at), (2, 4, 4)) for at in (4, 6, 8))


def test_three_shifted_boxes_agree_as_on_paper():
    """Boxes of 32 voxels, each moved by half: pairs share 16, 16 and 0, their unions hold 48, 48 and 64."""
    (row,) = scan_scores(drawn(*(segmentation(one, {1: "heart"}) for one in (A, B, C))), Measuring())
    assert row["cigen"] == 32 / 160
    assert [pair["dsc"] for pair in row["pairs"]] == [0.5, 0.0, 0.5]
    assert row["observers"] == 3
    assert row["consensus_voxels"] == {"majority": 32, "all": 0}


def test_arrays_give_the_record_of_the_same_masks_in_files(tmp_path):
    names = {1: "Heart", 2: "Thymus"}
    maps = [A + 2 * box((6, 2, 2), (3, 3, n + 2)) for n in range(3)]
    paths = [
        write_segments(tmp_path / f"{name}.seg.nrrd", labels, names)
        for name, labels in zip("abc", maps, strict=True)
    ]
    of_files = observers(paths).record["structures"]
    found = drawn(*(segmentation(labels, names) for labels in maps), names="abc")
    assert scan_scores(found, Measuring()) == of_files


def test_a_structure_without_a_voxel_is_an_empty_mask_and_a_missing_one_is_not_contoured():
    both = segmentation(A + 2 * box((6, 2, 2), (3, 3, 3)), {1: "heart", 2: "left_lung"})
    empty = segmentation(B, {1: "heart", 2: "left_lung"})
    none = segmentation(B, {1: "heart"})
    lung = scan_scores(drawn(both, empty), Measuring())[1]
    assert (lung["observers"], lung["cigen"]) == (2, 0.0)
    found = drawn(both, none)
    lung = scan_scores(found, Measuring())[1]
    assert (lung["observers"], lung["cigen"]) == (1, None)
    assert found.decided == (
        "Left lung: Ben has none; taken as not contoured, so it is left out there (draw an empty one).",
    )


def test_absent_structures_can_be_counted_as_empty():
    both = segmentation(A + 2 * box((6, 2, 2), (3, 3, 3)), {1: "heart", 2: "left_lung"})
    masks = [masks_from(both, "Ann"), masks_from(segmentation(A, {1: "heart"}), "Ben")]
    found = drawn_from("a scan", masks, Reading(), Absent.EMPTY)
    assert scan_scores(found, Measuring())[1]["cigen"] == 0.0


def test_a_segment_is_known_by_its_code_where_its_name_says_nothing():
    coded = Segmentation(A, GRID, {1: replace(STRUCTURES["heart"], name="Segment_1")}, "coded")
    found = drawn(segmentation(A, {1: "heart"}), coded)
    assert [one.key for one in found.matched.structures.values()] == ["heart"]
    assert found.matched.notes == ("Ben: 'Segment_1' is taken as Heart, which its code says.",)


def test_a_name_and_a_code_of_two_structures_are_refused():
    wrong = Segmentation(A, GRID, {1: replace(STRUCTURES["heart"], name="Lung_L")}, "wrong")
    with pytest.raises(InputError, match=r"wrong: segment 'Lung_L'.*code of Heart"):
        masks_from(wrong, "Ann")


def test_a_side_in_the_name_refines_a_code_without_side():
    sided = Segmentation(A, GRID, {1: replace(STRUCTURES["lungs"], name="Lung_L")}, "sided")
    assert masks_from(sided, "Ann").structures[1].key == "left_lung"


def liver(labels, name):
    return Segmentation(
        labels, GRID, {1: replace(other(name, 1), name=name, terminology=LIVER)}, f"{name} masks"
    )


def test_unknown_structures_with_one_code_are_one():
    found = drawn(liver(A, "Liver"), liver(B, "Leber"))
    (row,) = scan_scores(found, Measuring())
    assert (row["name"], row["observers"]) == ("Liver", 2)
    assert "Leber of Ben is taken as Liver of Ann: both have the code Liver." in found.matched.notes


def test_two_structures_of_one_observer_with_one_code_stay_two():
    two = Segmentation(
        A + 2 * box((6, 2, 2), (3, 3, 3)),
        GRID,
        {n: replace(other(name, n), name=name, terminology=LIVER) for n, name in ((1, "Liver"), (2, "Node"))},
        "two",
    )
    rows = scan_scores(drawn(two, liver(B, "Liver")), Measuring())
    assert {row["name"]: row["observers"] for row in rows} == {"Liver": 2, "Node": 1}


def test_lungs_can_be_merged():
    sides = segmentation(A + 2 * C, {1: "right_lung", 2: "left_lung"})
    whole = segmentation(np.minimum(A + C, 1), {1: "lungs"})
    halves = segmentation(A, {1: "right_lung", 2: "heart"})
    mixed = segmentation(A, {1: "lungs", 2: "heart"})
    assert any("press M" in text for text in drawn(halves, mixed).matched.warnings)
    (row,) = scan_scores(drawn(sides, whole, merge={"lungs": ("right lung", "left lung")}), Measuring())
    assert (row["name"], row["cigen"]) == ("Lungs", 1.0)


def test_another_grid_is_refused_with_the_advice_of_the_shell():
    moved = GRID.copy()
    moved[0, 3] += 0.4
    one, two = segmentation(A, {1: "heart"}), segmentation(A, {1: "heart"}, moved, "Ben's")
    with pytest.raises(InputError, match=r"Ben's: expected the grid of masks.*0\.4 voxels.*or press R\."):
        drawn(one, two)
    assert any("nearest neighbors" in note for note in drawn(one, two, resample=True).matched.notes)


def test_all_lie_on_the_grid_that_is_wanted():
    whole = Onto("the CT", SHAPE, GRID)
    part = segmentation(A[1:], {1: "heart"}, GRID @ _moved(k=1), "part")
    with pytest.raises(InputError, match=r"part: expected the grid of the CT.*Pressing P does it"):
        drawn(part, segmentation(A, {1: "heart"}), onto=whole)
    found = drawn(part, segmentation(A, {1: "heart"}), onto=whole, resample=True)
    assert scan_scores(found, Measuring())[0]["cigen"] == 1.0
    assert found.matched.maps[0].shape == SHAPE


def _moved(k):
    matrix = np.eye(4)
    matrix[2, 3] = k
    return matrix


def test_observers_with_nothing_in_common_are_told_what_to_do():
    with pytest.raises(InputError, match=r"none in common.*call both Left lung"):
        drawn(segmentation(A, {1: "left_lung"}), segmentation(A, {1: "heart"}))


def test_swapped_lungs_are_said():
    one = segmentation(A + 2 * C, {1: "right_lung", 2: "left_lung"})
    two = segmentation(A + 2 * C, {2: "right_lung", 1: "left_lung"})
    assert any("right and left look swapped" in text for text in drawn(one, two).decided)


def test_one_and_the_same_mask_twice_is_said():
    one = segmentation(A, {1: "heart"})
    assert any("have the same content" in text for text in drawn(one, one).matched.warnings)
    assert not drawn(one, segmentation(B, {1: "heart"})).matched.warnings


def test_the_record_of_a_mask_says_what_it_is():
    record = masks_from(segmentation(A, {1: "heart"}, name="Ann's"), "Ann").to_record()
    assert record["role"] == "Ann"
    assert record["name"] == "Ann's"
    assert record["labels"] == {"1": "Heart"}
    assert (
        record["sha256"]
        != masks_from(segmentation(B, {1: "heart"}, name="Ann's"), "Ann").to_record()["sha256"]
    )
