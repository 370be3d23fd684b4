"""Doubt slice by slice, and which slices to look at, in which order."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.measure import doubt_profile, doubtful_slices, slice_positions, structure_doubt
from thoraxseg.segmentation import STRUCTURES, Segmentation, Structure

TWO = {1: STRUCTURES["lungs"], 2: STRUCTURES["tumors"]}


def segmentation_of(labels, structures=None):
    return Segmentation(np.asarray(labels, np.uint8), np.eye(4), structures or TWO, "mouse 7")


@pytest.fixture
def columns():
    """Lungs of 2 x 2 voxels in slices 3 to 22, a tumor of one voxel in slices 10 and 11, far away from them."""
    labels = np.zeros((30, 12, 12), np.uint8)
    labels[3:23, 2:4, 2:4] = 1
    labels[10:12, 9, 9] = 2
    return segmentation_of(labels)


def test_the_profile_is_the_sum_over_a_structure_and_its_rim_slice_by_slice(columns):
    doubt = np.full(columns.labels.shape, 0.5, np.float32)
    lungs = doubt_profile(columns, doubt, "lungs")
    assert lungs.shape == (30,)
    assert lungs[[1, 2, 3, 10, 22, 23, 24]].tolist() == [
        0,
        2,
        6,
        6,
        6,
        2,
        0,
    ]  # 4 voxels and 8 around; 4 above
    assert doubt_profile(columns, doubt, "tumors")[8:14].tolist() == [0, 0.5, 2.5, 2.5, 0.5, 0]


def test_all_structures_together_count_no_voxel_twice():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 1:3], labels[2, 2, 3] = 1, 2  # each lies in the rim of the other
    segmentation, doubt = segmentation_of(labels), np.ones((5, 5, 5))
    assert doubt_profile(segmentation, doubt).tolist() == [0, 3, 11, 3, 0]
    apart = doubt_profile(segmentation, doubt, "lungs") + doubt_profile(segmentation, doubt, "tumors")
    assert apart[2] == 13


def test_an_absent_structure_has_a_profile_of_0_and_no_slice_to_look_at(columns):
    empty = segmentation_of(np.where(columns.labels == 2, 0, columns.labels))
    doubt = np.ones(empty.labels.shape)
    assert not doubt_profile(empty, doubt, "tumors").any()
    assert doubtful_slices(empty, doubt, "tumors") == []
    assert {one.key for one in doubtful_slices(empty, doubt)} == {"lungs"}
    nothing = segmentation_of(np.zeros((3, 3, 3)))
    assert not doubt_profile(nothing, np.ones((3, 3, 3))).any()
    assert doubtful_slices(nothing, np.ones((3, 3, 3))) == []


def test_contours_without_doubt_have_no_slice_to_look_at(columns):
    assert doubtful_slices(columns, np.zeros(columns.labels.shape)) == []


def test_the_first_slice_is_the_most_doubtful_one_of_the_record():
    random = np.random.default_rng(2)
    segmentation = segmentation_of(random.integers(0, 3, (12, 10, 10)))
    doubt = random.random((12, 10, 10)).astype(np.float32)
    for told in structure_doubt(segmentation, doubt):
        assert doubtful_slices(segmentation, doubt, told.key)[0].k == told.most_doubtful_slice_k


def test_slices_come_most_doubtful_first_and_neighbors_are_left_out(columns):
    doubt = np.zeros(columns.labels.shape)
    doubt[3:23, 2, 2] = np.arange(20) * 0.01  # rises toward the end
    doubt[5, 2, 2] = 5
    found = doubtful_slices(columns, doubt, "lungs")
    assert found[0].k == 5 and found[0].doubt == pytest.approx(5)
    assert len(found) == 1, "what is below a tenth of the worst is not worth a look"
    doubt[5, 2, 2] = 0.5
    ks = [one.k for one in doubtful_slices(columns, doubt, "lungs")]
    assert ks == [5, 22, 19, 16, 13, 10], "two slices on both sides, a tenth of 22, are left out"
    values = [one.doubt for one in doubtful_slices(columns, doubt)]
    assert values == sorted(values, reverse=True)


def test_a_small_tumor_is_not_lost_between_lungs(columns):
    doubt = np.full(columns.labels.shape, 0.3)
    assert "tumors" in {one.key for one in doubtful_slices(columns, doubt)}


def test_the_place_in_the_slice_is_where_doubt_is_highest_in_structure_or_rim(columns):
    doubt = np.full(columns.labels.shape, 0.01)
    doubt[8, 3, 3] = doubt[8, 3, 4] = 0.7  # in the lungs, and beside them
    doubt[8, 7:11, 5:8] = 5  # in neither
    (first, *_) = doubtful_slices(columns, doubt, "lungs")
    k, j, i = first.place_kji
    assert (first.k, k) == (8, 8) and abs(j - 3) <= 1 and abs(i - 3) <= 1


def test_structures_drawn_by_hand_are_known_by_their_names(columns):
    by_hand = Structure("Segment_1", "Metastases", (1, 0, 0), STRUCTURES["tumors"].terminology)
    drawn = segmentation_of(columns.labels, {1: STRUCTURES["lungs"], 2: by_hand})
    doubt = np.ones(columns.labels.shape)
    expected = doubt_profile(columns, doubt, "tumors")
    for key in ("tumors", "Segment_1"):
        np.testing.assert_array_equal(doubt_profile(drawn, doubt, key), expected)
        assert {one.key for one in doubtful_slices(drawn, doubt, key)} == {"Segment_1"}


def test_an_unknown_structure_and_a_map_of_another_shape_are_refused(columns):
    for use in (doubt_profile, doubtful_slices):
        with pytest.raises(InputError, match="no structure 'heart'; known are lungs, tumors"):
            use(columns, np.ones(columns.labels.shape), "heart")
        with pytest.raises(InputError, match="expected a map of doubt of shape"):
            use(columns, np.ones((2, 2, 2)))


@pytest.mark.parametrize(
    ("codes", "axis", "first", "step"),
    [("LPS", "superior", 30, 0.5), ("LAI", "superior", 30, -0.5), ("RIA", "anterior", 20, 0.5),
     ("ASL", "right", 10, -0.5)],
)  # fmt: skip
def test_slices_lie_along_the_axis_they_were_acquired_in(a_geometry, codes, axis, first, step):
    name, positions = slice_positions(a_geometry(codes, (0.5, 0.2, 0.1), origin=(10, 20, 30)), 4)
    assert name == axis
    assert positions == pytest.approx(first + step * np.arange(4))


def test_positions_of_oblique_slices_are_measured_at_right_angles_to_them(a_geometry):
    matrix = a_geometry("LPS", (0.5, 0.2, 0.1), (10, 20, 30), (1, 2, 3))
    name, positions = slice_positions(matrix, 5)
    assert name == "superior" and np.diff(positions) == pytest.approx([0.5] * 4)
    anywhere = matrix @ [7, 11, 3, 1]  # every voxel of slice 3 has its position
    assert matrix[:3, 2] / 0.5 @ anywhere[:3] == pytest.approx(positions[3])
