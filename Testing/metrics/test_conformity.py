from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from thoraxseg.errors import InputError
from thoraxseg.metrics import conformity
from thoraxseg.metrics.conformity import (
    Conformity,
    cigen,
    cigen_from_pairs,
    conformity_of_labels,
)

OBSERVERS = st.integers(2, 7).flatmap(lambda n: arrays(bool, (n, 3, 2, 4)))
LABEL_MAPS = st.integers(1, 6).flatmap(lambda n: arrays(np.int16, (n, 3, 2, 4), elements=st.integers(0, 3)))


def box(*edges, shape=(12, 12, 20)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*edge) for edge in edges)] = True
    return mask


def shifted_cubes(*shifts):
    return [box((1, 11), (1, 11), (shift, shift + 10)) for shift in shifts]


def nested_boxes():
    return [box((0, 10), (0, 10), (0, length)) for length in (4, 8, 16)]


CASES = {
    "two cubes of 1,000 that share 800": (shifted_cubes(0, 2), 2 / 3, (0, 400, 800), 800, 800),
    "three cubes shifted by 0, 2 and 4": (
        shifted_cubes(0, 2, 4),
        11 / 19,
        (0, 400, 400, 600),
        1000,
        600,
    ),
    "400 in 800 in 1,600": (nested_boxes(), 1600 / 4000, (0, 800, 400, 400), 800, 400),
}


@pytest.mark.parametrize(
    ("masks", "expected", "marked_by", "majority", "everyone"), CASES.values(), ids=CASES
)
def test_published_sets_of_observers_have_their_known_index(masks, expected, marked_by, majority, everyone):
    assert cigen(masks) == expected
    assert cigen_from_pairs(masks) == expected
    found = conformity_of_labels([mask.astype(np.uint8) for mask in masks], [1])[1]
    assert found.cigen == expected
    assert found.marked_by[1:] == marked_by[1:] and sum(found.marked_by) == masks[0].size
    assert (found.union_voxels, found.majority_voxels, found.all_voxels) == (
        sum(marked_by[1:]),
        majority,
        everyone,
    )


def test_the_index_is_not_the_mean_of_the_pairs_nor_common_over_encompassing():
    masks = shifted_cubes(0, 2, 4)
    pairs = [cigen([one, other]) for one, other in combinations(masks, 2)]
    assert round(sum(pairs) / 3, 6) == 0.587302
    assert round(600 / 1400, 6) == 0.428571
    assert round(cigen(masks), 6) == 0.578947


@given(OBSERVERS)
def test_pair_sums_and_count_map_agree_to_the_last_bit(masks):
    one, other = cigen(masks), cigen_from_pairs(masks)
    assert one == other or (np.isnan(one) and np.isnan(other) and not masks.any())


@given(OBSERVERS, st.randoms())
def test_the_order_of_the_observers_does_not_matter(masks, random):
    shuffled = list(masks)
    random.shuffle(shuffled)
    assert cigen(shuffled) == cigen(masks) or not masks.any()


def test_equal_observers_agree_wholly_and_disjoint_ones_not_at_all():
    one = box((0, 2), (0, 2), (0, 2))
    assert cigen([one] * 4) == 1
    assert cigen([one, np.roll(one, 5, axis=2)]) == 0


@pytest.mark.parametrize("masks", [[], [box((0, 1), (0, 1), (0, 1))], [box((0, 0))] * 3])
def test_no_pair_or_only_empty_masks_leave_the_index_undefined(masks):
    assert np.isnan(cigen(masks)) and np.isnan(cigen_from_pairs(masks))


def test_an_empty_contour_counts_but_an_observer_who_did_not_contour_is_left_out():
    one = box((0, 2), (0, 2), (0, 2)).astype(np.int32) * 9
    maps = [one, one, np.zeros_like(one)]
    assert conformity_of_labels(maps, [9])[9].cigen == 8 / 24
    without = conformity_of_labels(maps, [9], contoured=[{9}, {9}, set()])[9]
    assert without.observers == 2 and without.cigen == 1
    alone = conformity_of_labels(maps, [9], contoured=[{9}, {}, {}])[9]
    assert alone.observers == 1 and np.isnan(alone.cigen) and alone.majority_voxels == alone.all_voxels == 8


def test_a_structure_that_nobody_contoured_has_no_voxels_at_all():
    one = box((0, 2), (0, 2), (0, 2)).astype(np.uint8)
    found = conformity_of_labels([one, one], [1], contoured=[set(), set()])[1]
    assert found == Conformity(0, (one.size,))
    assert found.union_voxels == found.majority_voxels == found.all_voxels == 0 and np.isnan(found.cigen)


@pytest.mark.parametrize("slab_voxels", [1, 7, 1 << 18])
@given(label_maps=LABEL_MAPS, data=st.data())
def test_labels_of_a_pass_in_slabs_are_those_of_masks_one_by_one(slab_voxels, label_maps, data):
    sets = st.sets(st.integers(1, 4))
    contoured = data.draw(st.none() | st.lists(sets, min_size=len(label_maps), max_size=len(label_maps)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conformity, "SLAB_VOXELS", slab_voxels)
        found = conformity_of_labels(label_maps, [4, 1, 2, 3], contoured)
    assert list(found) == [4, 1, 2, 3]
    for label, one in found.items():
        who = [n for n in range(len(label_maps)) if contoured is None or label in contoured[n]]
        masks = label_maps[who] == label
        assert one.observers == len(who)
        assert one.marked_by == tuple(int((masks.sum(axis=0) == k).sum()) for k in range(len(who) + 1))
        expected = cigen_from_pairs(masks)
        assert one.cigen == expected or (np.isnan(one.cigen) and np.isnan(expected))


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "bool"]
)
def test_label_maps_of_any_integer_type_give_the_same_counts(dtype):
    maps = [mask.astype(dtype) for mask in shifted_cubes(0, 2, 4)]
    assert conformity_of_labels(maps, [1])[1].marked_by == (1480, 400, 400, 600)


def test_large_and_sparse_labels_are_counted_and_negative_voxels_are_none_of_them():
    label = 3_000_000_000
    one = np.array([[[0, -5, label, label, 7]]])
    other = np.array([[[0, -5, label, 2, 7]]])
    found = conformity_of_labels([one, other], [7, label])
    assert found[label] == Conformity(2, (3, 1, 1)) and found[7] == Conformity(2, (4, 0, 1))


def test_label_maps_of_different_types_and_memory_orders_are_compared_by_value():
    one = (np.arange(24).reshape(2, 3, 4) % 3).astype(np.uint8)
    other = np.asfortranarray(one.astype(np.int64))
    assert all(item.cigen == 1 for item in conformity_of_labels([one, other, one[:, :, :]], [1, 2]).values())


def test_more_observers_than_a_byte_can_count():
    masks = np.ones((300, 1, 1, 2), dtype=np.uint8)
    masks[0, 0, 0, 0] = 0
    found = conformity_of_labels(masks, [1])[1]
    assert found.marked_by[299:] == (1, 1) and sum(found.marked_by) == 2
    assert found.cigen == cigen(masks) == cigen_from_pairs(masks)


def test_volumes_beyond_32_bits_of_pairs_stay_whole_numbers():
    found = Conformity(3, (0, 3 * 10**18, 0, 2 * 10**18))
    assert found.cigen == 6 / 12


@pytest.mark.parametrize(
    ("maps", "labels", "contoured", "message"),
    [
        ([], [1], None, "at least one observer"),
        ([np.zeros((1, 2, 3), int), np.zeros((1, 3, 2), int)], [1], None, r"got \(1, 2, 3\) and \(1, 3, 2\)"),
        ([np.zeros((1, 2, 3))], [1], None, "got type float64"),
        ([np.zeros((1, 2, 3), int)], [0, 1], None, r"0 is background\), got \[0\]"),
        ([np.zeros((1, 2, 3), int)] * 3, [1], [{1}], "each of 3 observers, got 1"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused_with_what_came(maps, labels, contoured, message):
    with pytest.raises(InputError, match=message):
        conformity_of_labels(maps, labels, contoured)


@pytest.mark.parametrize("function", [cigen, cigen_from_pairs])
def test_masks_of_other_shapes_are_refused_and_never_broadcast(function):
    with pytest.raises(InputError, match="one shape"):
        function([np.ones((2, 2, 2), bool), np.ones((1, 2, 2), bool)])
