"""How much a structure is doubted, and in which slice most."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.measure import structure_doubt
from thoraxseg.segmentation import STRUCTURES, Segmentation

TWO = {1: STRUCTURES["lungs"], 2: STRUCTURES["tumors"]}


@pytest.fixture
def one_voxel():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 2] = 1
    return Segmentation(labels, np.eye(4), TWO)


def test_doubt_is_the_mean_over_a_structure_and_its_rim_of_one_voxel(one_voxel):
    entropy = np.zeros((5, 5, 5), np.float32)
    entropy[2, 2, 2], entropy[2, 2, 3] = 0.5, 0.2  # the voxel and one of its six neighbors
    entropy[2, 3, 3] = entropy[0, 0, 0] = 99  # not in the rim
    lungs, _ = structure_doubt(one_voxel, entropy)
    assert lungs.key == "lungs" and lungs.mean == pytest.approx(0.7 / 7)


def test_the_most_doubtful_slice_has_the_largest_sum(one_voxel):
    entropy = np.zeros((5, 5, 5), np.float32)
    entropy[2, 1:4, 1:4], entropy[3, 2, 2] = 0.1, 0.6  # 5 x 0.1 in the zone of slice 2
    assert structure_doubt(one_voxel, entropy)[0].most_doubtful_slice_k == 3
    entropy[3, 2, 2] = 0.4
    assert structure_doubt(one_voxel, entropy)[0].most_doubtful_slice_k == 2


def test_an_absent_structure_has_no_doubt_rather_than_0(one_voxel):
    tumors = structure_doubt(one_voxel, np.ones((5, 5, 5)))[1]
    assert (tumors.key, tumors.mean, tumors.most_doubtful_slice_k) == ("tumors", None, None)


def test_the_rim_ends_at_the_border_of_the_image():
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, 0] = labels[2, 2, 2] = 2
    entropy = np.zeros((3, 3, 3))
    entropy[2, 2, 1] = 0.8
    doubt = structure_doubt(Segmentation(labels, np.eye(4), TWO), entropy)[1]
    assert doubt.mean == pytest.approx(0.8 / 8)  # two voxels with three neighbors each
    assert doubt.most_doubtful_slice_k == 2


def test_a_map_of_another_shape_is_refused(one_voxel):
    with pytest.raises(InputError, match=r"shape \(5, 5, 5\), got \(5, 5, 4\)"):
        structure_doubt(one_voxel, np.zeros((5, 5, 4)))


@pytest.mark.parametrize("unit", [0.5, 1.0, np.log(7)])
def test_the_mean_is_in_the_unit_of_the_map_whatever_it_is(one_voxel, unit):
    lungs, _ = structure_doubt(one_voxel, np.full((5, 5, 5), unit, np.float32))
    assert lungs.mean == pytest.approx(unit)
