import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics import conformity
from thoraxseg.metrics.conformity import cigen
from thoraxseg.metrics.consensus import (
    STAPLE_THRESHOLD,
    consensus_labels,
    disagreement,
    leave_one_out,
    majority,
    staple,
    unanimous,
)

LABEL_MAPS = st.integers(2, 6).flatmap(lambda n: arrays(np.int16, (n, 3, 2, 4), elements=st.integers(0, 3)))


def row(*values, dtype=np.int16):
    return np.array([[values]], dtype=dtype)


def noisy_balls(radii, shape=(20, 24, 28), center=(9, 12, 14), seed=4):
    grid = np.stack(np.indices(shape), axis=-1)
    distance = np.linalg.norm(grid - np.array(center), axis=-1)
    noise = np.random.default_rng(seed)
    return [distance + noise.normal(0, 0.7, shape) < radius for radius in radii]


@pytest.mark.parametrize(
    ("observers", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4)], ids=lambda value: str(value)
)
def test_the_majority_is_strict(observers, needed):
    # Voxel k is marked by the first k observers.
    masks = [row(*(k > n for k in range(observers + 1)), dtype=bool) for n in range(observers)]
    assert majority(masks).ravel().tolist() == [k >= needed for k in range(observers + 1)]
    assert unanimous(masks).ravel().tolist() == [k == observers for k in range(observers + 1)]


def test_three_shifted_cubes_have_a_majority_of_1000_voxels_and_600_in_common():
    masks = np.zeros((3, 10, 10, 14), dtype=bool)
    for n in range(3):
        masks[n, :, :, 2 * n : 2 * n + 10] = True
    assert majority(masks).sum() == 1000 and unanimous(masks).sum() == 600
    assert np.array_equal(majority(masks), masks[1])


@pytest.mark.parametrize("function", [majority, unanimous, staple])
def test_no_observer_or_masks_of_different_shape_are_refused(function):
    with pytest.raises(InputError, match="at least one observer"):
        function([])
    with pytest.raises(InputError, match="one shape"):
        function([np.ones((2, 2, 2), bool), np.ones((1, 2, 2), bool)])


def expectation_maximization(votes, rounds=2000):
    """Return STAPLE by its formulas, on `(observers, voxels)` bool votes of the whole domain."""
    prior = votes.mean()
    sensitivity = specificity = np.full(len(votes), 0.99999)
    for _ in range(rounds):
        one = np.where(votes, sensitivity[:, None], 1 - sensitivity[:, None]).prod(axis=0) * prior
        other = np.where(votes, 1 - specificity[:, None], specificity[:, None]).prod(axis=0) * (1 - prior)
        weight = one / (one + other)
        sensitivity = (votes * weight).sum(axis=1) / weight.sum()
        specificity = (~votes * (1 - weight)).sum(axis=1) / (1 - weight).sum()
    return weight, sensitivity, specificity


def test_staple_is_expectation_maximization_on_the_box_with_a_voxel_of_background():
    masks = noisy_balls((5, 5.5, 6, 5.2, 4))
    found = staple(masks)
    places = np.argwhere(np.any(masks, axis=0))
    low, high = places.min(axis=0), places.max(axis=0) + 1
    domain = tuple(slice(*edge) for edge in zip(low - 1, high + 1, strict=True))
    votes = np.stack([mask[domain].ravel() for mask in masks])
    weight, sensitivity, specificity = expectation_maximization(votes)
    expected = np.zeros(masks[0].shape)
    expected[domain] = weight.reshape(high - low + 2)
    outside = np.ones(masks[0].shape, dtype=bool)
    outside[tuple(slice(*edge) for edge in zip(low, high, strict=True))] = False
    expected[outside] = 0
    assert found.probability.dtype == np.float32
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)
    np.testing.assert_allclose(found.sensitivity, sensitivity, atol=1e-5)
    np.testing.assert_allclose(found.specificity, specificity, atol=1e-5)


def test_staple_trusts_the_three_who_agree_more_than_the_one_who_draws_twice_as_much():
    good = noisy_balls((6, 6, 6))
    (wide,) = noisy_balls((8,))
    found = staple([*good, wide])
    assert found.specificity[3] < min(found.specificity[:3])
    assert not (found.probability > STAPLE_THRESHOLD)[wide & ~np.any(good, axis=0)].any()


def test_staple_does_not_depend_on_the_air_around_the_structure():
    masks = noisy_balls((5, 5.5, 6))
    wide = [np.pad(mask, ((0, 9), (3, 0), (20, 7))) for mask in masks]
    near, far = staple(masks), staple(wide)
    assert near.sensitivity == far.sensitivity and near.specificity == far.specificity
    assert np.array_equal(far.probability[:20, 3:, 20:48], near.probability)


def test_staple_at_the_end_of_the_image_is_the_same_as_inside():
    inside = [np.pad(np.ones((3, 3, 3), bool), 2), np.pad(np.ones((3, 3, 2), bool), ((2, 2), (2, 2), (2, 3)))]
    cut = [mask[2:5, 2:5, 2:5] for mask in inside]
    assert np.array_equal(staple(cut).probability, staple(inside).probability[2:5, 2:5, 2:5])
    assert np.isfinite(staple(cut).specificity).all()


def test_staple_of_equal_masks_is_that_mask_and_of_empty_masks_is_empty():
    mask = noisy_balls((5,))[0]
    for masks in ([mask], [mask, mask, mask]):
        assert np.array_equal(staple(masks).probability > STAPLE_THRESHOLD, mask)
    full = np.ones((2, 3, 4), bool)
    assert (staple([full, full]).probability > STAPLE_THRESHOLD).all()
    empty = staple([~full, ~full])
    assert not empty.probability.any() and np.isnan(empty.sensitivity + empty.specificity).all()


def test_staple_of_a_structure_of_megabytes_stays_whole():
    masks = np.zeros((3, 100, 100, 100), dtype=bool)
    for n, mask in enumerate(masks):
        mask[n : 98 + n] = True
    found = staple(masks).probability
    assert np.array_equal(found > STAPLE_THRESHOLD, majority(masks))
    assert found.min() >= 0 and found.max() <= 1


def test_staple_refuses_a_single_slice_without_its_axis():
    with pytest.raises(InputError, match=r"\(K, J, I\)"):
        staple([np.ones((2, 3), bool)])


def test_the_consensus_of_labels_takes_two_of_three_and_both_of_two():
    maps = [row(1, 1, 1, 2, 2, 0), row(1, 1, 0, 2, 0, 2), row(1, 0, 0, 0, 0, 0)]
    consensus, notes = consensus_labels(maps, [1, 2])
    assert consensus.ravel().tolist() == [1, 1, 0, 2, 0, 0] and notes == []
    consensus, _ = consensus_labels(maps, [1, 2], rule="all")
    assert consensus.ravel().tolist() == [1, 0, 0, 0, 0, 0]
    # The cord of two observers: both must mark it, and the third does not make it fail.
    consensus, _ = consensus_labels(maps, [1, 2], contoured=[{1, 2}, {1, 2}, {1}], rule="all")
    assert consensus.ravel().tolist() == [1, 0, 0, 2, 0, 0]
    assert consensus.dtype == np.uint8 and consensus.shape == (1, 1, 6)


@pytest.mark.parametrize("slab_voxels", [1, 1 << 18])
def test_a_voxel_claimed_twice_goes_to_the_larger_share_and_is_counted(slab_voxels, monkeypatch):
    monkeypatch.setattr(conformity, "SLAB_VOXELS", slab_voxels)
    # Observers 0-2 draw label 1, observers 3 and 4 label 2; voxel 0: 2 of 3 against 2 of 2; voxel 1: 3 of 3, 2 of 2.
    maps = [row(1, 1, 1), row(1, 1, 1), row(0, 1, 1), row(2, 2, 0), row(2, 2, 0)]
    maps = [item.reshape(3, 1, 1) for item in maps]
    consensus, notes = consensus_labels(maps, [2, 1], contoured=[{1}, {1}, {1}, {2}, {2}])
    assert consensus.ravel().tolist() == [2, 1, 1]
    assert notes == [
        "2 voxels were claimed by more than one structure; each went to the one with the larger share of its "
        "observers, 1 at equal values to the lower label"
    ]


def test_a_tie_that_a_third_structure_settles_is_not_counted_as_tied():
    maps = [row(1, 1), row(1, 1), row(0, 0), row(2, 2), row(2, 2), row(0, 0), row(3, 0)]
    consensus, notes = consensus_labels(maps, [1, 2, 3], contoured=[{1}, {1}, {1}, {2}, {2}, {2}, {3}])
    assert consensus.ravel().tolist() == [3, 1]
    assert "2 voxels were claimed" in notes[1] and " 1 at equal values" in notes[1]


def test_structures_of_one_observer_or_of_none_are_noted():
    maps = [row(1, 300, 0), row(1, 0, 0)]
    consensus, notes = consensus_labels(maps, [1, 5, 300], contoured=[{1, 300}, {1}])
    assert consensus.ravel().tolist() == [1, 300, 0] and consensus.dtype == np.uint16
    assert notes == [
        "label 5: no observer contoured it; left empty",
        "label 300: one observer contoured it; the consensus is that contour",
    ]


@pytest.mark.parametrize("slab_voxels", [1, 9, 1 << 18])
@given(label_maps=LABEL_MAPS)
def test_the_consensus_of_labels_is_that_of_each_label_alone(slab_voxels, label_maps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conformity, "SLAB_VOXELS", slab_voxels)
        found, notes = consensus_labels(label_maps, [1, 2, 3])
        everyone, _ = consensus_labels(label_maps, [1, 2, 3], rule="all")
    assert notes == []
    for label in (1, 2, 3):
        assert np.array_equal(found == label, majority(label_maps == label))
        assert np.array_equal(everyone == label, unanimous(label_maps == label))


def test_the_consensus_by_staple_is_that_of_each_label_alone():
    masks, others = noisy_balls((4, 4.5, 5)), noisy_balls((3, 3.5, 3.2), center=(10, 12, 23))
    maps = [np.where(one, 4, np.where(other, 9, 0)) for one, other in zip(masks, others, strict=True)]
    consensus, notes = consensus_labels(maps, [4, 9, 11], rule="staple")
    assert notes == []
    for label in (4, 9):
        expected = staple([item == label for item in maps]).probability > STAPLE_THRESHOLD
        assert expected.any() and np.array_equal(consensus == label, expected)


def test_two_structures_that_staple_claims_are_settled_by_probability_and_counted():
    one, other = np.zeros((2, 3, 3, 8), dtype=np.int16)
    one[..., :5], other[..., 4:] = 1, 2
    # The first draws only label 1, the second only label 2: they overlap in one plane of 9 voxels.
    consensus, notes = consensus_labels([one, other], [1, 2], contoured=[{1}, {2}], rule="staple")
    assert consensus[0, 0].tolist() == [1, 1, 1, 1, 1, 2, 2, 2]
    assert notes[-1] == (
        "9 voxels were claimed by more than one structure; each went to the one with the larger probability, "
        "9 at equal values to the lower label"
    )


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(OptionError, match='"majority", "all" or "staple", got \'most\''):
        consensus_labels([row(1)], [1], rule="most")


@pytest.mark.parametrize("slab_voxels", [1, 1 << 18])
@given(label_maps=LABEL_MAPS, data=st.data())
def test_each_observer_is_compared_with_the_majority_of_the_others(slab_voxels, label_maps, data):
    sets = st.sets(st.integers(1, 3))
    contoured = data.draw(st.none() | st.lists(sets, min_size=len(label_maps), max_size=len(label_maps)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conformity, "SLAB_VOXELS", slab_voxels)
        rows = leave_one_out(label_maps, [1, 2, 3], contoured)
    expected_rows = []
    for label in (1, 2, 3):
        who = [n for n in range(len(label_maps)) if contoured is None or label in contoured[n]]
        expected_rows += [(label, n, who) for n in who]
    assert [(item["label"], item["observer"]) for item in rows] == [item[:2] for item in expected_rows]
    for item, (label, n, who) in zip(rows, expected_rows, strict=True):
        masks = {m: label_maps[m] == label for m in who}
        own = masks.pop(n)
        assert item["others"] == len(masks) and item["voxels_observer"] == own.sum()
        assert all((item[key] is None) == (key in item["undefined"]) for key in item)
        if not masks:
            assert item["dsc"] is None and item["cigen"] is None
            continue
        others = majority(list(masks.values()))
        both, total = (own & others).sum(), own.sum() + others.sum()
        assert (item["voxels_both"], item["voxels_others_consensus"]) == (both, others.sum())
        assert item["dsc"] == (2 * both / total if total else 1)
        assert item["iou"] == (both / (total - both) if total else 1)
        for key, some in (("cigen", [own, *masks.values()]), ("cigen_without", list(masks.values()))):
            expected = cigen(some)
            assert item[key] == (None if np.isnan(expected) else expected)


def test_leaving_out_the_one_who_differs_raises_the_index():
    one = row(1, 1, 1, 1, 0, 0)
    rows = leave_one_out([one, one, row(0, 0, 1, 1, 1, 1)], [1])
    assert [item["cigen_without"] for item in rows] == [2 / 6, 2 / 6, 1]
    assert rows[0]["cigen"] == (4 + 2 + 2) / (4 + 6 + 6)
    assert rows[2]["dsc"] == 0.5


def test_two_observers_leave_no_index_without_one_of_them_and_say_so():
    (first, _) = leave_one_out([row(1, 1), row(1, 0)], [1])
    assert first["cigen"] == 0.5 and first["cigen_without"] is None
    assert first["undefined"] == {"cigen_without": "only one observer is left"}


def test_the_share_of_pairs_that_differ_is_known_on_paper():
    maps = [row(0, 1, 1, 1, 2), row(0, 1, 1, 2, 2), row(0, 1, 0, 3, 2)]
    found = disagreement(maps)
    assert found.dtype == np.float32 and found.shape == (1, 1, 5)
    np.testing.assert_allclose(found.ravel(), [0, 0, 2 / 3, 1, 0], rtol=1e-6)
    maps.append(row(0, 1, 0, 3, 1))
    np.testing.assert_allclose(disagreement(maps).ravel(), [0, 0, 4 / 6, 5 / 6, 3 / 6], rtol=1e-6)


def test_a_pair_does_not_count_where_one_of_them_left_the_structure_out():
    # Observer 2 has no cord (2): where it lies only the pair of the others is asked.
    maps = [row(2, 2, 2, 1), row(2, 0, 1, 1), row(0, 0, 0, 0)]
    found = disagreement(maps, contoured=[{1, 2}, {1, 2}, {1}])
    np.testing.assert_allclose(found.ravel(), [0, 1 / 2, 1, 2 / 3], rtol=1e-6)
    alone = disagreement([row(2), row(0)], contoured=[{2}, {1}])
    assert alone.item() == 0


@pytest.mark.parametrize("slab_voxels", [1, 1 << 18])
@given(label_maps=LABEL_MAPS)
def test_disagreement_is_that_of_all_pairs_whatever_the_slabs(slab_voxels, label_maps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conformity, "SLAB_VOXELS", slab_voxels)
        found = disagreement(label_maps)
    n = len(label_maps)
    expected = (label_maps[:, None] != label_maps[None]).sum(axis=(0, 1)) / (n * (n - 1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_disagreement_needs_two_observers():
    with pytest.raises(InputError, match="at least two observers, got 1"):
        disagreement([row(1)])
