"""Closing and opening; the border of the image takes nothing away."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_closing

from thoraxseg.postprocess.morphology import close_ball, close_slices, open_ball


def slice_of(*rows):
    return np.array([[[c == "#" for c in row] for row in rows]])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(["##.#"], ["####"], id="a gap of one is closed"),
        pytest.param(["#..#"], ["####"], id="a gap of two is closed"),
        pytest.param(["#...#"], ["#...#"], id="a gap of three is not"),
        pytest.param(["###", "#.#", "###"], ["###", "###", "###"], id="a hole is filled"),
        pytest.param(
            ["#..", "...", "..#"], ["#..", "...", "..#"], id="pixels across a corner are not joined"
        ),
        pytest.param(["#"], ["#"], id="a pixel stays a pixel"),
    ],
)
def test_a_slice_is_closed_with_a_3_x_3_square(before, after):
    wide = (0, 0), (2, 2), (2, 2)
    found = close_slices(np.pad(slice_of(*before), wide))
    np.testing.assert_array_equal(found, np.pad(slice_of(*after), wide))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(["#...", "....", "...."], ["#...", "....", "...."], id="at the corner nothing is lost"),
        pytest.param(
            [".#..", "....", "...."], ["##..", "....", "...."], id="a gap of one to the border is closed"
        ),
        pytest.param(
            ["..#.....", "........", "........"],
            ["..#.....", "........", "........"],
            id="a gap of two is not",
        ),
        pytest.param(
            ["#.#....", ".......", "......."], ["###....", ".......", "......."], id="a gap along the border"
        ),
    ],
)
def test_beyond_the_border_nothing_erodes(before, after):
    np.testing.assert_array_equal(close_slices(slice_of(*before)), slice_of(*after))


def test_slices_do_not_close_one_another():
    mask = np.zeros((3, 5, 5), bool)
    mask[0, 2, 2] = mask[2, 2, 2] = True
    np.testing.assert_array_equal(close_slices(mask), mask)


def test_at_the_border_the_published_rule_differs_from_plain_scipy():
    mask = slice_of("##..", "##..", "....")
    assert (close_slices(mask) >= mask).all()
    assert not (binary_closing(mask, np.ones((1, 3, 3))) >= mask).all()


def test_away_from_the_border_the_rule_is_plain_scipy():
    mask = np.pad(np.random.default_rng(0).random((4, 20, 20)) > 0.7, ((0, 0), (3, 3), (3, 3)))
    np.testing.assert_array_equal(close_slices(mask), binary_closing(mask, np.ones((1, 3, 3))))


def ball(radius, shape=(21, 21, 21)):
    grid = np.indices(shape) - np.array(shape)[:, None, None, None] // 2
    return (grid**2).sum(axis=0) <= radius**2


@pytest.mark.parametrize(("radius", "filled"), [(1, False), (2.5, False), (3.5, True)])
def test_a_ball_fills_holes_that_it_does_not_fit_into(radius, filled):
    mask = ball(8) & ~ball(3)
    assert close_ball(mask, radius)[10, 10, 10] == filled


def test_closing_adds_and_never_takes_away_also_at_the_border():
    mask = np.random.default_rng(0).random((12, 12, 12)) > 0.8
    for radius in (1, 2.5, 4):
        assert (close_ball(mask, radius) >= mask).all()
    full = np.ones((4, 5, 6), bool)
    np.testing.assert_array_equal(close_ball(full, 3), full)


def test_closing_leaves_a_lone_convex_body_as_it_is():
    np.testing.assert_array_equal(close_ball(ball(5), 3), ball(5))


def test_closing_nothing_gives_nothing():
    empty = np.zeros((3, 3, 3), bool)
    assert not close_ball(empty, 2).any() and not open_ball(empty, 2).any()


def test_opening_takes_a_vessel_away_and_leaves_the_tumor_on_it():
    tumor, vessel = ball(5), np.zeros((21, 21, 21), bool)
    vessel[10, 10, :] = True
    opened = open_ball(tumor | vessel, 1.5)
    assert (opened <= (tumor | vessel)).all()
    assert not opened[10, 10, :4].any() and not opened[10, 10, 17:].any()
    assert (opened & tumor).sum() / tumor.sum() > 0.9


def test_opening_takes_nothing_away_at_the_border():
    mask = np.zeros((9, 9, 9), bool)
    mask[:, :4, :] = True
    np.testing.assert_array_equal(open_ball(mask, 2), mask)


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 1, 9), (1, 1, 1)], ids=str)
def test_opening_a_full_image_leaves_it_full(shape):
    full = np.ones(shape, bool)
    np.testing.assert_array_equal(open_ball(full, 1.5), full)


def test_the_input_is_not_altered():
    for function, arguments in ((close_slices, ()), (close_ball, (2,)), (open_ball, (2,))):
        mask = ball(4)
        found = function(mask, *arguments)
        np.testing.assert_array_equal(mask, ball(4))
        assert found is not mask and found.dtype == bool
