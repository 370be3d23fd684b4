"""Bounding boxes: the smallest that hold a label, whatever its value."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import arrays

from thoraxseg.metrics.regions import bounding_boxes, union_box


def test_the_box_of_two_far_voxels_holds_both_and_of_one_voxel_is_that_voxel():
    labels = np.zeros((9, 8, 7), np.int32)
    labels[1, 5, 3] = labels[4, 2, 6] = 2_000_000_000
    labels[8, 7, 0] = -3
    assert bounding_boxes(labels, [2_000_000_000, -3, 5]) == {
        2_000_000_000: (slice(1, 5), slice(2, 6), slice(3, 7)),
        -3: (slice(8, 9), slice(7, 8), slice(0, 1)),
        5: None,
    }


def test_a_mask_that_fills_the_image_has_the_image_as_box():
    assert bounding_boxes(np.ones((2, 3, 4), bool), [1]) == {1: (slice(0, 2), slice(0, 3), slice(0, 4))}


@given(arrays(np.uint8, (4, 3, 5), elements={"min_value": 0, "max_value": 2}))
def test_boxes_are_the_extremes_of_the_places(labels):
    for label, box in bounding_boxes(labels, [1, 2]).items():
        places = np.argwhere(labels == label)
        expected = (
            tuple(
                slice(low, high + 1) for low, high in zip(places.min(axis=0), places.max(axis=0), strict=True)
            )
            if len(places)
            else None
        )
        assert box == expected


def test_the_union_of_boxes_holds_all_and_of_none_is_none():
    one, other = (slice(1, 3), slice(0, 2), slice(4, 5)), (slice(2, 6), slice(1, 2), slice(0, 1))
    assert union_box(one, None, other) == (slice(1, 6), slice(0, 2), slice(0, 5))
    assert union_box(None, one) == one
    assert union_box(None, None) is None
