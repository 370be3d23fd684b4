"""Cleaning on request: what goes and what comes, told in voxels and mm3; nobody grows into a neighbor."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.checkpoints.card import Cleanup, Region, Step
from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.postprocess import RULES, Cleaning, Unit, clean, clean_up, words_of, words_of_card
from thoraxseg.postprocess.cleaning import RULE_WORDS, scaled_for_slice_filter
from thoraxseg.postprocess.components import keep_largest
from thoraxseg.postprocess.morphology import close_ball_mm, fill_holes
from thoraxseg.segmentation import STRUCTURES, Segmentation, Structure
from thoraxseg.volume import Volume, reorient

TWO = {1: STRUCTURES["lungs"], 2: STRUCTURES["tumors"]}
SPACING = (0.5, 0.2, 0.2)
"""(k, j, i) in mm: a voxel of 0.02 mm3."""


def scan(labels, structures=None, spacing=SPACING, image=None):
    """Return contours and an image of zeros on the same grid."""
    labels = np.asarray(labels, np.uint8)
    matrix = np.diag([*spacing[::-1], 1.0])
    array = np.zeros(labels.shape, np.int16) if image is None else image
    return Segmentation(labels, matrix, structures or TWO, "mouse 7"), Volume(array, matrix, "mouse 7")


@pytest.fixture
def pieces():
    """Two pieces of lung, of 27 and of 3 voxels, and a tumor of one voxel."""
    labels = np.zeros((8, 12, 12), np.uint8)
    labels[1:4, 1:4, 1:4] = 1
    labels[6, 8, 8:11] = 1
    labels[6, 3, 9] = 2
    return labels


@pytest.fixture
def bright_middle():
    """Ten slices, of which 3 to 6 show a bright square."""
    image = np.zeros((10, 64, 64), np.int16)
    image[3:7, 16:48, 16:48] = 900
    return image


def test_without_a_rule_nothing_changes_and_that_is_said(pieces):
    segmentation, image = scan(pieces)
    found, said = clean(segmentation, image, Cleaning())
    np.testing.assert_array_equal(found.labels, pieces)
    assert said == ["Nothing changed."]


def test_the_original_is_never_altered(pieces):
    segmentation, image = scan(pieces)
    before = pieces.copy()
    found, _ = clean(segmentation, image, Cleaning(min_size=4, fill_holes=True, closing_mm=1))
    np.testing.assert_array_equal(segmentation.labels, before)
    assert found.labels is not segmentation.labels
    assert (found.structures, found.name) == (segmentation.structures, segmentation.name)


@pytest.mark.parametrize(
    ("size", "unit", "left"),
    [(3, "voxels", 30), (3.5, "voxels", 27), (4, "voxels", 27), (0.06, "mm3", 30), (0.061, "mm3", 27)],
)
def test_small_pieces_go_by_voxels_or_by_mm3_and_one_of_exactly_the_limit_stays(pieces, size, unit, left):
    found, _ = clean(*scan(pieces), Cleaning(min_size=size, min_size_unit=unit, structures=("lungs",)))
    assert np.count_nonzero(found.labels == 1) == left
    assert np.count_nonzero(found.labels == 2) == 1


def test_what_went_is_told_for_each_structure_in_voxels_and_mm3(pieces):
    _, said = clean(*scan(pieces), Cleaning(min_size=4))
    assert said == [
        "Lungs: 1 piece below 4 voxels: 3 voxels (0.06 mm3) removed.",
        "Tumors: 1 piece below 4 voxels: 1 voxel (0.02 mm3) removed.",
        "Tumors: nothing is left of it.",
    ]


def test_an_absent_structure_is_not_spoken_of(pieces):
    pieces[pieces == 2] = 0
    _, said = clean(*scan(pieces), Cleaning(min_size=4))
    assert not any("Tumors" in sentence for sentence in said)


@pytest.mark.parametrize(("connectivity", "left"), [(6, 0), (18, 2), (26, 2)])
def test_what_is_one_piece_is_for_the_user_to_say(connectivity, left):
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 2] = labels[2, 3, 3] = 1
    found, _ = clean(*scan(labels), Cleaning(min_size=2, connectivity=connectivity))
    assert np.count_nonzero(found.labels) == left


def test_only_the_largest_piece_stays(pieces):
    found, said = clean(*scan(pieces), Cleaning(largest_only=True))
    assert np.count_nonzero(found.labels == 1) == 27 and np.count_nonzero(found.labels == 2) == 1
    assert said == ["Lungs: 1 piece besides the largest: 3 voxels (0.06 mm3) removed."]


def test_a_removed_piece_nearly_as_large_as_the_one_kept_is_pointed_out():
    labels = np.zeros((3, 9, 9), np.uint8)
    labels[1, 1:4, 1:4], labels[1, 6:8, 5:9] = 1, 1  # two lungs in one label
    _, said = clean(*scan(labels), Cleaning(largest_only=True))
    assert "one of the pieces removed has 0.16 mm3, the largest 0.18 mm3" in said[-1]


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR"])
def test_which_piece_stays_does_not_depend_on_how_the_array_is_turned(codes):
    mask = np.zeros((4, 9, 9), bool)
    mask[1, 1, 1:4] = mask[2, 7, 5:8] = mask[3, 4, 4] = True
    turned, matrix = reorient(mask, np.eye(4), codes)
    back, _ = reorient(keep_largest(turned, 6), matrix, "RAS")
    np.testing.assert_array_equal(back, keep_largest(mask, 6))
    assert keep_largest(mask, 6).sum() == 6, "of equal pieces all stay"
    assert not keep_largest(np.zeros((2, 2, 2), bool), 6).any()


@pytest.fixture
def hollow():
    """A box with a cavity of 3 x 3 x 3 voxels, and a tunnel of one voxel that runs through it along k."""
    labels = np.zeros((9, 11, 15), np.uint8)
    labels[1:8, 1:10, 1:14] = 1
    labels[3:6, 3:6, 3:6] = 0
    labels[:, 7, 11] = 0
    return labels


def test_cavities_closed_on_all_sides_are_filled_and_tunnels_stay_open(hollow):
    found, said = clean(*scan(hollow), Cleaning(fill_holes=True))
    assert (found.labels[3:6, 3:6, 3:6] == 1).all()
    assert (found.labels[:, 7, 11] == 0).all()
    assert said == ["Lungs: holes filled: 27 voxels (0.54 mm3) added."]


def test_a_cavity_at_the_border_of_the_image_is_not_known_to_be_closed(hollow):
    assert not fill_holes(hollow[4:] == 1)[0, 4, 4]


def test_filling_and_closing_never_take_a_voxel_of_another_structure(hollow):
    hollow[4, 4, 4] = 2
    hollow[4, 7, 11] = 2
    found, _ = clean(*scan(hollow), Cleaning(fill_holes=True, closing_mm=2))
    np.testing.assert_array_equal(found.labels == 2, hollow == 2)
    assert np.count_nonzero(found.labels == 1) > np.count_nonzero(hollow == 1)


def test_a_gap_that_two_structures_would_close_goes_to_the_first_label():
    labels = np.random.default_rng(5).choice([0, 1, 2], size=(9, 12, 12), p=[0.2, 0.4, 0.4])
    wished = (
        close_ball_mm(labels == 1, 0.5, SPACING) & close_ball_mm(labels == 2, 0.5, SPACING) & (labels == 0)
    )
    assert wished.any()
    found, _ = clean(*scan(labels), Cleaning(closing_mm=0.5))
    assert (found.labels[wished] == 1).all()


@pytest.mark.parametrize(
    ("radius", "along_k", "along_i"), [(0.19, 0, 0), (0.2, 0, 2), (0.5, 2, 4), (1.0, 4, 10)]
)
def test_the_ball_of_closing_is_round_in_the_patient(radius, along_k, along_i):
    """Two plates of voxels with a gap are closed up to twice the radius, in mm, whatever the spacing."""
    for axis, widest in ((0, along_k), (2, along_i)):
        for gap in range(1, 12):
            mask = np.zeros((40, 40, 40), bool)
            plates = np.moveaxis(mask, axis, 0)
            plates[10:14] = plates[14 + gap : 18 + gap] = True
            closed = np.moveaxis(close_ball_mm(mask, radius, SPACING), axis, 0)
            assert closed[14 : 14 + gap, 20, 20].all() == (gap <= widest), (axis, gap)


def test_closing_is_what_dilation_and_erosion_with_the_ball_give():
    from scipy.ndimage import binary_dilation, binary_erosion

    mask = np.random.default_rng(3).random((14, 18, 18)) > 0.9
    k, j, i = np.mgrid[-2:3, -4:5, -4:5]
    ball = (k * SPACING[0]) ** 2 + (j * SPACING[1]) ** 2 + (i * SPACING[2]) ** 2 <= 0.8**2 + 1e-9
    wide = np.pad(mask, 6)
    expected = binary_erosion(binary_dilation(wide, ball), ball)[6:-6, 6:-6, 6:-6]
    np.testing.assert_array_equal(close_ball_mm(mask, 0.8, SPACING), expected)


def test_what_is_taken_away_goes_before_anything_is_added():
    """A crumb inside of a cavity goes first, or it would keep its own hole in the filling."""
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[1:6, 1:6, 1:6] = 1
    labels[2:5, 2:5, 2:5] = 0
    labels[3, 3, 3] = 2
    found, _ = clean(*scan(labels), Cleaning(min_size=2, fill_holes=True))
    assert (found.labels[2:5, 2:5, 2:5] == 1).all()


def test_structures_are_known_by_key_or_by_the_name_of_a_segment_drawn_by_hand(pieces):
    by_hand = Structure("Segment_1", "Tumour", (1, 0, 0), STRUCTURES["tumors"].terminology)
    found, _ = clean(
        *scan(pieces, {1: STRUCTURES["lungs"], 2: by_hand}), Cleaning(min_size=4, structures=["tumors"])
    )
    assert np.count_nonzero(found.labels == 1) == 30 and not (found.labels == 2).any()


def test_a_structure_that_is_not_there_is_refused_with_those_that_are(pieces):
    with pytest.raises(OptionError, match="has no heart; it has lungs, tumors"):
        clean(*scan(pieces), Cleaning(structures=("heart",)))


@pytest.mark.parametrize("scale", [(1, 0), (0.01, -3), (50, -1000)], ids=str)
def test_the_slice_filter_trims_flat_ends_whatever_the_scale_of_the_image(bright_middle, scale):
    image = bright_middle * scale[0] + scale[1]
    image = image.astype(np.float32)
    image[5, 30, 30] = 1e6  # one voxel of metal
    segmentation, volume = scan(np.ones(image.shape), spacing=(1, 1, 1), image=image)
    found, said = clean(segmentation, volume, Cleaning(slice_filter=True))
    assert np.flatnonzero(found.labels.any(axis=(1, 2))).tolist() == [3, 4, 5, 6]
    assert said[0] == "Slice filter: edges are in slices 3 to 6 of 0 to 9 (k)."
    assert said[1] == "Lungs: slices at flat ends: 24576 voxels (2.458e+04 mm3) removed."


def test_the_slice_filter_empties_the_slices_of_the_image_wherever_a_structure_begins(bright_middle):
    labels = np.zeros(bright_middle.shape)
    labels[2:9, 10:12, 10:12] = 1
    found, _ = clean(*scan(labels, image=bright_middle), Cleaning(slice_filter=True))
    assert np.flatnonzero(found.labels.any(axis=(1, 2))).tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("image", [np.zeros((4, 32, 32)), np.full((4, 32, 32), 7)], ids=["dark", "constant"])
def test_a_slice_filter_that_would_empty_everything_is_left_out_and_said(image):
    labels = np.ones(image.shape)
    found, said = clean(*scan(labels, image=image), Cleaning(slice_filter=True, min_size=2))
    assert found.labels.all()
    assert "would have emptied all 4" in said[0] and said[-1] == "Nothing changed."


def test_the_image_is_scaled_by_its_percentiles():
    image = np.arange(1000.0).reshape(10, 10, 10)
    image[-1, -1, -1] = 1e9
    scaled = scaled_for_slice_filter(Volume(image, np.eye(4)))
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert scaled[5, 0, 0] == pytest.approx(0.5, abs=0.01)


def test_the_slice_filter_refuses_what_is_not_finite(bright_middle):
    image = bright_middle.astype(float)
    image[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="expected finite voxels"):
        clean(*scan(np.ones(image.shape), image=image), Cleaning(slice_filter=True))


def test_an_image_of_another_grid_is_refused(pieces):
    segmentation, image = scan(pieces)
    moved = image.ijk_to_ras.copy()
    moved[0, 3] += 1
    for other in (Volume(image.array, moved), Volume(image.array[1:], image.ijk_to_ras)):
        with pytest.raises(InputError, match="expected contours on the grid"):
            clean(segmentation, other, Cleaning())


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_size": -1},
        {"min_size": float("nan")},
        {"closing_mm": 1e6},
        {"closing_mm": "2"},
        {"slice_filter_sigma_px": 0},
        {"slice_filter_min_mean": True},
        {"connectivity": 8},
        {"min_size_unit": "ml"},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(OptionError, match=name):
        Cleaning(**wrong)


def test_the_unit_may_be_given_as_its_word():
    assert Cleaning(min_size_unit="mm3").min_size_unit is Unit.MM3
    assert [unit.label() for unit in Unit] == ["voxels", "mm3"]


def plan(*steps):
    regions = (Region("lungs", (1, 2), 1), Region("tumors", (2,), 2))
    return Cleanup(regions, tuple(Step(name, parameters) for name, parameters in steps))


def test_keeping_the_largest_and_filling_holes_are_rules_of_cards_too(hollow):
    hollow[0, 0, 0] = 1
    rules = plan(
        ("keep_largest", {"region": "lungs", "connectivity": 6}), ("fill_holes", {"region": "lungs"})
    )
    found, _ = clean_up(hollow, np.zeros(hollow.shape), np.eye(4), rules)
    assert found[0, 0, 0] == 0 and found[4, 4, 4] == 1


def test_every_rule_has_words():
    assert set(RULE_WORDS) == set(RULES)


def test_the_rules_of_a_checkpoint_are_told_in_their_order():
    words = words_of(
        plan(
            ("trim_flat_end_slices", {"sigma_px": 7, "min_mean": 1}),
            ("drop_small_components", {"region": "tumors", "min_volume_mm3": 0.04, "connectivity": 18}),
            ("keep_inside_closed", {"region": "tumors", "inside": "lungs", "radius_voxels": 6}),
        )
    )
    assert "width 7 pixels" in words[0]
    assert words[1] == "Tumors: pieces below 0.04 mm3 are removed (18 neighbors)."
    assert words[2].startswith("Tumors: what lies outside of lungs is removed")


def test_a_checkpoint_without_rules_says_so_and_a_wrong_rule_is_refused():
    assert words_of(plan()) == ["The checkpoint brings no clean-up."]
    with pytest.raises(CheckpointError, match="unknown clean-up rule"):
        words_of(plan(("sweep", {"region": "lungs"})))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, "Heart, Tumors together: only the largest piece stays."),
        (5.0, "Heart, Tumors together: only the largest piece stays, and others of 5 mm3 or more."),
    ],
)
def test_the_clean_up_of_a_model_of_nnunet_is_told_too(a_plans_card, a_plan, limit, expected):
    entry = {"labels": (1, 2), "keep": "largest", "min_size_mm3": limit}
    card = a_plans_card(a_plan(cleanup=(entry,)))
    assert words_of_card(card) == [expected]


@pytest.mark.parametrize("seed", range(4))
def test_a_structure_is_cleaned_as_if_it_were_alone_in_the_whole_image(seed):
    """Work is done in a box around each structure; the result is that of the whole image, at its borders too."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(14, 20, 24)), 1.2)
    labels = np.where(noise > np.quantile(noise, 0.55), 1, 0).astype(np.uint8)
    labels[:, :, 17:] = 0
    rules = {"fill_holes": Cleaning(fill_holes=True), "closing": Cleaning(closing_mm=0.6)}
    for name, cleaning in rules.items():
        found, _ = clean(*scan(labels), cleaning)
        whole = fill_holes(labels == 1) if name == "fill_holes" else close_ball_mm(labels == 1, 0.6, SPACING)
        np.testing.assert_array_equal(found.labels == 1, whole)


def test_a_cavity_at_the_border_stays_open_in_a_whole_cleaning_too(hollow):
    found, said = clean(*scan(hollow[4:]), Cleaning(fill_holes=True))
    np.testing.assert_array_equal(found.labels, hollow[4:])
    assert said == ["Nothing changed."]
