"""Where an image lies in the patient: what is refused, what axes are called, and turning without resampling."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thoraxseg.errors import InputError
from thoraxseg.volume import (
    Volume,
    axis_codes,
    check_geometry,
    directions_from_codes,
    geometry_from_spacing,
    obliqueness_degrees,
    reorient,
    spacing_mm,
    to_ras,
    voxel_volume_mm3,
)

ALL_CODES = [
    "".join(ends) for order in permutations(("LR", "PA", "IS")) for ends in product(*order)
]  # 6 orders x 8 signs


def scaled(*diagonal):
    return np.diag([*diagonal, 1.0])


def with_entry(row, column, value):
    matrix = np.eye(4)
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        pytest.param(np.eye(3), "4 x 4", id="a 3 x 3 matrix"),
        pytest.param(with_entry(0, 3, np.nan), "finite", id="NaN origin"),
        pytest.param(with_entry(1, 1, np.inf), "finite", id="infinite spacing"),
        pytest.param(scaled(1, 0, 1), "spacing", id="zero spacing"),
        pytest.param(scaled(1, 1, 0.99e-4), "spacing", id="below 0.0001 mm"),
        pytest.param(scaled(100.1, 1, 1), "spacing", id="above 100 mm"),
        pytest.param(with_entry(0, 1, 0.01), "right angles", id="sheared by half a degree"),
        pytest.param(
            np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "right", id="singular"
        ),
        pytest.param(with_entry(3, 0, 0.5), "last matrix row", id="projective"),
    ],
)
def test_a_geometry_no_scanner_makes_is_refused_with_the_name_of_the_image(matrix, words):
    with pytest.raises(InputError, match=words) as caught:
        check_geometry(matrix, "mouse 8")
    assert str(caught.value).startswith("mouse 8:")


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param(scaled(1e-4, 100, 1), id="the limits themselves"),
        pytest.param(scaled(-1, 1, 1), id="left-handed"),
        pytest.param(with_entry(0, 1, 5e-4), id="rounded header (0.03 degrees)"),
    ],
)
def test_an_unusual_geometry_is_accepted_unchanged(matrix):
    np.testing.assert_array_equal(check_geometry(matrix, "image"), matrix)


def test_checking_a_geometry_copies_it():
    matrix = np.eye(4)
    volume = Volume(np.zeros((2, 2, 2)), matrix)
    matrix[0, 3] = 99
    assert volume.ijk_to_ras[0, 3] == 0


@pytest.mark.parametrize(
    ("array", "words"),
    [
        pytest.param(np.zeros((4, 4)), r"\(4, 4\)", id="2-D"),
        pytest.param(np.zeros((2, 3, 4, 3), np.uint8), r"\(2, 3, 4, 3\) of type uint8", id="RGB"),
        pytest.param(np.zeros((2, 2, 2), complex), "complex128", id="complex"),
        pytest.param(np.full((2, 2, 2), "a"), "<U1", id="text"),
        pytest.param(np.zeros((2, 0, 2)), "at least one voxel", id="empty"),
    ],
)
def test_an_array_that_is_no_scalar_image_is_refused_with_its_shape_and_type(array, words):
    with pytest.raises(InputError, match=words):
        Volume(array, np.eye(4), name="scan")


def test_a_bool_array_becomes_an_image_of_0_and_1():
    assert Volume(np.ones((1, 1, 1), bool), np.eye(4)).array.dtype == np.uint8


def test_letters_are_read_from_signs_and_order():
    assert axis_codes(scaled(-1, -1, 1)) == "LPS"
    matrix = np.zeros((4, 4))
    matrix[2, 0], matrix[0, 1], matrix[1, 2], matrix[3, 3] = -2, 3, 0.5, 1  # i to I, j to R, k to A
    assert axis_codes(matrix) == "IRA"
    assert spacing_mm(matrix) == (0.5, 3.0, 2.0)


@pytest.mark.parametrize("codes", ALL_CODES)
def test_an_oblique_axis_is_named_after_the_closest_patient_axis(codes, a_geometry):
    matrix = a_geometry(codes, (0.3, 0.2, 0.1), degrees=(0, 0, 20))
    assert axis_codes(matrix) == codes
    assert obliqueness_degrees(matrix) == pytest.approx(20)


def test_each_patient_axis_is_named_once_even_where_one_is_closest_to_two(a_geometry):
    matrix = a_geometry("RAS", degrees=(50, 50, 50))
    assert sorted("LRPAIS".index(letter) // 2 for letter in axis_codes(matrix)) == [0, 1, 2]


def test_a_straight_image_is_not_oblique():
    assert obliqueness_degrees(scaled(-1, 2, 3)) == 0


@pytest.mark.parametrize("codes", ["", "RA", "RASS", "RRS", "RLS", "XYZ", "ras"])
def test_wrong_letters_are_refused(codes):
    with pytest.raises(InputError, match="letter"):
        directions_from_codes(codes)


@pytest.mark.parametrize("codes", ALL_CODES)
def test_a_geometry_from_spacing_has_that_spacing_and_those_letters(codes):
    matrix = geometry_from_spacing((3, 2, 1), codes)
    assert (axis_codes(matrix), spacing_mm(matrix)) == (codes, (3, 2, 1))


def test_the_volume_of_a_voxel_is_its_edges_multiplied_also_when_oblique_and_left_handed(a_geometry):
    matrix = a_geometry("LAS", (0.5, 0.2, 0.1), degrees=(10, 20, 30))
    assert voxel_volume_mm3(matrix) == pytest.approx(0.01)
    assert np.linalg.det(matrix[:3, :3]) < 0


def test_a_voxel_position_goes_to_patient_millimeters():
    matrix = np.array([[-2, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(to_ras(matrix, [[1, 2, 3]]), [[10 - 6, 20 + 6, 30 + 4]])


@pytest.mark.parametrize("goal", ALL_CODES)
def test_turning_keeps_every_voxel_in_its_place_in_the_patient(goal, a_geometry):
    shape = (2, 3, 4)
    array = np.arange(24).reshape(shape)
    matrix = a_geometry("PIR", (0.3, 0.2, 0.1), degrees=(5, -10, 15), origin=(7, -8, 9))
    turned, turned_matrix = reorient(array, matrix, goal)
    assert axis_codes(turned_matrix) == goal
    before = to_ras(matrix, np.argwhere(array >= 0))
    after = to_ras(turned_matrix, np.argwhere(turned >= 0))
    for place, value in zip(after, turned.ravel(), strict=True):
        np.testing.assert_allclose(place, before[value], atol=1e-12)


@given(st.sampled_from(ALL_CODES), st.sampled_from(ALL_CODES))
def test_turning_there_and_back_changes_nothing(start, goal):
    array = np.arange(24).reshape(2, 3, 4)
    matrix = geometry_from_spacing((0.3, 0.2, 0.1), start)
    turned, turned_matrix = reorient(array, matrix, goal)
    back, back_matrix = reorient(turned, turned_matrix, start)
    np.testing.assert_array_equal(back, array)
    np.testing.assert_allclose(back_matrix, matrix, atol=1e-12)


@pytest.mark.parametrize("codes", ALL_CODES)
def test_turning_there_and_back_is_exact_halfway_between_two_patient_axes(codes, a_geometry):
    array = np.arange(24).reshape(2, 3, 4)
    matrix = a_geometry("RAS", (0.3, 0.2, 0.1), degrees=(0, 0, 45))  # i and j are both as much R as A
    turned, turned_matrix = reorient(array, matrix, codes)
    back, back_matrix = reorient(turned, turned_matrix, axis_codes(matrix), current=codes)
    np.testing.assert_array_equal(back, array)
    np.testing.assert_allclose(back_matrix, matrix, atol=1e-12)


def test_leading_axes_are_not_turned():
    maps = np.arange(2 * 24).reshape(2, 2, 3, 4)
    turned, _ = reorient(maps, np.eye(4), "SAR")
    np.testing.assert_array_equal(turned[1], reorient(maps[1], np.eye(4), "SAR")[0])
    assert turned.shape == (2, 4, 3, 2)


def test_turning_copies_no_voxels():
    array = np.zeros((2, 3, 4))
    assert np.shares_memory(reorient(array, np.eye(4), "PIR")[0], array)


def test_a_turned_volume_keeps_name_and_notes():
    volume = Volume(np.zeros((2, 3, 4)), np.eye(4), "mouse", geometry_assumed=True).with_notes("said")
    turned = volume.reoriented("SPL")
    assert (turned.name, turned.notes, turned.axis_codes) == ("mouse", ("said",), "SPL")
    assert turned.geometry_assumed and turned.shape == (4, 3, 2)
