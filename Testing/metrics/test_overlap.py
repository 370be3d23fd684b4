"""Dice: known on paper, symmetric, and defined where masks are empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from thoraxseg.errors import InputError
from thoraxseg.metrics import dice

MASKS = arrays(bool, (3, 4, 2))


def mask(*voxels, shape=(4, 5, 6)):
    found = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        found[voxel] = True
    return found


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([(0, 0, 0)], [(0, 0, 0)], 1.0),
        ([(0, 0, 0)], [(0, 0, 1)], 0.0),
        ([(0, 0, 0), (0, 0, 1)], [(0, 0, 1)], 2 / 3),
        ([(0, 0, 0), (0, 0, 1), (0, 0, 2)], [(0, 0, 2), (0, 0, 3), (0, 0, 4)], 1 / 3),
        ([], [(0, 0, 1)], 0.0),
        ([], [], 1.0),
    ],
)
def test_dice_of_masks_known_on_paper(one, other, expected):
    assert dice(mask(*one), mask(*other)) == expected
    assert dice(mask(*other), mask(*one)) == expected


def test_two_boxes_that_share_an_eighth():
    one, other = np.zeros((2, 8, 8, 8), dtype=bool)
    one[:4, :4, :4] = True
    other[2:6, 2:6, 2:6] = True
    assert dice(one, other) == 2 * 8 / (64 + 64)


def test_counts_beyond_16_bits_do_not_overflow():
    whole = np.ones((100, 100, 100), dtype=bool)
    half = whole.copy()
    half[:50] = False
    assert dice(whole, half) == 2 * 500_000 / 1_500_000


@given(MASKS, MASKS)
def test_dice_is_symmetric_from_0_to_1_and_1_for_equal_masks_only(one, other):
    found = dice(one, other)
    assert 0 <= found <= 1
    assert found == dice(other, one)
    assert (found == 1) == np.array_equal(one, other)


@given(MASKS, MASKS)
def test_dice_is_that_of_sets(one, other):
    first, second = (set(map(tuple, np.argwhere(item))) for item in (one, other))
    total = len(first) + len(second)
    assert dice(one, other) == (2 * len(first & second) / total if total else 1)


@pytest.mark.parametrize("shape", [(5, 4, 6), (4, 5), (4, 5, 1), ()])
def test_masks_of_other_shapes_are_refused_and_never_broadcast(shape):
    with pytest.raises(InputError, match=r"expected masks of one shape, got \(4, 5, 6\) and"):
        dice(mask(), np.ones(shape, dtype=bool))
