"""Changes of place: exact flips, rotations in millimeters, and what leaves the field of view."""

import json
from math import pi

import numpy as np
import pytest

from thoraxseg.errors import OptionError
from thoraxseg.inference.spatial import Augmentation, Transform, drawn


def one(shape, spacing_mm=(1, 1, 1), flip_axes=(), seed=0, **ranges):
    """The transform drawn from ranges that leave one choice."""
    return drawn(Augmentation(**ranges), np.random.default_rng(seed), shape, spacing_mm, flip_axes)


def dot(shape, *places):
    image = np.zeros((1, *shape), np.float32)
    for place in places:
        image[(0, *place)] = 1
    return image


def waves(shape):
    z, y, x = np.ogrid[tuple(map(slice, shape))]
    return (np.sin(z / 5) + np.cos(y / 6) * np.sin(x / 7 + 1)).astype(np.float32)[None]


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_flips_alone_move_values_and_are_undone_bit_for_bit(axes):
    image = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    change = one(image.shape[1:], flip_axes=axes, flip_probability=1.0)
    assert change.flips == axes and change.matrix is None
    changed = change.apply(image, (True, False))
    np.testing.assert_array_equal(changed, np.flip(image, [axis + 1 for axis in axes]))
    np.testing.assert_array_equal(change.undo(changed, 1), image)
    assert change.seen(image.shape[1:]).all()


def test_only_allowed_axes_are_flipped_and_each_about_half_of_the_time():
    rng = np.random.default_rng(3)
    flips = [drawn(Augmentation(0.5), rng, (4, 4, 4), (1, 1, 1), (0, 2)).flips for _ in range(400)]
    assert {axis for flip in flips for axis in flip} == {0, 2}
    assert all(160 < sum(axis in flip for flip in flips) < 240 for axis in (0, 2))
    assert len(set(flips)) == 4


def test_a_quarter_turn_keeps_millimeters_where_pixels_are_oblong():
    # 2 mm columns: 3 columns right of the center are 6 mm, so 6 rows of 1 mm after a quarter turn.
    shape = (3, 21, 11)
    change = one(shape, spacing_mm=(5, 1, 2), rotation_rad=(pi / 2, pi / 2))
    changed = change.apply(dot(shape, (1, 10, 8)), (True,))
    place = np.unravel_index(changed[0].argmax(), shape)
    assert place[0] == 1 and abs(place[1] - 10) == 6 and place[2] == 5
    np.testing.assert_allclose(changed[0].max(), 1, rtol=1e-6)
    np.testing.assert_allclose(change.undo(changed, 1)[0, 1, 10, 8], 1, rtol=1e-6)


def test_scale_moves_all_axes_away_from_the_center_but_not_the_slice_of_a_single_one():
    for shape, place, wanted in [
        ((9, 9, 9), (5, 3, 6), (6, 2, 8)),
        ((1, 9, 9), (0, 3, 6), (0, 2, 8)),
    ]:
        change = one(shape, spacing_mm=(3, 1, 0.5), scale=(2.0, 2.0))
        changed = change.apply(dot(shape, place), (True,))
        assert np.unravel_index(changed[0].argmax(), shape) == wanted
        assert changed[0].max() == 1


@pytest.mark.parametrize("flip_axes", [(), (0, 1, 2)])
def test_flips_scale_rotation_and_shift_together_are_undone_wherever_the_voxel_was_seen(flip_axes):
    image = waves((24, 40, 32))
    change = one(
        image.shape[1:], (2, 0.5, 0.8), flip_axes, flip_probability=1.0,
        scale=(0.9, 0.9), rotation_rad=(0.7, 0.7), translation_fraction=(0.04, 0.04),
    )  # fmt: skip
    seen = change.seen(image.shape[1:])
    assert 0.5 < seen.mean() < 1
    back = change.undo(change.apply(image, (True,)), 1)
    inner = tuple(slice(2, -2) for _ in range(3))
    error = np.abs(back - image)[0][inner][seen[inner]]
    assert np.percentile(error, 98) < 0.02
    flipped_once = Transform((), change.matrix, change.shift).undo(change.apply(image, (True,)), 1)
    assert bool(flip_axes) == (np.abs(flipped_once - image)[0][inner][seen[inner]].mean() > 0.1)


def test_exactly_the_voxels_that_a_shift_moves_out_are_unseen():
    shape = (10, 20, 40)
    change = one(shape, translation_fraction=(0.1, 0.1))  # 1, 2 and 4 voxels
    wanted = np.zeros(shape, bool)
    wanted[:9, :18, :36] = True
    np.testing.assert_array_equal(change.seen(shape), wanted)
    flipped = one(shape, flip_axes=(2,), flip_probability=1.0, translation_fraction=(0.1, 0.1))
    np.testing.assert_array_equal(flipped.seen(shape), np.flip(wanted, 2))
    assert one((1, 20, 40), translation_fraction=(0.6, 0.6)).seen((1, 20, 40)).sum() == 8 * 16


def test_the_field_of_view_reaches_half_a_voxel_beyond_the_outermost_centers():
    shift = np.array([0, 0, 0.4])
    assert Transform((), np.eye(3), shift).seen((1, 1, 5)).all()
    np.testing.assert_array_equal(Transform((), np.eye(3), shift + 0.2).seen((1, 1, 5)).sum(), 4)


def test_outside_the_field_of_view_is_the_minimum_of_each_channel_and_maps_are_not_blended():
    rng = np.random.default_rng(0)
    image = np.stack([rng.uniform(5, 6, (2, 16, 16)), rng.integers(1, 4, (2, 16, 16)) * 10]).astype(
        np.float32
    )
    changed = one((2, 16, 16), rotation_rad=(pi / 4, pi / 4)).apply(image, (True, False))
    np.testing.assert_array_equal(changed[:, :, 0, 0], image.min(axis=(1, 2, 3))[:, None].repeat(2, 1))
    assert set(np.unique(changed[1])) == {10, 20, 30}
    assert len(np.unique(changed[0])) > 300


def test_drawn_values_fill_their_ranges():
    ranges = Augmentation(scale=(0.8, 1.2), rotation_rad=(0, 2 * pi), translation_fraction=(-0.05, 0.05))
    rng = np.random.default_rng(0)
    changes = [drawn(ranges, rng, (20, 20, 20), (1, 1, 1), ()) for _ in range(300)]
    scales = np.array([change.matrix[0, 0] for change in changes])
    angles = np.array([np.arctan2(change.matrix[2, 1], change.matrix[1, 1]) for change in changes])
    shifts = np.array([change.shift for change in changes])
    for values, low, high in [(scales, 0.8, 1.2), (angles, -pi, pi), (shifts, -1, 1)]:
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    assert all((change.matrix[0, 1:] == 0).all() for change in changes)


def test_ranges_are_recorded_as_plain_lists_and_impossible_ones_are_refused():
    record = Augmentation(scale=(0.8, 1.2)).to_record()
    assert record["scale"] == [0.8, 1.2] and json.loads(json.dumps(record)) == record
    for wrong in (
        {"scale": (0.0, 1.0)},
        {"rotation_rad": (1.0, 0.0)},
        {"translation_fraction": (0.0, float("nan"))},
        {"flip_probability": 1.5},
        {"noise_sd": -1.0},
        {"rotation_plane": (1, 1)},
    ):
        with pytest.raises(OptionError, match=r"expected"):
            Augmentation(**wrong)
