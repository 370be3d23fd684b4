"""Labels with names: which are refused, how they are counted, what counts as connected."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.errors import InputError, OptionError
from thoraxseg.segmentation import STRUCTURES, Segmentation, neighborhood

TWO = {1: STRUCTURES["lungs"], 2: STRUCTURES["tumors"]}


def test_a_label_without_a_structure_is_refused_with_its_value():
    with pytest.raises(InputError, match=r"labels \[3, 7\].*known are \[1, 2\]"):
        Segmentation(np.array([[[0, 1, 3, 7]]]), np.eye(4), TWO)


@pytest.mark.parametrize(
    "labels",
    [np.zeros((2, 2), int), np.zeros((2, 2, 2)), np.zeros((2, 2, 2), bool)],
    ids=["2-D", "float", "bool"],
)
def test_labels_that_are_no_integer_map_are_refused(labels):
    with pytest.raises(InputError, match="integer label map"):
        Segmentation(labels, np.eye(4), TWO)


def test_a_segmentation_has_a_checked_geometry():
    with pytest.raises(InputError, match="right angles"):
        Segmentation(
            np.zeros((1, 1, 1), int), np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), TWO
        )


def test_an_absent_structure_counts_0_and_shifts_nobody():
    segmentation = Segmentation(np.array([[[0, 2, 2]]]), np.eye(4), TWO)
    assert segmentation.voxel_counts() == {1: 0, 2: 2}


def test_a_mask_joins_the_structures_named():
    segmentation = Segmentation(np.array([[[0, 1, 2]]]), np.eye(4), TWO)
    assert segmentation.mask("lungs", "tumors").tolist() == [[[False, True, True]]]
    assert segmentation.mask("tumors").tolist() == [[[False, False, True]]]


def test_a_mask_of_an_unknown_key_lists_the_known_ones():
    with pytest.raises(InputError, match=r"heart.*lungs.*tumors"):
        Segmentation(np.zeros((1, 1, 1), int), np.eye(4), TWO).mask("heart")


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_a_voxel_has_as_many_neighbors_as_the_name_says(connectivity):
    assert neighborhood(connectivity).sum() == connectivity + 1


@pytest.mark.parametrize(("connectivity", "in_slice"), [(6, 4), (18, 8), (26, 8)])
def test_in_a_slice_only_neighbors_of_that_slice_count(connectivity, in_slice):
    structure = neighborhood(connectivity, in_slices=True)
    assert structure[1].sum() == structure.sum() == in_slice + 1


def test_an_unknown_connectivity_is_refused():
    with pytest.raises(OptionError, match="6, 18 or 26"):
        neighborhood(8)


def test_terminology_is_written_as_slicer_reads_it():
    assert STRUCTURES["right_lung"].terminology.to_slicer() == (
        "Segmentation category and type - 3D Slicer General Anatomy list"
        "~SCT^123037004^Anatomical Structure~SCT^39607008^Lung~SCT^24028007^Right"
        "~Anatomic codes - DICOM master list~^^~^^"
    )
    assert STRUCTURES["left_lung"].terminology.type_modifier.value == "7771000"
