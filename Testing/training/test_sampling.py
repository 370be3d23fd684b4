"""Which patches come when: chances that are known on paper."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import chisquare

from thoraxseg.errors import InputError, OptionError
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.sampling import SamplingOptions
from thoraxseg.training.sampling.error_sampling import draw_by_error
from thoraxseg.training.sampling.positions import Positions, corner_ranges


def case(name="a", shape=(8, 10, 12), **boxes):
    """A case with labels in boxes such as `one=(slice, slice, slice)`; values count from 1."""
    labels = np.zeros(shape, np.uint8)
    for value, box in enumerate(boxes.values(), start=1):
        labels[box] = value
    return SimpleNamespace(id=name, labels=labels)


def drawn(cases, steps, error_map=lambda case: None, seed=0, **options):
    options = {"sampler": "uniform", "patch_size": (4, 4, 4), "batch_size": 2, **options}
    positions = Positions(cases, SamplingOptions(**options), seed, error_map)
    return [one for step in range(steps) for one in positions.at(step)]


def assert_even(counts, of):
    """Chi-square with a fixed seed: one unlucky seed in a thousand would fail, ours do not."""
    assert len(counts) == of
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_the_same_seed_gives_the_same_positions_in_any_order():
    cases = [case("a"), case("b"), case("c")]
    one, two = (Positions(cases, SamplingOptions("uniform", (4, 4, 4), 2), seed) for seed in (7, 7))
    forward = [one.at(step) for step in range(12)]
    assert [two.at(step) for step in reversed(range(12))] == forward[::-1]
    assert [Positions(cases, one.options, 8).at(step) for step in range(12)] != forward


def test_every_case_comes_once_before_any_comes_again():
    cases = [case(str(n)) for n in range(5)]
    order = [one.case for one in drawn(cases, 20, batch_size=2)]
    rounds = [order[n : n + 5] for n in range(0, 40, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 4


def test_uniform_patches_are_everywhere_in_the_image_alike():
    corners = Counter(one.corner for one in drawn([case(shape=(5, 6, 4))], 3000, batch_size=1))
    assert_even(corners, of=2 * 3 * 1)
    assert min(corners) == (0, 0, 0) and max(corners) == (1, 2, 0)


def test_an_image_smaller_than_the_patch_lies_in_its_middle():
    assert {one.corner for one in drawn([case(shape=(1, 3, 9))], 20)} >= {(-1, 0, 0), (-1, 0, 5)}
    assert corner_ranges((1, 3, 9), (4, 4, 4)) == [(-1, 1), (0, 1), (0, 6)]


def test_a_batch_has_the_patches_of_a_case_together():
    batch = drawn([case(str(n)) for n in range(3)], 1, batch_size=2, patches_per_case=12)
    assert len(batch) == 24
    assert [len(set(batch[n : n + 12])) > 1 for n in (0, 12)] == [True, True]
    assert len({one.case for one in batch[:12]}) == len({one.case for one in batch[12:]}) == 1


@pytest.mark.parametrize("share", [0.0, 1 / 3, 0.4, 1.0])
def test_balanced_patches_are_centered_on_structures_in_exactly_the_share(share):
    there = (slice(4, 5), slice(5, 6), slice(6, 7))
    batches = drawn([case(one=there)], 600, sampler="balanced", foreground_share=share, batch_size=1)
    centered = sum(one.corner == (2, 3, 4) for one in batches)
    by_chance = (600 - 600 * share) / (5 * 7 * 9)
    assert abs(centered - 600 * share) <= 1 + 6 * (by_chance**0.5 + by_chance)


def test_balanced_patches_take_the_classes_in_turn_however_small_they_are():
    large, small = (slice(0, 8), slice(0, 10), slice(0, 6)), (slice(4, 5), slice(5, 6), slice(9, 10))
    cases = [case("both", one=large, two=small)]
    found = drawn(cases, 400, sampler="balanced", foreground_share=1.0, batch_size=1)
    assert [one.corner == (2, 3, 7) for one in found] == [False, True] * 200


def test_a_case_without_the_class_whose_turn_it_is_gives_one_that_it_has():
    there = (slice(4, 5), slice(5, 6), slice(6, 7))
    cases = [case("first", one=there), case("none")]
    cases += [SimpleNamespace(id="second", labels=np.where(cases[0].labels == 1, 2, 0).astype(np.uint8))]
    found = drawn(cases, 60, sampler="balanced", foreground_share=1.0, batch_size=1)
    assert all(one.corner == (2, 3, 4) for one in found if one.case != 1)
    assert len({one.corner for one in found if one.case == 1}) > 10


def test_every_voxel_of_a_class_is_a_center_alike_and_voxels_to_ignore_are_none():
    line = case(one=(slice(4, 5), slice(5, 6), slice(2, 9)))
    line.labels[0] = IGNORE
    found = drawn([line], 2000, sampler="balanced", foreground_share=1.0, batch_size=1)
    assert_even(Counter(one.corner for one in found), of=7)


def test_patches_around_a_structure_at_the_edge_stay_in_the_image():
    corner = case(one=(slice(0, 1), slice(9, 10), slice(0, 1)))
    found = drawn([corner], 50, sampler="balanced", foreground_share=1.0)
    assert {one.corner for one in found} == {(0, 6, 0)}


def test_every_slice_comes_once_in_a_round():
    cases = [case("a", (3, 8, 8)), case("b", (4, 8, 8))]
    found = drawn(cases, 14, sampler="slices", patch_size=(1, 8, 8), batch_size=1)
    want = [(0, k) for k in range(3)] + [(1, k) for k in range(4)]
    for turn in (found[:7], found[7:]):
        assert sorted((one.case, one.corner[0]) for one in turn) == want
    assert {one.corner[1:] for one in found} == {(0, 0)}


def test_foreground_slices_are_those_with_a_structure():
    cases = [case("a", one=(slice(2, 4), slice(0, 1), slice(0, 1))), case("b")]
    cases[1].labels[5] = IGNORE
    found = drawn(cases, 10, sampler="slices", slices="foreground", patch_size=(1, 4, 4))
    assert {(one.case, one.corner[0]) for one in found} == {(0, 2), (0, 3)}
    with pytest.raises(InputError, match="expected slices with a structure"):
        drawn(cases[1:], 1, sampler="slices", slices="foreground", patch_size=(1, 4, 4))


def test_slices_larger_than_the_patch_are_cropped_anywhere():
    found = drawn([case("a", (1, 6, 5))], 1000, sampler="slices", patch_size=(1, 4, 4))
    assert_even(Counter(one.corner for one in found), of=3 * 2)


def test_training_on_no_case_is_refused():
    with pytest.raises(InputError, match="at least one case"):
        drawn([], 1)


def sorted_draws(errors, where, floor):
    """The definition: order (by error to 8 binary digits, then by place), cumulative sum, look up."""
    digits, exponent = np.frexp(errors)
    ranks = np.where(errors > 0, exponent * 128 + np.floor(digits * 256) - 128, -1e6)
    order = np.argsort(np.maximum(ranks, ranks.max() - 32 * 128 + 1), kind="stable")
    chance = (1 - floor) * errors[order].astype(np.float64) / errors.sum(
        dtype=np.float64
    ) + floor / errors.size
    return order[np.searchsorted(np.cumsum(chance) / chance.sum(), where, side="right")]


@pytest.mark.parametrize("floor", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("shape", [(5000,), (10, 20, 25)])
def test_draws_are_those_of_ordering_the_whole_map(shape, floor):
    rng = np.random.default_rng(3)
    errors = (rng.random(5000) ** 8).astype(np.float32)
    errors[rng.integers(0, 5000, 2000)] = 0
    where = (np.arange(40) + np.random.default_rng(9).random(40)) / 40
    got = draw_by_error(errors.reshape(shape), 40, np.random.default_rng(9), floor)
    np.testing.assert_array_equal(got, sorted_draws(errors, where, floor))


def test_drawing_takes_far_less_memory_than_the_map():
    whole = np.random.default_rng(0).random((70, 110, 110), dtype=np.float32) ** 8
    errors = whole[5:-5, 5:-5, 5:-5]  # the valid centers of a map on the disk
    tracemalloc.start()
    try:
        draw_by_error(errors, 12, np.random.default_rng(1), 0.01)
        assert tracemalloc.get_traced_memory()[1] < errors.size * 4 / 1.5
    finally:
        tracemalloc.stop()


def test_looking_for_classes_and_slices_takes_far_less_memory_than_the_labels():
    labels = np.zeros((60, 120, 120), np.uint8)
    labels[30, 50, 50], labels[31, 60, 60] = 2, IGNORE
    balance = SamplingOptions("balanced", (4, 4, 4), 1)
    few = SamplingOptions("slices", (1, 8, 8), 1, slices="foreground")
    tracemalloc.start()
    try:
        balanced = Positions([SimpleNamespace(id="a", labels=labels)], balance, 0)
        slices = Positions([SimpleNamespace(id="a", labels=labels)], few, 0)
        assert tracemalloc.get_traced_memory()[1] < labels.size / 2
    finally:
        tracemalloc.stop()
    assert balanced.classes == (2,) and slices.count == 1


def test_labels_are_held_only_while_they_are_looked_at():
    """An open memory map is an open file, and of those a process may have 256 on a Mac."""
    held = []

    class Opened:
        id = "a"

        @property
        def labels(self):
            array = np.zeros((8, 9, 10), np.uint8).view(Watched)
            array[4, 4, 4] = 1
            held.append(weakref.ref(array))
            return array

    positions = Positions([Opened()], SamplingOptions("balanced", (4, 4, 4), 1, foreground_share=1), 0)
    positions.at(0)
    gc.collect()
    assert held and not any(one() is not None for one in held)


class Watched(np.ndarray):
    """An array that can be pointed at weakly, as a memory map can."""


def test_frequencies_follow_the_map_and_the_floor():
    errors = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 0.0]], np.float32)
    rng = np.random.default_rng(1)
    floor, times = 0.12, 5_000
    got = np.bincount([draw_by_error(errors, 1, rng, floor)[0] for _ in range(times)], minlength=6)
    expected = (1 - floor) * errors.ravel() / 10 + floor / 6
    assert chisquare(got, expected * times).pvalue > 1e-3
    assert got[[0, 5]].min() > 0


def test_without_a_floor_places_without_an_error_are_never_drawn():
    errors = np.zeros(1000, np.float32)
    errors[[10, 500]] = 1e-3, 1.0
    assert set(draw_by_error(errors, 5000, np.random.default_rng(0))) == {10, 500}


def test_draws_are_stratified_over_the_sorted_errors():
    errors = np.random.default_rng(2).permutation(np.arange(1, 101)).astype(np.float32)
    chosen = errors[draw_by_error(errors, 20, np.random.default_rng(0))]
    ends = np.cumsum(np.arange(1, 101)) / 5050
    for k, error in enumerate(chosen):  # the k-th is from the k-th twentieth of the summed error
        assert ends[int(error) - 1] > k / 20 and (ends[int(error) - 2] if error > 1 else 0) < (k + 1) / 20


def test_a_map_without_any_error_is_drawn_from_evenly():
    rng = np.random.default_rng(0)
    got = np.concatenate([draw_by_error(np.zeros((2, 2, 2)), 3, rng, 0.01) for _ in range(2000)])
    assert_even(Counter(got.tolist()), of=8)


def test_the_minimum_of_a_map_with_negative_values_is_subtracted():
    rng = np.random.default_rng(4)
    got = np.concatenate([draw_by_error(np.array([-2.0, 0.0, 1.0]), 5, rng) for _ in range(800)])
    assert chisquare(np.bincount(got)[1:], [1600, 2400]).pvalue > 1e-3
    assert 0 not in got


def test_isample_centers_patches_where_the_error_is():
    errors = np.zeros((8, 10, 12), np.float32)
    errors[4, 5, 6] = 0.5
    options = {"sampler": "isample", "patches_per_case": 12, "floor": 0.0}
    assert {p.corner for p in drawn([case()], 3, lambda one: errors, **options)} == {(2, 3, 4)}


def test_isample_knows_only_centers_of_patches_inside_the_image():
    errors = np.zeros((8, 10, 12), np.float32)
    errors[0, 5, 6] = 1.0  # a center here would put the patch outside
    errors[2, 2, 2] = 0.1  # the first valid center
    errors[6, 8, 10] = 0.1  # the last
    options = {"sampler": "isample", "patches_per_case": 12, "floor": 0.0}
    found = drawn([case()], 5, lambda one: errors, **options)
    assert {p.corner for p in found} == {(0, 0, 0), (4, 6, 8)}


def test_isample_draws_evenly_before_the_first_map():
    options = {"sampler": "isample", "patches_per_case": 2, "batch_size": 1}
    assert_even(Counter(p.corner for p in drawn([case(shape=(5, 5, 5))], 2000, **options)), of=8)


def test_isample_takes_images_smaller_than_the_patch():
    options = {"sampler": "isample", "patches_per_case": 3}
    for error in (None, np.ones((1, 3, 9), np.float32)):
        found = drawn([case(shape=(1, 3, 9))], 20, lambda one, error=error: error, **options)
        assert {one.corner[:2] for one in found} == {(-1, 0)} and len({one.corner[2] for one in found}) == 6


def test_the_answer_of_a_network_covers_the_image_to_its_edge():
    options = {"patch_size": (9, 9, 9), "answer_size": (3, 3, 3), "batch_size": 1}
    corners = [one.corner for one in drawn([case(shape=(5, 5, 5))], 400, **options)]
    assert min(corners) == (0, 0, 0) and max(corners) == (2, 2, 2)
    assert SamplingOptions("uniform", **options).margins == (3, 3, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": "random"}, "one of uniform, balanced"),
        ({"patch_size": (4, 4)}, "three numbers"),
        ({"patch_size": None}, "expected a patch_size"),
        ({"patch_size": (4, 4, 0)}, "three numbers"),
        ({"batch_size": 0}, "from 1, got 0"),
        ({"batch_size": True}, "from 1, got True"),
        ({"floor": 1.1}, "from 0 to 1"),
        ({"foreground_share": float("nan")}, "from 0 to 1"),
        ({"map_step": 0}, "from 0.001 to 1"),
        ({"error": "cubic"}, "absolute, squared"),
        ({"slices": "some"}, "all, foreground"),
        ({"sampler": "slices"}, r"patch_size \(1, h, w\)"),
        ({"sampler": "slices", "patch_size": (1, 4, 4), "patches_per_case": 2}, "patches_per_case 1"),
        ({"answer_size": (3, 3, 3)}, "center of a patch"),
        ({"answer_size": (6, 6, 6)}, "center of a patch"),
        ({"sampler": "whole", "answer_size": (2, 2, 2)}, "no answer_size"),
    ],
)
def test_sampling_that_cannot_be_is_refused_with_words(changes, words):
    with pytest.raises(OptionError, match=words):
        SamplingOptions(**{"sampler": "uniform", "patch_size": (4, 4, 4), "batch_size": 2, **changes})


def test_sizes_from_json_are_as_good_as_tuples():
    options = SamplingOptions("uniform", [4, 4, 4], 1, answer_size=[2, 2, 2])
    assert options.patch_size == (4, 4, 4) and options.box == (2, 2, 2)
    assert all(a <= b for a, b in pairwise((0, options.margins[0], 1)))
