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
    prepared = prepare([stack(array, "RAS")], card_of(orientation="LPS"), Contrast.AUTO)
    np.testing.assert_array_equal(prepared.image, array[:, ::-1, ::-1])
    assert prepared.image.dtype == np.float32 and prepared.image.flags.c_contiguous


def test_the_input_is_never_altered(card_of, noise):
    before = noise.copy()
    prepared = prepare([stack(noise)], card_of(RESIZE | {"size_px": [8, 8]}, DIVIDE, CLAHE), Contrast.ON)
    np.testing.assert_array_equal(noise, before)
    assert prepared.image.shape == (4, 8, 8)


def test_intensities_are_divided_by_the_maximum_of_the_whole_stack(card_of):
    array = np.zeros((3, 2, 2), np.uint8)
    array[0], array[1] = 50, 100
    array[2, 0, 0] = 200
    image = prepare([stack(array)], card_of(DIVIDE), Contrast.AUTO).image
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
        prepare([stack(array)], card_of(DIVIDE), Contrast.AUTO)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_holes_is_refused_and_they_are_counted(card_of, value):
    array = np.ones((2, 2, 2))
    array[0, 0, :] = value
    with pytest.raises(InputError, match="mouse: expected numbers in every voxel, got NaN or infinity in 2"):
        prepare([stack(array)], card_of(), Contrast.AUTO)


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
    prepared = prepare([volume], card_of(DIVIDE, CLAHE), contrast)
    if words is None:
        assert prepared.notes == ()
        np.testing.assert_allclose(prepared.image, volume.array / 200, rtol=1e-6)
    else:
        (note,) = prepared.notes
        assert words in note and "CLAHE" in note and "dark below 0.15" in note
        np.testing.assert_allclose(prepared.image, clahe_slices(volume.array / 200, 0.03), rtol=1e-6)


def test_asking_for_contrast_a_checkpoint_does_not_know_is_refused(card_of, noise):
    with pytest.raises(OptionError, match="phantom-threshold was not trained with contrast enhancement"):
        prepare([stack(noise)], card_of(DIVIDE), Contrast.ON)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            {"name": "sharpen"},
            "unknown preprocessing step 'sharpen'; known are resize_slices, resize_slices_triangle, resize, resample",
        ),
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
        prepare([stack(noise)], card_of(CLAHE, step), Contrast.ON, work)


def test_a_stack_of_the_right_size_is_not_resized(card_of, noise):
    prepared = prepare([stack(noise)], card_of(RESIZE), Contrast.AUTO)
    np.testing.assert_array_equal(prepared.image, noise)
    assert prepared.notes == ()


def test_resizing_is_said_and_keeps_the_box_of_the_image(card_of):
    array = np.zeros((3, 32, 8))
    prepared = prepare([stack(array, spacing_mm=(1, 0.5, 2))], card_of(RESIZE), Contrast.AUTO)
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
    image = prepare([stack(array)], card_of(RESIZE), Contrast.AUTO).image
    assert image[0].max() == image[2].max() == 0
    np.testing.assert_allclose(image[1], 100)


def test_resampling_reaches_the_cards_spacing_and_is_said(card_of):
    step = {"name": "resample", "spacing_mm": [0.5, 1, 2]}
    prepared = prepare([stack(np.zeros((4, 4, 4)))], card_of(step), Contrast.AUTO)
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
    prepared = prepare([Volume(ball * 100.0, matrix)], card, Contrast.AUTO)

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
    prepared = prepare([stack(array, codes)], card_of(orientation="IPR"), Contrast.AUTO)
    np.testing.assert_array_equal(prepared.labels_on_source(prepared.image.astype(int)), array)
    np.testing.assert_array_equal(prepared.map_on_source(prepared.image), array)


def test_labels_come_back_by_nearest_neighbor_and_never_mix(card_of):
    step = {"name": "resample", "spacing_mm": [1, 1, 0.5]}
    prepared = prepare([stack(np.zeros((1, 1, 4)))], card_of(step), Contrast.AUTO)
    labels = np.array([[[1, 1, 3, 3, 0, 0, 2, 2]]], np.uint8)
    assert prepared.labels_on_source(labels).tolist() == [[[1, 3, 0, 2]]]


def test_progress_never_falls_and_ends_at_one(card_of, noise):
    seen = []
    card = card_of(RESIZE, DIVIDE, CLAHE)
    prepare([stack(noise)], card, Contrast.ON, lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen) and seen[-1] == 1.0


@pytest.mark.parametrize("orientation", ["PLI", "ARS", "SLA", "RIA"])
def test_the_way_back_is_exact_halfway_between_two_patient_axes(card_of, a_geometry, orientation):
    array = np.random.default_rng(0).integers(0, 99, (3, 4, 5))
    volume = Volume(array, a_geometry("RAS", degrees=(0, 0, 45)))  # i and j are both as much R as A
    prepared = prepare([volume], card_of(orientation=orientation), Contrast.AUTO)
    np.testing.assert_array_equal(prepared.labels_on_source(prepared.image.astype(int)), array)


# Steps with answers known on paper


def ramp(*shape):
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


@pytest.mark.parametrize(
    ("step", "values", "expected"),
    [
        ({"name": "clip", "low": -2, "high": 3}, [-9, -2, 0, 3, 9, 1, 1, 1], [-2, -2, 0, 3, 3, 1, 1, 1]),
        (
            {"name": "rescale", "low": -100, "high": 100, "to_low": 0, "to_high": 1, "clip": True},
            [-500, -100, 0, 50, 100, 900, 0, 0],
            [0, 0, 0.5, 0.75, 1, 1, 0.5, 0.5],
        ),
        (
            {"name": "rescale", "low": -100, "high": 100, "to_low": 0, "to_high": 1, "clip": False},
            [-500, -100, 0, 50, 100, 900, 0, 0],
            [-2, 0, 0.5, 0.75, 1, 5, 0.5, 0.5],
        ),
        (
            {"name": "scale_to_range", "to_low": -1, "to_high": 1},
            [10, 20, 30, 15, 10, 10, 10, 10],
            [-1, 0, 1, -0.5, -1, -1, -1, -1],
        ),
        # Mean 5, standard deviation 2 (of all voxels, not of a sample).
        ({"name": "z_score"}, [2, 4, 4, 4, 5, 5, 7, 9], [-1.5, -0.5, -0.5, -0.5, 0, 0, 1, 2]),
        # Two slices: mean 2, SD 1; and one without contrast.
        ({"name": "z_score_slices"}, [1, 3, 1, 3, 7, 7, 7, 7], [-1, 1, -1, 1, 0, 0, 0, 0]),
        ({"name": "round_to_levels", "levels": 10}, [0, 20, 5, 3, 19.9, 1, 2, 4], [0, 10, 2, 1, 9, 0, 1, 2]),
    ],
    ids=["clip", "rescale", "rescale-unclipped", "scale", "z", "z-slices", "levels"],
)
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int16])
def test_a_step_gives_the_numbers_known_on_paper(card_of, step, values, expected, kind):
    if kind is np.int16 and step["name"] == "round_to_levels":
        values = np.multiply(values, 10)
    array = np.array(values, kind).reshape(2, 2, 2)
    image = prepare([stack(array)], card_of(step), Contrast.AUTO).image
    assert image.dtype == np.float32
    np.testing.assert_allclose(image.ravel(), expected, atol=1e-6)


def test_levels_are_counted_over_the_whole_volume(card_of):
    image = prepare(
        [stack(ramp(2, 2, 2))], card_of({"name": "round_to_levels", "levels": 65535}), Contrast.AUTO
    )
    np.testing.assert_array_equal(image.image.ravel(), np.floor(np.arange(8) * 65535 / 7))


@pytest.mark.parametrize(
    "step", [{"name": "z_score"}, {"name": "scale_to_range", "to_low": 0, "to_high": 1}], ids=["z", "range"]
)
def test_an_image_without_contrast_is_refused_with_its_value(card_of, step):
    with pytest.raises(InputError, match="mouse: expected an image with contrast, all voxels are 7"):
        prepare([stack(np.full((2, 2, 2), 7, np.uint8))], card_of(step), Contrast.AUTO)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"name": "clip", "low": 3, "high": 3}, "low 3 must be below high 3"),
        (
            {"name": "rescale", "low": 1, "high": 1, "to_low": 0, "to_high": 1, "clip": True},
            "both ranges must be ascending",
        ),
        (
            {"name": "rescale", "low": 0, "high": 1, "to_low": 1, "to_high": 0, "clip": True},
            "both ranges must be ascending",
        ),
        (
            {"name": "rescale", "low": 0, "high": 1, "to_low": 1, "to_high": 2, "clip": 1},
            "rescale.clip must be true or false",
        ),
        ({"name": "resize", "shape": [1, 2]}, "resize.shape must be a list of 3"),
        ({"name": "round_to_levels", "levels": 0}, "round_to_levels.levels must be 1 or more"),
        (
            {"name": "crop_to_lungs", "margin_voxels": -1},
            "crop_to_lungs.margin_voxels must be a whole number",
        ),
        ({"name": "z_score", "mask": True}, "unknown key 'mask' in z_score"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(card_of, noise, step, words):
    with pytest.raises(CheckpointError, match=words):
        prepare([stack(noise)], card_of(step), Contrast.AUTO)


def test_the_triangle_filter_widens_where_the_picture_shrinks(card_of):
    # Halved, Pillow's triangle is 4 pixels wide: weights 1, 3, 3, 1 out of 8, cut off and scaled up at the border.
    array = np.array([[[8.0, 0, 0, 0, 0, 0, 0, 8]] * 2])
    step = {"name": "resize_slices_triangle", "size_px": [2, 4]}
    prepared = prepare([stack(array)], card_of(step), Contrast.AUTO)
    np.testing.assert_allclose(prepared.image[0, 0], [8 * 3 / 7, 0, 0, 8 * 3 / 7], rtol=1e-6)
    assert prepared.notes == ("Slices of 2 x 8 pixels were resized to 2 x 4.",)
    # Doubled, it is plain interpolation between pixel centers.
    array = np.array([[[0.0, 4.0]] * 2])
    step = {"name": "resize_slices_triangle", "size_px": [2, 4]}
    np.testing.assert_allclose(
        prepare([stack(array)], card_of(step), Contrast.AUTO).image[0, 0], [0, 1, 3, 4]
    )


def test_the_triangle_filter_takes_every_slice_by_itself(card_of, noise):
    step = {"name": "resize_slices_triangle", "size_px": [7, 9]}
    whole = prepare([stack(noise)], card_of(step), Contrast.AUTO).image
    for k, plane in enumerate(noise):
        alone = prepare([stack(plane[None])], card_of(step), Contrast.AUTO).image
        np.testing.assert_array_equal(alone[0], whole[k])


def test_resizing_to_a_shape_works_along_all_axes_and_is_said(card_of):
    volume = stack(np.broadcast_to(np.arange(4.0), (6, 2, 4)), spacing_mm=(1, 2, 3))
    prepared = prepare([volume], card_of({"name": "resize", "shape": [3, 4, 8]}), Contrast.AUTO)
    assert prepared.image.shape == (3, 4, 8)
    assert prepared.notes == ("6 x 2 x 4 voxels were resized to 3 x 4 x 8 for the network.",)
    np.testing.assert_allclose(prepared.spacing_mm, (2, 1, 1.5))
    # Beyond the outermost centers scikit-image mirrors the image.
    expected = [0.25, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 2.75]
    np.testing.assert_allclose(prepared.image[1, 1], expected, atol=1e-6)
    same = prepare([volume], card_of({"name": "resize", "shape": [6, 2, 4]}), Contrast.AUTO)
    assert same.notes == ()


# Several channels


TWO = [{"name": "CT", "source": "image"}, {"name": "lung map", "source": "lungs"}]
CROP = {"name": "crop_to_lungs", "margin_voxels": 1}


@pytest.fixture
def two_of(a_card):
    """Make a card with an image and a lung map, these steps and this orientation."""
    return lambda *steps, orientation="RAS", channels=TWO: a_card(
        {"preprocess": list(steps), "input.orientation": orientation, "channels": channels}
    )


def lungs_of(shape, box):
    array = np.zeros(shape, np.uint8)
    array[box] = 1
    return array


def test_every_image_goes_through_the_steps_by_itself(two_of, noise):
    both = [{"name": "CT", "source": "image"}, {"name": "MRI", "source": "image"}]
    steps = {"name": "z_score"}, {"name": "resize", "shape": [4, 8, 8]}
    other = noise[::-1].astype(np.float32) * 3 + 100
    prepared = prepare([stack(noise), stack(other)], two_of(*steps, channels=both), Contrast.AUTO)
    assert prepared.channels.shape == (2, 4, 8, 8) and prepared.channels.dtype == np.float32
    for channel, array in zip(prepared.channels, (noise, other), strict=True):
        alone = prepare([stack(array)], two_of(*steps, channels=both[:1]), Contrast.AUTO).image
        np.testing.assert_array_equal(channel, alone)
    np.testing.assert_array_equal(prepared.image, prepared.channels[0])


@pytest.mark.parametrize(
    "step",
    [
        {"name": "clip", "low": 0.25, "high": 0.5},
        {"name": "rescale", "low": 0, "high": 9, "to_low": -1, "to_high": 1, "clip": True},
        {"name": "scale_to_range", "to_low": -1, "to_high": 0},
        {"name": "z_score"},
        {"name": "z_score_slices"},
        {"name": "round_to_levels", "levels": 7},
        DIVIDE,
        {"name": "resize", "shape": [5, 9, 7]},
        {"name": "resize_slices_triangle", "size_px": [9, 7]},
        {"name": "resample", "spacing_mm": [0.7, 1.3, 0.9]},
        RESIZE | {"size_px": [9, 7]},
    ],
    ids=lambda step: step["name"],
)
def test_a_lung_map_is_only_moved_and_never_mixed(two_of, noise, step):
    lungs = lungs_of(noise.shape, np.s_[1:3, 4:9, 2:11])
    prepared = prepare([stack(noise), stack(lungs)], two_of(step), Contrast.AUTO)
    assert set(np.unique(prepared.channels[1])) == {0, 1}
    np.testing.assert_allclose(prepared.channels[1].mean(), lungs.mean(), rtol=0.4)


def test_a_hole_in_any_channel_is_refused_by_name(two_of, noise):
    lungs = lungs_of(noise.shape, np.s_[1:3, 4:9, 2:11]).astype(np.float32)
    lungs[0, 0, 0] = np.nan
    channel = Volume(lungs, np.eye(4), name="lung map of mouse 7")
    with pytest.raises(InputError, match="lung map of mouse 7: expected numbers in every voxel"):
        prepare([stack(noise), channel], two_of(), Contrast.AUTO)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAR", "kij", "jik"])
def test_all_channels_are_turned_alike_halfway_between_two_axes(two_of, a_geometry, orientation):
    """Rounding alone may give the axes of one channel other letters than those of another."""
    array = np.random.default_rng(0).random((4, 4, 4))
    matrix = a_geometry("RAS", degrees=(0, 0, 45))
    nearly = matrix.copy()
    nearly[:3, :2] = matrix[:3, :2] @ [[1, -1e-7], [1e-7, 1]]
    volumes = [
        Volume(array, place) for place in (matrix, nearly, a_geometry("RAS", degrees=(0, 0, 45 + 1e-5)))
    ]
    assert len({volume.axis_codes for volume in volumes}) > 1  # else this shows nothing
    both = [{"name": name, "source": "image"} for name in "abc"]
    prepared = prepare(volumes, two_of(orientation=orientation, channels=both), Contrast.AUTO)
    np.testing.assert_array_equal(prepared.channels[0], prepared.channels[1])
    np.testing.assert_array_equal(prepared.channels[0], prepared.channels[2])


# Cropping to the lungs


def test_the_crop_is_the_box_of_the_lungs_with_a_margin_that_ends_at_the_border(two_of):
    array, lungs = ramp(6, 8, 10), lungs_of((6, 8, 10), np.s_[0:3, 4:6, 5:9])
    prepared = prepare([stack(array), stack(lungs)], two_of(CROP), Contrast.AUTO)
    np.testing.assert_array_equal(prepared.image, array[0:4, 3:7, 4:10])
    np.testing.assert_array_equal(prepared.channels[1], lungs[0:4, 3:7, 4:10])
    assert prepared.notes == ("The image was cropped to the lungs: 4 x 4 x 6 of 6 x 8 x 10 voxels.",)


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("degrees", [(0, 0, 0), (10, -15, 20), (0, 0, 45)], ids=str)
@pytest.mark.parametrize("orientation", ["RIA", "jik"])
def test_what_was_cropped_lies_where_it_was_and_the_way_back_is_exact(
    two_of, a_geometry, codes, degrees, orientation
):
    array = np.random.default_rng(0).permutation(480).reshape(6, 8, 10) + 1  # every number once
    lungs = lungs_of(array.shape, np.s_[2:4, 1:6, 5:9])
    matrix = a_geometry(codes, (0.5, 0.6, 0.4), degrees, (3, -20, 7))
    card = two_of(CROP, orientation=orientation)
    prepared = prepare([Volume(array, matrix), Volume(lungs, matrix)], card, Contrast.AUTO)
    inside = lungs_of(array.shape, np.s_[1:5, 0:7, 4:10])
    labels = prepared.labels_on_source(prepared.image.astype(np.uint16))
    np.testing.assert_array_equal(labels, array * inside)
    maps = prepared.map_on_source(np.stack([prepared.image, prepared.image + 1]), [-5, -6])
    np.testing.assert_array_equal(maps[0], np.where(inside, array, -5))
    np.testing.assert_array_equal(maps[1], np.where(inside, array + 1, -6))
    # Each voxel that was kept is at its own place of the patient.
    place = to_ras(prepared.ijk_to_ras, np.argwhere(prepared.image))
    there = to_ras(matrix, np.argwhere(inside))
    order, known = np.argsort(prepared.image.ravel()), np.argsort(array[inside > 0])
    np.testing.assert_allclose(place[order], there[known], atol=1e-9)
    assert prepared.channels[0].size == inside.sum()


def test_cropped_then_resized_a_landmark_is_where_it_was(two_of, a_geometry):
    shape, matrix = (20, 30, 26), a_geometry("PIR", (0.5, 0.6, 0.4), (10, -15, 20), (3, -20, 7))
    place = to_ras(matrix, [[12, 10, 12]])[0]
    everywhere = to_ras(matrix, np.argwhere(np.ones(shape)))
    ball = (np.linalg.norm(everywhere - place, axis=1) < 2).reshape(shape)
    lungs = lungs_of(shape, np.s_[6:18, 3:20, 4:22])
    card = two_of(CROP, {"name": "resize", "shape": [24, 32, 28]}, orientation="RIA")
    prepared = prepare([Volume(ball * 100.0, matrix), Volume(lungs, matrix)], card, Contrast.AUTO)
    assert prepared.channels.shape == (2, 24, 32, 28)
    seen = prepared.image > 50
    found = to_ras(prepared.ijk_to_ras, np.argwhere(seen)).mean(axis=0)
    np.testing.assert_allclose(found, place, atol=0.15)
    labels = prepared.labels_on_source(seen.astype(np.uint8))
    np.testing.assert_allclose(to_ras(matrix, np.argwhere(labels)).mean(axis=0), place, atol=0.15)
    assert (labels[ball]).mean() > 0.9


def test_outside_of_the_crop_everything_is_surely_background(two_of):
    lungs = lungs_of((6, 8, 10), np.s_[2:4, 4:6, 5:9])
    prepared = prepare([stack(ramp(6, 8, 10)), stack(lungs)], two_of(CROP), Contrast.AUTO)
    probabilities = np.full((3, *prepared.image.shape), 1 / 3, np.float32)
    back = prepared.probabilities_on_source(probabilities)
    assert back.shape == (3, 6, 8, 10) and back.dtype == np.float32
    outside = prepared.labels_on_source(np.ones(prepared.image.shape, np.uint8)) == 0
    assert outside.sum() == 480 - prepared.image.size
    np.testing.assert_array_equal(back[:, outside], np.array([[1], [0], [0]]) * np.ones(outside.sum()))
    np.testing.assert_allclose(back[:, ~outside], 1 / 3)
    assert not prepared.map_on_source(probabilities[0])[outside].any()


def test_cropping_twice_still_knows_the_way_back(two_of):
    array, lungs = ramp(9, 9, 9) + 1, lungs_of((9, 9, 9), np.s_[4:5, 4:6, 5:6])
    wide, tight = CROP | {"margin_voxels": 3}, CROP | {"margin_voxels": 1}
    once = prepare([stack(array), stack(lungs)], two_of(tight), Contrast.AUTO)
    twice = prepare([stack(array), stack(lungs)], two_of(wide, tight), Contrast.AUTO)
    np.testing.assert_array_equal(once.channels, twice.channels)
    np.testing.assert_allclose(once.ijk_to_ras, twice.ijk_to_ras)
    for one, two in zip(once.box, twice.box, strict=True):
        assert (one.start, one.stop) == (two.start, two.stop)
    np.testing.assert_array_equal(once.labels_on_source(once.image), twice.labels_on_source(twice.image))


def test_a_map_without_lungs_is_refused_with_what_to_do(two_of):
    empty = np.zeros((3, 4, 5), np.uint8)
    with pytest.raises(InputError, match=r"mouse: expected lungs in the lung map, found none.*--channel"):
        prepare([stack(ramp(3, 4, 5)), stack(empty)], two_of(CROP), Contrast.AUTO)


@pytest.mark.parametrize("channels", [TWO, TWO[:1]], ids=["after resizing", "without a lung map"])
def test_a_crop_that_cannot_be_is_refused(two_of, noise, channels):
    lungs = lungs_of(noise.shape, np.s_[1:3, 4:9, 2:11])
    card = two_of({"name": "resize", "shape": [4, 9, 9]}, CROP, channels=channels)
    with pytest.raises(
        CheckpointError, match="'crop_to_lungs' needs a channel of source 'lungs' and comes before"
    ):
        prepare([stack(noise), stack(lungs)][: len(channels)], card, Contrast.AUTO)


# The file's own axes


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("orientation", ["ijk", "jik", "kji", "ikj", "kij", "jki"])
def test_an_order_of_the_files_axes_never_flips_and_does_not_depend_on_the_patient(
    card_of, codes, orientation
):
    array = ramp(3, 4, 5)
    prepared = prepare([stack(array, codes, (1, 2, 3))], card_of(orientation=orientation), Contrast.AUTO)
    # The array is (k, j, i), the word says (i, j, k).
    axes = ["kji".index(axis) for axis in orientation[::-1]]
    np.testing.assert_array_equal(prepared.image, array.transpose(axes))
    assert prepared.spacing_mm == tuple((1, 2, 3)[axis] for axis in axes)
    np.testing.assert_array_equal(prepared.labels_on_source(prepared.image), array)
    place = to_ras(prepared.ijk_to_ras, np.argwhere(prepared.image == 17))
    np.testing.assert_allclose(
        place, to_ras(stack(array, codes, (1, 2, 3)).ijk_to_ras, np.argwhere(array == 17))
    )


TRIANGLE = {"name": "resample_triangle", "spacing_mm": [2, 2, 2]}


def test_the_triangle_resample_is_the_widening_triangle_filter_of_torch_along_each_axis(card_of):
    import torch

    image = np.random.default_rng(3).random((12, 30, 25)).astype(np.float32)
    prepared = prepare([stack(image, spacing_mm=(1, 0.5, 2.7))], card_of(TRIANGLE), Contrast.AUTO)
    small = torch.from_numpy(image)[:, None]
    small = torch.nn.functional.interpolate(small, (8, 34), mode="bilinear", antialias=True)[:, 0]
    small = small.permute(1, 0, 2)[:, None]
    small = torch.nn.functional.interpolate(small, (6, 34), mode="bilinear", antialias=True)[:, 0]
    np.testing.assert_allclose(prepared.image, small.permute(1, 0, 2).numpy(), atol=2e-6)
    assert "resampled to 2 x 2 x 2 mm" in " ".join(prepared.notes)


def test_labels_come_back_from_coarse_voxels_with_smooth_surfaces(card_of):
    k, j, i = np.ogrid[:48, :48, :48]
    ball = ((k - 23.5) ** 2 + (j - 23.5) ** 2 + (i - 23.5) ** 2 < 15**2).astype(np.uint8)
    volume = stack(ball, spacing_mm=(1, 1, 1))
    prepared = prepare([volume], card_of(TRIANGLE), Contrast.AUTO)
    probabilities = np.stack([1 - prepared.image, prepared.image])
    labels = probabilities.argmax(axis=0).astype(np.uint8)

    def dice(found):
        return 2 * np.count_nonzero(found & ball) / (np.count_nonzero(found) + np.count_nonzero(ball))

    smooth, blocks = prepared.answer_on_source(labels, probabilities), prepared.labels_on_source(labels)
    assert smooth.dtype == np.uint8 and smooth.shape == ball.shape
    assert dice(smooth) > 0.985 > 0.965 > dice(blocks)


def test_what_the_clean_up_changed_stays_changed_on_the_way_back(card_of):
    prepared = prepare(
        [stack(np.random.default_rng(0).random((24, 24, 24)), spacing_mm=(0.5, 0.5, 0.5))],
        card_of(TRIANGLE),
        Contrast.AUTO,
    )
    probabilities = np.zeros((3, 6, 6, 6), np.float32)
    probabilities[0] = 1
    probabilities[:, 1:3, 1:3, 1:3] = np.array([0.1, 0.9, 0])[:, None, None, None]
    probabilities[:, 4, 4, 4] = [0.1, 0, 0.9]
    labels = probabilities.argmax(axis=0).astype(np.uint8)
    assert set(np.unique(prepared.answer_on_source(labels, probabilities))) == {0, 1, 2}
    labels[labels == 2] = 0
    found = prepared.answer_on_source(labels, probabilities)
    assert set(np.unique(found)) == {0, 1}
    assert found[6, 6, 6] == 1


def test_without_the_triangle_resample_labels_come_back_voxel_by_voxel(card_of, noise):
    prepared = prepare([stack(noise)], card_of(RESIZE | {"size_px": [8, 8]}), Contrast.AUTO)
    probabilities = np.random.default_rng(1).random((2, 4, 8, 8)).astype(np.float32)
    labels = probabilities.argmax(axis=0).astype(np.uint8)
    np.testing.assert_array_equal(
        prepared.answer_on_source(labels, probabilities), prepared.labels_on_source(labels)
    )
