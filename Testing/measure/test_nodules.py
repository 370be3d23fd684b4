"""Tumors one by one: what belongs together, how large it is, and the same number for the same tumor."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.errors import OptionError
from thoraxseg.measure import count_nodules
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.volume import reorient

STRUCTURE = {1: STRUCTURES["lungs"], 2: STRUCTURES["tumors"]}


def segmentation_of(places, shape=(12, 12, 12), ijk_to_ras=None):
    labels = np.zeros(shape, np.uint8)
    for place in places:
        labels[place] = 2
    return Segmentation(labels, np.eye(4) if ijk_to_ras is None else ijk_to_ras, STRUCTURE)


@pytest.mark.parametrize(
    ("other", "count"),
    [((5, 5, 6), 1), ((5, 6, 6), 1), ((6, 6, 6), 2), ((5, 5, 7), 2)],
    ids=["face", "edge", "corner", "apart"],
)
def test_voxels_that_share_a_face_or_an_edge_are_one_tumor(other, count):
    assert len(count_nodules(segmentation_of([(5, 5, 5), other]), 2).nodules) == count


@pytest.mark.parametrize(("connectivity", "count"), [(6, 3), (18, 2), (26, 1)])
def test_another_connectivity_can_be_asked_for(connectivity, count):
    chain = segmentation_of([(1, 1, 1), (1, 2, 2), (2, 3, 3)])
    found = count_nodules(chain, 2, connectivity)
    assert (len(found.nodules), found.connectivity) == (count, connectivity)


def test_an_unknown_connectivity_is_refused():
    with pytest.raises(OptionError, match="6, 18 or 26"):
        count_nodules(segmentation_of([]), 2, connectivity=4)


def test_a_tumor_has_voxels_volume_and_a_place_in_the_patient(a_geometry):
    matrix = a_geometry("LPS", (0.5, 0.2, 0.1), origin=(10, 20, 30))
    (nodule,) = count_nodules(segmentation_of([(2, 3, 4), (2, 3, 5)], ijk_to_ras=matrix), 2).nodules
    assert (nodule.number, nodule.voxels, nodule.volume_mm3) == (1, 2, pytest.approx(0.02))
    assert nodule.centroid_ras_mm == pytest.approx((10 - 4.5 * 0.1, 20 - 3 * 0.2, 30 + 2 * 0.5))


def test_only_the_label_asked_for_counts():
    labels = np.zeros((3, 3, 9), np.uint8)
    labels[1, 1, [1, 3]], labels[1, 1, [5, 7]] = 1, 2
    labels[1, 1, 4] = 1  # a lung voxel does not join tumors
    assert len(count_nodules(Segmentation(labels, np.eye(4), STRUCTURE), 2).nodules) == 2


@pytest.mark.parametrize("scale", [(0.2, 0.1, 0.2), (0.08, 0.2, 0.25), (0.16, 0.5, 0.05)], ids=str)
@pytest.mark.parametrize(("voxels", "size"), [(99, "small"), (100, "large"), (101, "large")])
def test_a_tumor_of_exactly_the_limit_is_large_whatever_the_last_bit_says(scale, voxels, size):
    labels = np.zeros((3, 3, 103), np.uint8)
    labels[1, 1, 1 : 1 + voxels] = 2
    count = count_nodules(Segmentation(labels, np.diag([*scale, 1]), STRUCTURE), 2, small_below_mm3=0.4)
    assert count.nodules[0].size_class == size
    assert (count.number_of("small"), count.number_of("large")) == ((1, 0) if size == "small" else (0, 1))


@pytest.mark.parametrize("label", [2, 7])
def test_an_absent_label_has_no_tumors(label):
    count = count_nodules(segmentation_of([]), label)
    assert count.nodules == () and count.number_of("small") == 0


def test_number_1_is_the_largest():
    small, large = [(1, 1, 1)], [(8, 8, 8), (8, 8, 9), (8, 9, 9)]
    assert [n.voxels for n in count_nodules(segmentation_of(small + large), 2).nodules] == [3, 1]


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SRA", "IAL"])
def test_numbers_follow_the_patient_not_the_order_of_the_array(a_geometry, codes):
    matrix = a_geometry("RAS", (0.5, 0.2, 0.1), (5, 10, 15), (1, 2, 3))
    places = [(1, 1, 1), (1, 9, 1), (9, 1, 1), (1, 1, 9), (6, 6, 6), (6, 6, 7)]
    segmentation = segmentation_of(places, ijk_to_ras=matrix)
    turned = Segmentation(*reorient(segmentation.labels, matrix, codes), STRUCTURE)
    before, after = count_nodules(segmentation, 2).nodules, count_nodules(turned, 2).nodules
    assert [n.number for n in after] == [1, 2, 3, 4, 5]
    for one, other in zip(before, after, strict=True):
        assert (one.number, one.voxels) == (other.number, other.voxels)
        assert one.centroid_ras_mm == pytest.approx(other.centroid_ras_mm)
