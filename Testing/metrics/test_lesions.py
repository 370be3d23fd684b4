"""Tumors one by one: which are found, missed and invented, on arrangements that can be checked by eye."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics.lesions import match_label_lesions, match_lesions

MASKS = arrays(bool, (4, 3, 5))


def line(*spans, length=40):
    """A mask whose row holds voxels start to stop (not included) of each span."""
    found = np.zeros((3, 3, length), dtype=bool)
    for start, stop in spans:
        found[1, 1, start:stop] = True
    return found


def test_one_lesion_found_one_missed_one_invented():
    found = match_lesions(line((0, 6), (10, 14)), line((2, 8), (20, 21)), 0.5)
    assert (found.matched, found.missed, found.false) == (1, 1, 1)
    assert found.precision == found.recall == found.f1 == 1 / 2
    assert [(x.number, x.voxels, x.volume_mm3, x.match, x.touches) for x in found.reference] == [
        (1, 6, 3.0, 1, True),
        (2, 4, 2.0, None, False),
    ]
    assert [(x.number, x.voxels, x.volume_mm3, x.match) for x in found.prediction] == [
        (1, 6, 3.0, 1),
        (2, 1, 0.5, None),
    ]
    assert found.reference[0].dice == found.prediction[0].dice == 2 * 4 / 12
    assert found.reference[0].iou == found.prediction[0].iou == 4 / 8
    assert found.reference[1].dice == found.prediction[1].dice == 0
    assert found.mean_dice_matched == 2 / 3 and found.mean_dice_reference == 1 / 3


def test_lesions_are_numbered_from_the_largest_and_equal_ones_by_place():
    found = match_lesions(line((0, 2), (5, 9), (15, 17)), line((15, 17), (5, 9)), 1)
    assert [x.voxels for x in found.reference] == [4, 2, 2]
    assert [x.match for x in found.reference] == [1, None, 2]
    assert [x.match for x in found.prediction] == [1, 3]


def test_a_prediction_over_two_lesions_is_matched_with_the_one_it_fits_better():
    found = match_lesions(line((0, 4), (6, 13)), line((0, 13)), 1)
    assert (found.matched, found.missed, found.false) == (1, 1, 0)
    assert found.reference[0].voxels == 7 and found.reference[0].match == 1
    assert found.reference[0].iou == 7 / 13
    assert found.reference[1].match is None and found.reference[1].touches
    assert found.to_dict()["reference_touched"] == 2 and found.to_dict()["prediction_touched"] == 1


def test_a_lesion_in_two_pieces_leaves_the_smaller_piece_false():
    found = match_lesions(line((0, 10)), line((0, 3), (4, 10)), 1)
    assert (found.matched, found.missed, found.false) == (1, 0, 1)
    assert found.reference[0].dice == 2 * 6 / 16


def test_the_best_pair_comes_first_even_where_others_would_match_more_lesions():
    # References 0-9 and 12-13, predictions 2-13 and 0-1: 2-13 fits the first best (8/14 against 2/12), so that the
    # second stays missed and 0-1 false, although crossing over would match all four.
    found = match_lesions(line((0, 10), (12, 14)), line((2, 14), (0, 1)), 1)
    assert [x.match for x in found.reference] == [1, None]
    assert [x.match for x in found.prediction] == [1, None]
    assert all(x.touches for x in (*found.reference, *found.prediction))


@pytest.mark.parametrize(("min_iou", "matched"), [(0, 2), (0.3, 2), (0.35, 1), (0.5, 1), (0.51, 0), (1, 0)])
def test_a_least_iou_may_be_asked_for_and_reaching_it_suffices(min_iou, matched):
    # IoU 4/8 and 2/6
    found = match_lesions(line((0, 6), (10, 15)), line((2, 8), (13, 16)), 1, min_iou=min_iou)
    assert (found.matched, found.missed, found.false) == (matched, 2 - matched, 2 - matched)


@pytest.mark.parametrize(("connectivity", "lesions"), [(6, 4), (18, 2), (26, 1)])
def test_edges_join_lesions_and_corners_do_not_unless_told_otherwise(connectivity, lesions):
    chain = np.zeros((4, 4, 4), bool)
    chain[0, 0, 0] = chain[0, 1, 1] = True  # share an edge
    chain[1, 2, 2] = chain[2, 2, 3] = True  # a corner with the first two, an edge with each other
    found = match_lesions(chain, chain, 1, connectivity)
    assert len(found.reference) == found.matched == lesions
    assert found.f1 == found.mean_dice_reference == 1
    if connectivity == 18:
        assert match_lesions(chain, chain, 1) == found


def test_what_cannot_be_divided_is_undefined_with_a_reason():
    nothing, one = line(), line((3, 5))
    none = match_lesions(nothing, nothing, 1).to_dict()
    assert [
        none[key] for key in ("precision", "recall", "f1", "mean_dice_matched", "mean_dice_reference")
    ] == [None] * 5
    assert none["undefined"]["f1"] == "neither mask has a lesion"
    missed = match_lesions(one, nothing, 1).to_dict()
    assert (missed["missed"], missed["recall"], missed["f1"], missed["mean_dice_reference"]) == (1, 0, 0, 0)
    assert missed["undefined"] == {
        "precision": "no lesion is predicted",
        "mean_dice_matched": "no lesion is matched",
    }
    invented = match_lesions(nothing, one, 1).to_dict()
    assert (invented["false"], invented["precision"], invented["f1"]) == (1, 0, 0)
    assert set(invented["undefined"]) == {"recall", "mean_dice_matched", "mean_dice_reference"}


def test_more_lesions_than_16_bits_count_are_all_told_apart():
    dots = np.zeros((90, 90, 90), bool)
    dots[::2, ::2, ::2] = True  # 45 x 45 x 45 = 91125
    found = match_lesions(dots, dots, 1)
    assert len(found.reference) == found.matched == 45**3


def test_a_label_among_others_has_the_lesions_of_its_mask():
    one, other = np.random.default_rng(5).integers(0, 4, (2, 9, 8, 7)).astype(np.int32) * 1000
    assert match_label_lesions(one, other, 2000, 0.3) == match_lesions(one == 2000, other == 2000, 0.3)


@given(MASKS, MASKS)
def test_counts_add_up_and_every_match_is_mutual(one, other):
    found = match_lesions(one, other, 2)
    assert sum(x.voxels for x in found.reference) == one.sum()
    assert sum(x.voxels for x in found.prediction) == other.sum()
    for lesion in found.reference:
        if lesion.match is not None:
            partner = found.prediction[lesion.match - 1]
            assert partner.match == lesion.number and partner.dice == lesion.dice > 0
    assert sum(x.match is not None for x in found.prediction) == found.matched
    # Best first leaves no pair that touches with both its lesions unmatched.
    assert not (any(x.touches and x.match is None for x in found.reference) and found.matched == 0)
    json.dumps(found.to_dict(), allow_nan=False)


def test_masks_and_rules_that_make_no_sense_are_refused():
    mask = line((1, 3))
    with pytest.raises(InputError, match="prediction: expected a bool mask"):
        match_lesions(mask, mask[:2], 1)
    with pytest.raises(InputError, match="reference: expected a bool mask"):
        match_lesions(mask.astype(int), mask, 1)
    with pytest.raises(OptionError, match="connectivity: expected 6, 18 or 26"):
        match_lesions(mask, mask, 1, connectivity=8)
    with pytest.raises(OptionError, match="min_iou: expected 0 to 1"):
        match_lesions(mask, mask, 1, min_iou=float("nan"))
