"""Which connected parts of a mask stay."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.postprocess.components import drop_border_components, drop_small_components


def mask_of(*slices):
    """A mask from slices of text: # is True."""
    return np.array([[[c == "#" for c in row] for row in rows] for rows in slices])


@pytest.mark.parametrize(("limit", "left"), [(1, 5), (2, 5), (3, 3), (4, 0)])
def test_components_of_the_limit_stay_and_smaller_ones_go(limit, left):
    mask = mask_of(["##.", "...", "###"])
    assert drop_small_components(mask, limit, 6).sum() == left


@pytest.mark.parametrize(
    ("connectivity", "faces", "edges", "corners"), [(6, 2, 0, 0), (18, 2, 2, 0), (26, 2, 2, 2)]
)
def test_parts_belong_together_by_faces_edges_or_corners(connectivity, faces, edges, corners):
    def left(one, two):
        mask = np.zeros((2, 2, 2), bool)
        mask[one] = mask[two] = True
        return drop_small_components(mask, 2, connectivity).sum()

    assert left((0, 0, 0), (0, 0, 1)) == faces
    assert left((0, 0, 0), (0, 1, 1)) == edges
    assert left((0, 0, 0), (1, 1, 1)) == corners


def test_in_slices_every_slice_stands_for_itself_and_diagonals_hold_together():
    mask = mask_of(["#..", ".#.", "..#"], ["#..", "...", "..#"])
    kept = drop_small_components(mask, 2, 26, in_slices=True)
    assert kept[0].sum() == 3 and kept[1].sum() == 0
    assert drop_small_components(mask, 2, 26).sum() == 5


def test_an_empty_mask_stays_empty():
    empty = np.zeros((2, 3, 4), bool)
    assert not drop_small_components(empty, 3, 26).any()
    assert not drop_border_components(empty).any()


@pytest.mark.parametrize("limit", [0, 1])
def test_background_never_becomes_a_component(limit):
    mask = mask_of(["#..", "..."])
    np.testing.assert_array_equal(drop_small_components(mask, limit, 6), mask)


@pytest.mark.parametrize(
    "side",
    [(2, 0, 2), (2, 4, 2), (2, 2, 0), (2, 2, 4)],
    ids=["first row", "last row", "first column", "last column"],
)
def test_what_touches_a_side_goes(side):
    mask = np.zeros((5, 5, 5), bool)
    mask[side] = mask[2, 2, 2] = True
    kept = drop_border_components(mask)
    assert not kept[side] and kept.sum() == 1


@pytest.mark.parametrize("k", [0, 4])
def test_what_leaves_at_the_ends_of_the_stack_stays(k):
    mask = np.zeros((5, 5, 5), bool)
    mask[k, 2, 2] = True
    np.testing.assert_array_equal(drop_border_components(mask), mask)


def test_all_of_a_component_goes_with_the_part_that_touches():
    mask = np.zeros((3, 5, 5), bool)
    mask[1, 2, 0:4] = mask[2, 2, 3] = True
    assert not drop_border_components(mask).any()
