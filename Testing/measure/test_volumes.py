"""Volumes in mm3: voxels times the volume of a voxel, whatever the axes."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from thoraxseg.measure import structure_volumes
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.volume import reorient

TWO = {1: STRUCTURES["lungs"], 2: STRUCTURES["tumors"]}
LABELS = np.array([[[0, 1, 1], [2, 1, 1]]], np.uint8)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (10, 20, 30), (0, 0, 45)], ids=str)
@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS"])
def test_volumes_do_not_depend_on_the_direction_of_the_axes(a_geometry, codes, degrees):
    matrix = a_geometry(codes, (0.5, 0.25, 0.2), degrees)
    lungs, tumors = structure_volumes(Segmentation(LABELS, matrix, TWO))
    assert (lungs.key, lungs.name, lungs.label, lungs.voxels) == ("lungs", "Lungs", 1, 4)
    assert lungs.volume_mm3 == pytest.approx(4 * 0.025)
    assert (tumors.voxels, tumors.volume_mm3) == (1, pytest.approx(0.025))


@pytest.mark.parametrize(
    "codes", ["".join(c) for order in permutations(("LR", "PA", "IS")) for c in product(*order)][::5]
)
def test_volumes_stay_equal_when_the_array_is_turned(a_geometry, codes):
    matrix = a_geometry("RAS", (0.5, 0.25, 0.2), (5, 5, 5))
    before = structure_volumes(Segmentation(LABELS, matrix, TWO))
    after = structure_volumes(Segmentation(*reorient(LABELS, matrix, codes), TWO))
    assert [v.voxels for v in after] == [v.voxels for v in before]
    assert [v.volume_mm3 for v in after] == pytest.approx([v.volume_mm3 for v in before])


def test_an_absent_structure_has_the_volume_0():
    (lungs, tumors) = structure_volumes(Segmentation(np.ones((1, 1, 1), int), np.eye(4), TWO))
    assert (lungs.voxels, tumors.voxels, tumors.volume_mm3) == (1, 0, 0)


def test_structures_are_listed_by_label():
    segmentation = Segmentation(LABELS, np.eye(4), dict(reversed(TWO.items())))
    assert [volume.label for volume in structure_volumes(segmentation)] == [1, 2]
