"""What the network sees of an image, and the way back onto its grid."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.exposure import equalize_adapthist

from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.options import Contrast
from thoraxseg.preprocess import clahe_slices, prepare
from thoraxseg.progress import Cancelled
from thoraxseg.volume import Volume, geometry_from_spacing, to_ras

RESIZE = {"name": "resize_slices", "size_px": [16, 16]}
DIVIDE = {"name": "divide_by_maximum"}
CLAHE = {"name": "enhance_contrast", "clip_limit": 0.03, "when_mean_below": 0.15}


@pytest.fixture
def card_of(a_card):
    """Make a card with these steps and this orientation."""
    return lambda *steps, orientation="RAS": a_card(
        {"preprocess": list(steps), "input.orientation": orientation}
    )


def stack(values, codes="RAS", spacing_mm=(1, 1, 1)):
    return Volume(np.asarray(values), geometry_from_spacing(spacing_mm, codes), name="mouse")


@pytest.fixture
def noise():
    """A stack of 4 slices of 16 x 16 with different brightness, uint8, at most 200."""
    random = np.random.default_rng(8)
    return (random.random((4, 16, 16)) * np.array([50, 100, 150, 200])[:, None, None]).astype(np.uint8)


def test_the_image_is_turned_to_the_cards_orientation_in_float32(card_of):
    array = np.arange(24).reshape(2, 3, 4)
    prepared = prepare(stack(array, "RAS"), card_of(orientation="LPS"), Contrast.AUTO)
    np.testing.assert_array_equal(prepared.image, array[:, ::-1, ::-1])
    assert prepared.image.dtype == np.float32 and prepared.image.flags.c_contiguous


def test_the_input_is_never_altered(card_of, noise):
    before = noise.copy()
    prepared = prepare(stack(noise), card_of(RESIZE | {"size_px": [8, 8]}, DIVIDE, CLAHE), Contrast.ON)
    np.testing.assert_array_equal(noise, before)
    assert prepared.image.shape == (4, 8, 8)


def test_intensities_are_divided_by_the_maximum_of_the_whole_stack(card_of):
    array = np.zeros((3, 2, 2), np.uint8)
    array[0], array[1] = 50, 100
    array[2, 0, 0] = 200
    image = prepare(stack(array), card_of(DIVIDE), Contrast.AUTO).image
    assert image[0].max() == 0.25 and image[1].max() == 0.5 and image[2].max() == 1


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1000, 400), (-1, 255), (0, 0), (-5, -1)],
    ids=["CT", "one negative", "all 0", "all negative"],
)
def test_intensities_that_are_no_mri_are_refused_with_their_range(card_of, low, high):
    array = np.full((2, 2, 2), high, np.int16)
    array[0, 0, 0] = low
    with pytest.raises(InputError, match=f"mouse: expected MRI intensities.*got {low} to {high}"):
        prepare(stack(array), card_of(DIVIDE), Contrast.AUTO)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_holes_is_refused_and_they_are_counted(card_of, value):
    array = np.ones((2, 2, 2))
    array[0, 0, :] = value
    with pytest.raises(InputError, match="mouse: expected numbers in every voxel, got NaN or infinity in 2"):
        prepare(stack(array), card_of(), Contrast.AUTO)


def test_clahe_is_scikit_images_slice_by_slice(noise):
    image = noise / 200
    enhanced = clahe_slices(image, 0.03)
    for k in range(4):
        np.testing.assert_array_equal(enhanced[k], equalize_adapthist(image[k], clip_limit=0.03))
        assert enhanced[k].min() == 0 and enhanced[k].max() == 1


def test_a_constant_slice_becomes_0_and_leaves_the_others_alone(noise):
    image = noise / 200
    image[1] = 0.7
    enhanced = clahe_slices(image, 0.03)
    assert not enhanced[1].any()
    np.testing.assert_array_equal(enhanced[2], equalize_adapthist(image[2], clip_limit=0.03))


def test_contrast_enhancement_can_be_cancelled_between_slices(noise):
    def cancel(fraction, message):
        if fraction > 0.4:
            raise Cancelled

    with pytest.raises(Cancelled):
        clahe_slices(noise / 200, 0.03, cancel)


DARK, BRIGHT = 0.1, 0.6  # mean of the stack below


def mean_stack(mean):
    array = np.full((2, 16, 16), 200 * mean)
    array[:, 0, 0], array[:, 0, 1] = 200, 400 * mean - 200
    return stack(np.maximum(array, 0))


@pytest.mark.parametrize(
    ("mean", "contrast", "words"),
    [
        (DARK, Contrast.AUTO, "because the stack is dark"),
        (BRIGHT, Contrast.AUTO, None),
        (DARK, Contrast.ON, "as asked"),
        (BRIGHT, Contrast.ON, "as asked"),
        (DARK, Contrast.OFF, None),
        (BRIGHT, Contrast.OFF, None),
    ],
)
def test_contrast_is_enhanced_when_dark_or_asked_and_that_is_said(card_of, mean, contrast, words):
    volume = mean_stack(mean)
    prepared = prepare(volume, card_of(DIVIDE, CLAHE), contrast)
    if words is None:
        assert prepared.notes == ()
        np.testing.assert_allclose(prepared.image, volume.array / 200, rtol=1e-6)
    else:
        (note,) = prepared.notes
        assert words in note and "CLAHE" in note and "dark below 0.15" in note
        np.testing.assert_allclose(prepared.image, clahe_slices(volume.array / 200, 0.03), rtol=1e-6)


def test_asking_for_contrast_a_checkpoint_does_not_know_is_refused(card_of, noise):
    with pytest.raises(OptionError, match="phantom-threshold was not trained with contrast enhancement"):
        prepare(stack(noise), card_of(DIVIDE), Contrast.ON)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"name": "sharpen"}, "unknown preprocessing step 'sharpen'; known are resize_slices, resample"),
        ({"name": "resize_slices"}, "key 'size_px' is missing in resize_slices"),
        ({"name": "resize_slices", "size_px": [0, 16]}, r"resize_slices.size_px\[0\] must be 1 or more"),
        ({"name": "resize_slices", "size_px": 16}, "resize_slices.size_px must be a list of 2"),
        ({"name": "divide_by_maximum", "by": 255}, "unknown key 'by' in divide_by_maximum"),
        (CLAHE | {"clip_limit": "high"}, "enhance_contrast.clip_limit must be a finite number, got 'high'"),
        ({"name": "resample", "spacing_mm": [1, 1, -1]}, r"resample.spacing_mm\[2\] must be positive"),
    ],
)
def test_a_step_the_card_gets_wrong_is_refused_before_any_work(card_of, noise, step, words):
    def work(fraction, message):
        pytest.fail("work had begun")

    with pytest.raises(CheckpointError, match=words):
        prepare(stack(noise), card_of(CLAHE, step), Contrast.ON, work)


def test_a_stack_of_the_right_size_is_not_resized(card_of, noise):
    prepared = prepare(stack(noise), card_of(RESIZE), Contrast.AUTO)
    np.testing.assert_array_equal(prepared.image, noise)
    assert prepared.notes == ()


def test_resizing_is_said_and_keeps_the_box_of_the_image(card_of):
    array = np.zeros((3, 32, 8))
    prepared = prepare(stack(array, spacing_mm=(1, 0.5, 2)), card_of(RESIZE), Contrast.AUTO)
    assert prepared.notes == ("Slices of 32 x 8 pixels were resized to 16 x 16.",)
    assert prepared.image.shape == (3, 16, 16)
    corners = np.array([[-0.5, -0.5, -0.5], [2.5, 31.5, 7.5]])
    new = np.array([[-0.5, -0.5, -0.5], [2.5, 15.5, 15.5]])
    np.testing.assert_allclose(
        to_ras(prepared.ijk_to_ras, new), to_ras(prepared.oriented_ijk_to_ras, corners)
    )


def test_resizing_works_slice_by_slice(card_of):
    array = np.zeros((3, 32, 32))
    array[1] = 100
    image = prepare(stack(array), card_of(RESIZE), Contrast.AUTO).image
    assert image[0].max() == image[2].max() == 0
    np.testing.assert_allclose(image[1], 100)


def test_resampling_reaches_the_cards_spacing_and_is_said(card_of):
    step = {"name": "resample", "spacing_mm": [0.5, 1, 2]}
    prepared = prepare(stack(np.zeros((4, 4, 4))), card_of(step), Contrast.AUTO)
    assert prepared.image.shape == (8, 4, 2)
    np.testing.assert_allclose(np.diag(prepared.ijk_to_ras), [2, 1, 0.5, 1])
    assert prepared.notes == ("The image was resampled to 0.5 x 1 x 2 mm for the network.",)


CODES = ["RAS", "LPS", "PIR", "SRA", "ASL", "IPL"]


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("degrees", [(0, 0, 0), (0, 0, 20), (10, -15, 20), (0, 0, 45)], ids=str)
def test_a_landmark_is_where_it_was_after_turning_and_resizing(card_of, a_geometry, codes, degrees):
    """A bright ball at a known place of the patient is found there in the prepared image, and back again."""
    shape, matrix = (40, 30, 36), a_geometry(codes, (0.5, 0.6, 0.4), degrees, (3, -20, 7))
    place = to_ras(matrix, [[25, 10, 12]])[0]
    everywhere = to_ras(matrix, np.argwhere(np.ones(shape)))
    ball = (np.linalg.norm(everywhere - place, axis=1) < 2).reshape(shape)
    card = card_of({"name": "resample", "spacing_mm": [0.8, 0.7, 0.5]}, orientation="RIA")
    prepared = prepare(Volume(ball * 100.0, matrix), card, Contrast.AUTO)

    seen = prepared.image > 50
    there = to_ras(prepared.ijk_to_ras, np.argwhere(seen)).mean(axis=0)
    np.testing.assert_allclose(there, place, atol=0.15)

    labels = prepared.labels_on_source(seen.astype(np.uint8) * 3)
    assert labels.shape == shape and set(np.unique(labels)) == {0, 3} and labels.dtype == np.uint8
    back = to_ras(matrix, np.argwhere(labels == 3)).mean(axis=0)
    np.testing.assert_allclose(back, place, atol=0.15)

    maps = prepared.map_on_source(np.stack([prepared.image, 100 - prepared.image]))
    assert maps.shape == (2, *shape) and maps.dtype == np.float32
    np.testing.assert_allclose(to_ras(matrix, np.argwhere(maps[0] > 50)).mean(axis=0), place, atol=0.15)
    np.testing.assert_allclose(maps.sum(axis=0), 100, rtol=1e-5)


@pytest.mark.parametrize("codes", CODES)
def test_without_resizing_the_way_back_is_exact(card_of, codes):
    array = np.random.default_rng(0).integers(0, 99, (3, 4, 5))
    prepared = prepare(stack(array, codes), card_of(orientation="IPR"), Contrast.AUTO)
    np.testing.assert_array_equal(prepared.labels_on_source(prepared.image.astype(int)), array)
    np.testing.assert_array_equal(prepared.map_on_source(prepared.image), array)


def test_labels_come_back_by_nearest_neighbor_and_never_mix(card_of):
    step = {"name": "resample", "spacing_mm": [1, 1, 0.5]}
    prepared = prepare(stack(np.zeros((1, 1, 4))), card_of(step), Contrast.AUTO)
    labels = np.array([[[1, 1, 3, 3, 0, 0, 2, 2]]], np.uint8)
    assert prepared.labels_on_source(labels).tolist() == [[[1, 3, 0, 2]]]


def test_progress_never_falls_and_ends_at_one(card_of, noise):
    seen = []
    card = card_of(RESIZE, DIVIDE, CLAHE)
    prepare(stack(noise), card, Contrast.ON, lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen) and seen[-1] == 1.0


@pytest.mark.parametrize("orientation", ["PLI", "ARS", "SLA", "RIA"])
def test_the_way_back_is_exact_halfway_between_two_patient_axes(card_of, a_geometry, orientation):
    array = np.random.default_rng(0).integers(0, 99, (3, 4, 5))
    volume = Volume(array, a_geometry("RAS", degrees=(0, 0, 45)))  # i and j are both as much R as A
    prepared = prepare(volume, card_of(orientation=orientation), Contrast.AUTO)
    np.testing.assert_array_equal(prepared.labels_on_source(prepared.image.astype(int)), array)
