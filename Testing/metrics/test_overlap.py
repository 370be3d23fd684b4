"""Dice and its relatives: known on paper, symmetric, and defined where masks are empty; slices as the paper counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics import dice
from thoraxseg.metrics.overlap import Counts, count, count_labels, iou, precision, recall, slice_scores

MASKS = arrays(bool, (3, 4, 2))
LABELS = arrays(np.uint8, (3, 4, 2), elements={"min_value": 0, "max_value": 3})


def mask(*voxels, shape=(4, 5, 6)):
    found = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        found[voxel] = True
    return found


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([(0, 0, 0)], [(0, 0, 0)], 1.0),
        ([(0, 0, 0)], [(0, 0, 1)], 0.0),
        ([(0, 0, 0), (0, 0, 1)], [(0, 0, 1)], 2 / 3),
        ([(0, 0, 0), (0, 0, 1), (0, 0, 2)], [(0, 0, 2), (0, 0, 3), (0, 0, 4)], 1 / 3),
        ([], [(0, 0, 1)], 0.0),
        ([], [], 1.0),
    ],
)
def test_dice_of_masks_known_on_paper(one, other, expected):
    assert dice(mask(*one), mask(*other)) == expected
    assert dice(mask(*other), mask(*one)) == expected


def test_two_boxes_that_share_an_eighth():
    one, other = np.zeros((2, 8, 8, 8), dtype=bool)
    one[:4, :4, :4] = True
    other[2:6, 2:6, 2:6] = True
    assert dice(one, other) == 2 * 8 / (64 + 64)
    assert iou(one, other) == 8 / 120


@pytest.mark.parametrize("shift", range(13))
def test_a_cube_of_edge_10_shifted_by_d_shares_10_minus_d_tenths(shift):
    one, other = np.zeros((2, 10, 10, 24), dtype=bool)
    one[:, :, :10] = True
    other[:, :, shift : shift + 10] = True
    share = max(10 - shift, 0) / 10
    assert dice(one, other) == precision(one, other) == recall(one, other) == pytest.approx(share, abs=1e-15)
    assert iou(one, other) == pytest.approx(share / (2 - share), abs=1e-15)


def test_precision_looks_at_the_prediction_and_recall_at_the_reference():
    reference = mask((0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3))
    prediction = mask((0, 0, 3), (0, 0, 4))
    assert count(reference, prediction) == Counts(tp=1, fp=1, fn=3)
    assert precision(reference, prediction) == 1 / 2
    assert recall(reference, prediction) == 1 / 4
    assert dice(reference, prediction) == count(reference, prediction).f1 == 2 / 6
    assert iou(reference, prediction) == 1 / 5


def test_precision_of_nothing_and_recall_of_nothing_are_not_numbers():
    assert np.isnan(precision(mask((0, 0, 0)), mask())) and recall(mask((0, 0, 0)), mask()) == 0
    assert precision(mask(), mask((0, 0, 0))) == 0 and np.isnan(recall(mask(), mask((0, 0, 0))))
    assert np.isnan(precision(mask(), mask())) and np.isnan(recall(mask(), mask()))
    assert iou(mask(), mask()) == 1 and iou(mask(), mask((0, 0, 0))) == 0


def test_counts_beyond_16_bits_do_not_overflow():
    whole = np.ones((100, 100, 100), dtype=bool)
    half = whole.copy()
    half[:50] = False
    assert dice(whole, half) == 2 * 500_000 / 1_500_000


@given(MASKS, MASKS)
def test_dice_is_symmetric_from_0_to_1_and_1_for_equal_masks_only(one, other):
    found = dice(one, other)
    assert 0 <= found <= 1
    assert found == dice(other, one)
    assert (found == 1) == np.array_equal(one, other)


@given(MASKS, MASKS)
def test_dice_is_that_of_sets(one, other):
    first, second = (set(map(tuple, np.argwhere(item))) for item in (one, other))
    total = len(first) + len(second)
    assert dice(one, other) == (2 * len(first & second) / total if total else 1)


@given(MASKS, MASKS)
def test_dice_follows_from_iou_and_from_precision_and_recall(one, other):
    found = count(one, other)
    assert found.dsc == pytest.approx(2 * found.iou / (1 + found.iou), abs=1e-15)
    if found.tp:
        assert found.dsc == pytest.approx(2 / (1 / found.precision + 1 / found.recall), abs=1e-15)


@pytest.mark.parametrize("shape", [(5, 4, 6), (4, 5), (4, 5, 1), ()])
def test_masks_of_other_shapes_are_refused_and_never_broadcast(shape):
    with pytest.raises(InputError, match=r"expected masks of one shape, got \(4, 5, 6\) and"):
        dice(mask(), np.ones(shape, dtype=bool))


def test_label_maps_are_not_taken_for_masks():
    with pytest.raises(InputError, match="prediction: expected a mask of type bool, got uint8"):
        dice(mask(), mask().astype(np.uint8))


@given(LABELS, LABELS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_counts_of_labels_are_those_of_their_masks_slice_by_slice(axis, one, other):
    found = count_labels(one, other, [1, 3, 7], axis)
    assert list(found) == [1, 3, 7]
    for label, counts in found.items():
        assert counts.shape == (one.shape[axis], 3) and counts.dtype == np.int64
        for n, slices in enumerate(zip(np.moveaxis(one, axis, 0), np.moveaxis(other, axis, 0), strict=True)):
            expected = count(slices[0] == label, slices[1] == label)
            assert counts[n].tolist() == [expected.tp, expected.fp, expected.fn]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.int64, bool])
def test_any_integer_type_and_any_label_value_will_do(kind):
    labels = [1] if kind is bool else [1, 77, int(np.iinfo(kind).max), 100_000]
    one = np.zeros((3, 4, 5), kind)
    other = np.zeros((3, 4, 5), np.int64)
    for n, label in enumerate(labels):
        if kind is bool or label <= np.iinfo(kind).max:
            one[1, n] = label
        other[1, n, 2:] = label
    found = count_labels(one, other, labels)
    assert [found[label].sum(axis=0).tolist() for label in labels[:3]] == [[3, 0, 2]] * len(labels[:3])


def test_four_slices_of_which_one_is_right_one_half_right_one_invented_and_one_empty():
    counts = np.array([[4, 0, 0], [1, 1, 1], [0, 2, 0], [0, 0, 0]])
    found = slice_scores(counts)
    assert found.f1_mean == (1 + 1 / 2 + 0 + 1) / 4
    assert found.iou_mean == pytest.approx((1 + 1 / 3 + 0 + 1) / 4)
    assert found.f1_positive_mean == (1 + 1 / 2) / 2
    assert found.iou_positive_mean == pytest.approx((1 + 1 / 3) / 2)
    assert found.f1_sd == pytest.approx(np.sqrt(np.mean([0.375**2, 0.125**2, 0.625**2, 0.375**2])))
    assert (found.slices, found.positive_slices, found.empty_fraction) == (4, 2, 0.5)


def test_a_prediction_of_nothing_scores_the_share_of_empty_slices():
    reference = np.zeros((100, 4, 4), np.uint8)
    reference[:34, 1, 1] = 2
    found = slice_scores(count_labels(reference, np.zeros_like(reference), [2])[2])
    assert found.f1_mean == found.iou_mean == found.empty_fraction == pytest.approx(0.66)
    assert found.f1_sd == pytest.approx(np.sqrt(0.66 * 0.34))
    assert found.f1_positive_mean == found.iou_positive_mean == 0


def test_without_a_positive_slice_their_mean_is_not_a_number():
    found = slice_scores(np.array([[0, 0, 0], [0, 3, 0]]))
    assert found.f1_mean == 0.5 and np.isnan(found.f1_positive_mean) and np.isnan(found.iou_positive_mean)


def test_maps_that_cannot_be_counted_are_refused():
    labels = np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(InputError, match="label maps of one shape"):
        count_labels(labels, labels[:1], [1])
    with pytest.raises(InputError, match="integer label map"):
        count_labels(labels, labels.astype(float), [1])
    with pytest.raises(InputError, match="integer label map"):
        count_labels(labels[0], labels[0], [1])
    with pytest.raises(InputError, match="integer label map"):
        count_labels(labels[:0], labels[:0], [1])
    with pytest.raises(OptionError, match="slice_axis: expected 0, 1 or 2"):
        count_labels(labels, labels, [1], 3)
    with pytest.raises(InputError, match="at least one slice"):
        slice_scores(np.zeros((0, 3), int))
