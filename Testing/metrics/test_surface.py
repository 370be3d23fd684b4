"""Surface distances: geometry with answers known on paper, and brute force on small masks."""

from __future__ import annotations

import itertools
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, generate_binary_structure

from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics import surface
from thoraxseg.metrics.surface import label_distances, surface_distances, surface_voxels

MASKS = arrays(bool, (4, 3, 5))
SPACINGS = st.tuples(*[st.sampled_from([0.14, 0.5, 1.0, 2.5])] * 3)
SYMMETRIC = ("msd_mm", "hd95_mm", "hd_mm", "assd_pooled_mm", "hd95_pooled_mm")


def cube(start, edge, size=40):
    found = np.zeros((size,) * 3, dtype=bool)
    found[tuple(slice(s, s + edge) for s in start)] = True
    return found


def ball(radius, center=(0, 0, 0), half=24):
    k, j, i = np.ogrid[-half : half + 1, -half : half + 1, -half : half + 1]
    return (k - center[0]) ** 2 + (j - center[1]) ** 2 + (i - center[2]) ** 2 <= radius**2


def voxel(*place, shape=(8, 8, 8)):
    found = np.zeros(shape, dtype=bool)
    found[place] = True
    return found


def every_number(found):
    directed = [
        getattr(found, f"{name}_to_{side}_mm")
        for name in ("msd", "hd95")
        for side in ("prediction", "reference")
    ]
    return [*(getattr(found, name) for name in SYMMETRIC), *directed, found.nsd(1)]


def test_a_surface_voxel_is_one_with_a_background_neighbor_across_a_face():
    solid = cube((2, 2, 2), 3, size=7)
    assert len(surface_voxels(solid)) == 26
    notched = solid.copy()
    notched[2, 2, 2] = False  # a corner: it touches the center at none of its faces
    assert len(surface_voxels(notched)) == 25
    open_face = solid.copy()
    open_face[2, 3, 3] = False  # the middle of a face: now the center is surface, too
    assert len(surface_voxels(open_face)) == 26


def test_beyond_the_image_is_background():
    full = np.ones((5, 6, 7), bool)
    assert len(surface_voxels(full)) == 5 * 6 * 7 - 3 * 4 * 5
    assert len(surface_voxels(np.ones((1, 6, 7), bool))) == 42


def test_walls_of_a_cavity_are_surface():
    hollow = cube((1, 1, 1), 5, size=7)
    hollow[3, 3, 3] = False
    assert len(surface_voxels(hollow)) == (125 - 27) + 6
    solid = cube((1, 1, 1), 5, size=7)
    found = surface_distances(solid, hollow, (1, 1, 1))
    assert found.to_prediction.max() == 0  # the outer surface is shared
    assert (
        sorted(found.to_reference.tolist())[-6:] == [1.0] * 6
    )  # each wall is one voxel below the outer surface
    assert found.msd_mm == (0 + 6 / 104) / 2
    assert found.assd_pooled_mm == 6 / (98 + 104)


@given(MASKS)
def test_surface_is_the_mask_minus_its_erosion(mask):
    cross = generate_binary_structure(3, 1)
    expected = np.argwhere(mask & ~binary_erosion(mask, cross, border_value=0))
    assert np.array_equal(surface_voxels(mask), expected)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [((1, 1, 1), 5.0), ((2, 1, 9), np.sqrt(36 + 16)), ((1, 0.5, 9), np.sqrt(13)), ((0.14, 0.14, 0.14), 0.7)],
)
def test_single_voxels_three_and_four_steps_apart(spacing, expected):
    found = surface_distances(voxel(1, 1, 5), voxel(4, 5, 5), spacing)
    assert [getattr(found, name) for name in SYMMETRIC] == pytest.approx([expected] * 5, abs=1e-14)
    assert found.to_prediction.tolist() == found.to_reference.tolist()


def test_two_touching_voxels_are_one_voxel_apart():
    found = surface_distances(voxel(2, 2, 2), voxel(2, 2, 3), (3, 2, 0.5))
    assert found.hd_mm == found.msd_mm == 0.5
    assert found.nsd(0.5) == 1 and found.nsd(0.49) == 0


@pytest.mark.parametrize("shift", [0, 1, 3, 10, 15])
def test_a_cube_shifted_along_an_axis_is_nowhere_farther_than_the_shift(shift):
    spacing = (2.0, 1.0, 1.0)
    found = surface_distances(cube((5, 5, 5), 10), cube((5 + shift, 5, 5), 10), spacing)
    assert found.hd_mm == shift * 2
    assert found.hd95_mm == found.hd95_to_prediction_mm == found.hd95_to_reference_mm
    assert found.msd_mm == found.msd_to_prediction_mm == pytest.approx(found.assd_pooled_mm)
    if shift == 1:
        # All 100 voxels of the trailing face find the other cube's one step on (2 mm). Of the leading face the 36 at
        # the rim lie on the other's walls; the 64 within are 1 mm or more from these and 2 mm from its face.
        inner = [min(1 + min(a, b), 2) for a, b in itertools.product([0, 1, 2, 3, 3, 2, 1, 0], repeat=2)]
        assert sorted(found.to_prediction[found.to_prediction > 0]) == sorted([2.0] * 100 + inner)


def test_concentric_cubes_are_one_shell_apart():
    inner, outer = cube((10, 10, 10), 10), cube((7, 7, 7), 16)
    found = surface_distances(inner, outer, (1, 1, 1))
    assert set(found.to_prediction.tolist()) == {3.0}
    assert found.to_reference.min() == 3 and found.hd_mm == pytest.approx(3 * np.sqrt(3))
    assert found.msd_mm == pytest.approx((3 + found.to_reference.mean()) / 2)


def test_concentric_balls_are_about_the_difference_of_radii_apart():
    found = surface_distances(ball(12), ball(20), (0.5, 0.5, 0.5))
    assert found.msd_mm == pytest.approx(4, abs=0.25)  # half a voxel
    assert found.hd95_mm == pytest.approx(4, abs=0.5) and found.hd_mm <= 4 + 0.5
    assert found.nsd(3) == 0 and found.nsd(5) == 1


def test_a_shifted_ball_is_at_its_poles_as_far_as_the_shift():
    found = surface_distances(ball(15), ball(15, (0, 0, 6)), (1, 1, 1))
    assert found.hd_mm == 6
    assert 0 < found.msd_mm < 6 * 2 / np.pi  # mean of 6 |cos| over a sphere is 3
    assert found.msd_mm == pytest.approx(3, abs=0.3)


def test_headline_and_pooled_values_differ_where_one_surface_is_larger():
    reference = voxel(0, 0, 0, shape=(1, 1, 30))
    prediction = reference.copy()
    prediction[0, 0, 1:21] = True  # a line of 21 voxels, 0 to 20 mm away
    found = surface_distances(reference, prediction, (1, 1, 1))
    assert found.to_prediction.tolist() == [0] and found.to_reference.tolist() == list(range(21))
    assert found.msd_mm == (0 + 10) / 2
    assert found.assd_pooled_mm == pytest.approx(210 / 22)
    assert found.hd95_mm == found.hd95_to_reference_mm == 19
    assert found.hd95_to_prediction_mm == 0
    assert found.hd95_pooled_mm == pytest.approx(18.95)  # at 0.95 x 21 = 19.95 of 0, 0, 1, 2 ... 20
    assert found.hd_mm == 20
    assert found.nsd(4) == (1 + 5) / 22


def test_a_distance_of_exactly_the_tolerance_is_within_it():
    found = surface_distances(voxel(1, 1, 1), voxel(4, 1, 1), (0.1, 1, 1))
    assert found.nsd(0.3) == 1 and found.nsd(0.2999) == 0
    assert 3 * 0.1 > 0.3  # which is why


@pytest.mark.parametrize("filled", [(False, False), (True, False), (False, True)])
def test_where_a_mask_is_empty_no_distance_is_a_number(filled):
    masks = [cube((1, 1, 1), 2, size=5) & full for full in filled]
    found = surface_distances(*masks, (1, 1, 1))
    assert found.to_prediction.size == found.to_reference.size == 0
    assert np.isnan(every_number(found)).all()


def test_equal_masks_are_0_apart_also_where_they_fill_the_image():
    full = np.ones((6, 5, 4), bool)
    found = surface_distances(full, full, (1, 2, 3))
    assert every_number(found)[:-1] == [0] * 9 and found.nsd(0) == 1


def test_a_mask_at_the_border_has_its_surface_there():
    full, less = np.ones((6, 6, 6), bool), np.ones((6, 6, 6), bool)
    less[0] = False
    found = surface_distances(full, less, (2, 1, 1))
    assert (
        sorted(found.to_prediction[found.to_prediction > 0].tolist()) == [2] * 36
    )  # the slice at the border
    # The slice below it is now surface: its 4 x 4 inner voxels are 1 or 2 mm from the side walls.
    assert sorted(found.to_reference[found.to_reference > 0].tolist()) == [1] * 12 + [2] * 4


WAYS = {
    "near ones by the tree": {"NEAR": 16},
    "far ones by the tree": {"NEAR": 0, "VOXELS_PER_FAR_POINT": 0},
    "far ones by slices": {"NEAR": 0, "VOXELS_PER_FAR_POINT": 10**9},
    "both": {"NEAR": 2, "VOXELS_PER_FAR_POINT": 10**9},
    "in chunks": {"CHUNK": 7},
}


@pytest.mark.parametrize("constants", [pytest.param(found, id=name) for name, found in WAYS.items()])
@given(MASKS, MASKS, SPACINGS)
def test_distances_are_those_of_brute_force_whichever_way_they_are_found(constants, one, other, spacing):
    with patch.multiple(surface, **constants):
        found = surface_distances(one, other, spacing)
    first, second = surface_voxels(one) * np.array(spacing), surface_voxels(other) * np.array(spacing)
    if len(first) and len(second):
        table = np.linalg.norm(first[:, None] - second[None], axis=2)
        assert found.to_prediction == pytest.approx(table.min(axis=1), abs=1e-12)
        assert found.to_reference == pytest.approx(table.min(axis=0), abs=1e-12)
        pooled = np.concatenate([table.min(axis=0), table.min(axis=1)])
        assert found.assd_pooled_mm == pytest.approx(pooled.mean())
        assert found.hd_mm == pytest.approx(pooled.max())
    else:
        assert found.to_prediction.size == found.to_reference.size == 0


def test_an_organ_against_the_whole_image_is_far_and_still_exact():
    organ = np.zeros((50, 60, 70), bool)
    organ[20:24, 28:33, 40:47] = True
    found = surface_distances(organ, np.ones_like(organ), (1, 2, 0.5))
    # From a voxel within, the nearest of the image's six walls is straight ahead.
    places = surface_voxels(organ)
    walls = np.minimum(places, np.array([49, 59, 69]) - places) * np.array([1, 2, 0.5])
    assert found.to_prediction == pytest.approx(walls.min(axis=1))
    assert found.hd_mm == pytest.approx(np.sqrt(26**2 + 56**2 + 20**2))  # a corner of the image


@given(MASKS, MASKS, SPACINGS)
def test_exchanging_the_masks_exchanges_the_directions_and_changes_nothing_else(one, other, spacing):
    found, back = surface_distances(one, other, spacing), surface_distances(other, one, spacing)
    assert np.array_equal(found.to_prediction, back.to_reference)
    for name in SYMMETRIC:
        assert getattr(found, name) == pytest.approx(getattr(back, name), nan_ok=True)
    assert found.nsd(0.5) == pytest.approx(back.nsd(0.5), nan_ok=True)


@given(MASKS, MASKS, SPACINGS, st.permutations([0, 1, 2]))
def test_the_order_of_the_axes_does_not_matter(one, other, spacing, order):
    found = surface_distances(one, other, spacing)
    turned = surface_distances(one.transpose(order), other.transpose(order), [spacing[n] for n in order])
    assert every_number(found) == pytest.approx(every_number(turned), nan_ok=True)


def test_where_in_the_image_the_masks_lie_changes_nothing():
    one, other = ball(5, half=8), ball(6, (1, 0, 1), half=8)
    far = [np.pad(mask, ((0, 0), (0, 0), (10_001, 3))) for mask in (one, other)]
    here, there = (surface_distances(*pair, (0.1, 0.3, 0.7)) for pair in ((one, other), far))
    assert here.to_prediction == pytest.approx(there.to_prediction, rel=1e-15, abs=0)
    assert here.to_reference == pytest.approx(there.to_reference, rel=1e-15, abs=0)


def test_a_label_among_others_has_the_distances_of_its_mask():
    random = np.random.default_rng(3)
    one, other = random.integers(0, 4, (2, 12, 9, 11)).astype(np.int16) * 300
    for label in (300, 900):
        found = label_distances(one, other, label, (1, 2, 3))
        expected = surface_distances(one == label, other == label, (1, 2, 3))
        assert np.array_equal(found.to_prediction, expected.to_prediction)
        assert np.array_equal(found.to_reference, expected.to_reference)
    assert label_distances(one, other, 7, (1, 2, 3)).to_prediction.size == 0


def test_masks_and_spacings_that_make_no_sense_are_refused():
    mask = voxel(1, 1, 1)
    with pytest.raises(InputError, match="masks of one shape"):
        surface_distances(mask, mask[:3], (1, 1, 1))
    with pytest.raises(InputError, match="reference: expected a bool mask"):
        surface_distances(mask.astype(np.uint8), mask, (1, 1, 1))
    with pytest.raises(InputError, match="prediction: expected a bool mask"):
        surface_distances(mask, mask[0], (1, 1, 1))
    for spacing in [(1, 1), (1, 1, 0), (1, -1, 1), (1, 1, np.nan), (np.inf, 1, 1)]:
        with pytest.raises(InputError, match="spacing of three positive numbers"):
            surface_distances(mask, mask, spacing)
    for tolerance in (-1, np.nan, np.inf):
        with pytest.raises(OptionError, match="tolerance_mm: expected a finite number"):
            surface_distances(mask, mask, (1, 1, 1)).nsd(tolerance)
