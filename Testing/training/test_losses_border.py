"""Border weights: Ronneberger's map on answers known on paper, and against a plain computation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import spatial

from thoraxseg.errors import InputError, OptionError
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.losses import border_weights


def by_hand(labels, objects, class_weights, sigma=5.0, w0=10.0):
    """All distances to all voxels of every object."""
    grid = np.indices(labels.shape).reshape(labels.ndim, -1).T
    distances = [spatial.cKDTree(np.argwhere(mask)).query(grid)[0].reshape(labels.shape) for mask in objects]
    first, second = np.sort(distances, axis=0)[:2]
    return np.array(class_weights)[labels] + w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))


def test_between_two_points_the_map_is_known_on_paper():
    labels = np.zeros((1, 9), np.uint8)
    labels[0, 2] = labels[0, 6] = 1
    weights = border_weights(labels, [1, 15], sigma=5, w0=10)
    middle = 1 + 10 * np.exp(-((2 + 2) ** 2) / 50)
    np.testing.assert_allclose(weights[0, 3:6], middle, rtol=1e-6)
    assert weights[0, 0] == pytest.approx(1 + 10 * np.exp(-((2 + 6) ** 2) / 50))
    assert weights[0, 2] == pytest.approx(15 + 10 * np.exp(-((0 + 4) ** 2) / 50))
    assert weights.dtype == np.float32


@pytest.mark.parametrize("shape", [(40, 47), (14, 22, 20)], ids=["2-D", "3-D"])
def test_it_agrees_with_all_distances_to_all_objects(shape):
    boxes = [(slice(1, 4),), (slice(6, 12),), (slice(9, 13),)]
    sides = [(slice(2, 9), slice(2, 5)), (slice(3, 12), slice(4, 9)), (slice(15, 20), slice(11, 19))]
    labels, objects = np.zeros(shape, np.int64), []
    for value, box, side in zip((1, 1, 2), boxes, sides, strict=True):
        where = box + side[: len(shape) - 1]
        labels[where] = value
        mask = np.zeros(shape, bool)
        mask[where] = True
        objects.append(mask)
    expected = by_hand(labels, objects, [1, 5, 15])
    np.testing.assert_allclose(border_weights(labels, [1, 5, 15]), expected, rtol=1e-6)


def test_objects_far_apart_are_cut_off_where_no_digit_changes():
    labels = np.zeros((8, 300), np.uint8)
    for start in (0, 40, 90, 130, 138, 260):
        labels[2:5, start : start + 4] = 1
    objects = [
        (labels == 1) & (np.abs(np.arange(300) - start - 1.5) < 2) for start in (0, 40, 90, 130, 138, 260)
    ]
    np.testing.assert_allclose(
        border_weights(labels, [1, 15], sigma=2), by_hand(labels, objects, [1, 15], sigma=2), rtol=1e-6
    )


def test_a_tumor_in_a_lung_is_heavy_on_both_sides_of_its_border():
    labels = np.ones((41, 41), np.uint8)
    labels[15:26, 15:26] = 2
    weights = border_weights(labels, [1, 1, 1])
    assert weights[20, 15] == weights[20, 14] == pytest.approx(1 + 10 * np.exp(-1 / 50))
    assert weights[20, 20] < weights[20, 15]
    assert weights[20, 0] < weights[20, 14]


def test_fewer_than_two_objects_have_no_border():
    labels = np.zeros((20, 20), np.uint8)
    assert (border_weights(labels, [1, 15]) == 1).all()
    labels[3:9, 4:8] = 1
    assert set(np.unique(border_weights(labels, [1, 15]))) == {1, 15}


def test_voxels_that_touch_at_a_corner_are_one_object():
    labels = np.zeros((6, 6), np.uint8)
    labels[1, 1] = labels[2, 2] = 1
    assert border_weights(labels, [1, 15]).max() == 15


def test_ignored_voxels_weigh_nothing_and_are_no_object():
    labels = np.zeros((12, 12), np.uint8)
    labels[2:4, 2:4], labels[8:10, 8:10] = 1, IGNORE
    weights = border_weights(labels, [1, 15])
    assert (weights[8:10, 8:10] == 0).all()
    assert set(np.unique(weights)) == {0, 1, 15}
    assert not border_weights(np.full((4, 4), IGNORE, np.uint8), [1, 15]).any()


def test_labels_and_weights_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"from 0 to 1.*from 0 to 2"):
        border_weights(np.arange(3)[None], [1, 15])
    with pytest.raises(OptionError, match="class_weights"):
        border_weights(np.zeros((3, 3), int), [1, -1])
    with pytest.raises(OptionError, match="sigma"):
        border_weights(np.zeros((3, 3), int), [1, 1], sigma=0)
