"""Image and labels change together, and right stays right."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.checkpoints.structures import named
from thoraxseg.errors import OptionError
from thoraxseg.segmentation import STRUCTURES
from thoraxseg.training.augmentation import (
    _PLACING,
    TRANSFORMS,
    _smooth_noise,
    augmented,
    check_augmentation,
    place,
    side_options,
)
from thoraxseg.training.batch import IGNORE

SHAPES = {"2-D": (40, 36), "3-D": (20, 24, 28)}


def rng(seed=0):
    return np.random.default_rng(seed)


def changed(name, images, labels, seed=0, sides=None, masks=(), weights=None, spacing_mm=None, **parameters):
    """One change that always happens."""
    options = {name: {"probability": 1, **parameters}, "sides": sides or {}, "masks": list(masks)}
    return augmented(images, labels, weights, options, rng(seed), spacing_mm)


def painted(shape):
    """Smooth blobs of three labels; the image has the labels' values, as a second channel too."""
    grid = np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    for value, at in ((1, 0.3), (2, 0.5), (3, 0.7)):
        center = np.array(shape) * at + value
        off = (grid - center.reshape(-1, *[1] * len(shape))) ** 2
        labels[off.sum(0) < (0.2 * min(shape)) ** 2] = value
    return np.stack([labels, labels]).astype(np.float32), labels


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def shape(request):
    return request.param


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_same_generator_gives_the_same_patch_and_another_one_another(name, shape):
    images = rng(1).random((2, *shape), np.float32)
    labels = rng(2).integers(0, 4, shape).astype(np.uint8)
    chance = 0.5 if name == "flips" else 1
    one, two, *others = (
        changed(name, images.copy(), labels, seed, probability=chance) for seed in (5, 5, 6, 7, 8, 9)
    )
    assert one[0].shape == images.shape and one[0].dtype == np.float32 and one[0].flags.c_contiguous
    assert one[1].shape == shape and one[1].dtype == np.uint8
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert not all(np.array_equal(one[0], other[0]) for other in others)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_change_without_probability_never_happens(name, shape):
    images, labels = painted(shape)
    same = augmented(images, labels, None, {name: {"probability": 0}}, rng())
    np.testing.assert_array_equal(same[0], images)
    np.testing.assert_array_equal(same[1], labels)


@pytest.mark.parametrize("name", ["flips", "affine", "noise"])
def test_a_change_happens_as_often_as_its_probability_says(name):
    image, labels = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4), np.zeros((4, 4), np.uint8)
    options = {name: {"probability": 0.3, **({"axes": ["i"]} if name == "flips" else {})}, "sides": {}}
    results = (augmented(image.copy(), labels, None, options, rng(n))[0] for n in range(1000))
    assert 255 < sum(not np.array_equal(result, image) for result in results) < 345  # 3 SD


@pytest.mark.parametrize("name", _PLACING)
def test_labels_painted_into_the_image_stay_on_it(name, shape):
    images, labels = painted(shape)
    changes = {"magnitude": 30.0, "sigma": 4.0, "affine": 2.0} if name == "elastic" else {}
    changes = {"sd": [1.5, 1.5], "grid": 0.15} if name == "elastic-grid" else changes
    results = (changed(name, images, labels, n, masks=[1], weights=images[0], **changes) for n in range(20))
    got, seen, weights = next(result for result in results if not np.array_equal(result[1], labels))
    known = seen != IGNORE
    np.testing.assert_array_equal(got[1][known], seen[known])  # nearest voxels, from the very same places
    assert (
        np.abs(got[0] - seen)[known].mean() < 0.25 * seen[known].mean()
    )  # edges are blurred, nothing is shifted
    np.testing.assert_allclose(weights[known], got[0][known], atol=1e-5)
    assert not weights[~known].any()
    for value in (1, 2, 3):
        assert (seen == value).any()


def test_turns_by_right_angles_are_exact():
    images, labels = rng().random((2, 7, 7), np.float32), rng().integers(0, 4, (7, 7)).astype(np.uint8)
    seen = set()
    for seed in range(20):
        got, turned, _ = changed("right-angles", images, labels, seed)
        count = next(n for n in range(4) if np.array_equal(np.rot90(images, n, (1, 2)), got))
        np.testing.assert_array_equal(turned, np.rot90(labels, count))
        seen.add(count)
    assert seen == {0, 1, 2, 3}


def test_a_turned_patch_that_is_no_square_has_the_voxels_around_its_own_center():
    whole = rng().random((1, 30, 30), np.float32)
    labels = rng().integers(0, 4, (30, 30)).astype(np.uint8)
    checked = check_augmentation({"right-angles": {"probability": 1}}, 2)
    shapes = set()
    for seed in range(8):
        placed = place(checked, (12, 8), rng(seed))
        got, seen, _ = placed.cut(whole, labels, (10, 11))
        shapes.add(placed.size)
        first, second = (10, 11) if placed.size == (12, 8) else (12, 9)
        box = slice(first, first + placed.size[0]), slice(second, second + placed.size[1])
        candidates = [np.rot90(whole[0][box], n) for n in range(4)]
        assert got.shape == (1, 12, 8) and (seen != IGNORE).all()
        assert any(np.array_equal(got[0], candidate) for candidate in candidates)
    assert len(shapes) == 2


def test_a_rotation_by_90_degrees_is_that_of_numpy(shape):
    side = (9,) * len(shape)
    images = rng().random((1, *side), np.float32)
    labels = rng().integers(0, 4, side).astype(np.uint8)
    got, seen, _ = changed("rotation", images, labels, degrees=[90, 90], axes=["k"])
    axes = (len(side) - 2, len(side) - 1)
    count = next(n for n in (1, 3) if np.allclose(got[0], np.rot90(images[0], n, axes), atol=1e-4))
    known = seen != IGNORE  # the outermost voxels may lie a hair outside
    assert known.mean() > 0.5
    np.testing.assert_array_equal(seen[known], np.rot90(labels, count, axes)[known])


def test_a_rotation_keeps_lengths_in_millimeters_on_voxels_that_are_not_cubes():
    labels = np.zeros((40, 80), np.uint8)
    labels[10:30, 36:44] = 1  # 20 mm by 4 mm
    _, seen, _ = changed(
        "rotation", labels[None].astype(np.float32), labels, degrees=[90, 90], spacing_mm=(1, 0.5)
    )
    where = np.argwhere(seen == 1)
    assert tuple(np.ptp(where, axis=0) + 1) == (4, 40)  # 4 mm by 20 mm


def test_what_turns_into_view_is_real_where_the_image_has_it():
    whole, labels = painted((48, 48))
    checked = check_augmentation({"rotation": {"probability": 1, "degrees": [30, 30]}}, 2)
    small, few, _ = place(checked, (16, 16), rng()).cut(whole, labels, (16, 16))
    large, many, _ = place(checked, (48, 48), rng()).cut(whole, labels, (0, 0))
    np.testing.assert_allclose(small, large[:, 16:32, 16:32], atol=1e-4)
    np.testing.assert_array_equal(few, many[16:32, 16:32])
    assert (few != IGNORE).all() and (many == IGNORE).any()


def test_beyond_the_image_edge_values_go_on_and_labels_are_ignored():
    images, labels = np.full((1, 20, 20), 3.0, np.float32), np.ones((20, 20), np.uint8)
    weights = np.full((20, 20), 2, np.float32)
    got, seen, heavy = changed("affine", images, labels, weights=weights, scale=[0.5, 0.5], shear=[0, 0])
    np.testing.assert_array_equal(got, 3.0)
    assert (seen == 1).sum() == 100 and (seen == IGNORE).sum() == 300
    np.testing.assert_allclose(heavy[7:13, 7:13], 2)
    assert heavy[0].max() == 0


def test_scales_above_1_make_things_larger():
    images, labels = painted((40, 40))
    _, seen, _ = changed("affine", images, labels, scale=[1.5, 1.5], shear=[0, 0])
    assert np.isclose((seen == 2).sum() / (labels == 2).sum(), 2.25, rtol=0.1)


def test_a_translation_is_in_voxels():
    images, labels = painted((40, 40))
    _, seen, _ = changed("affine", images, labels, scale=1, shear=[0, 0], translation=[4, 4])
    np.testing.assert_array_equal(seen[:36, :36], labels[4:, 4:])


def test_a_crop_of_a_quarter_doubles_lengths():
    images, labels = np.zeros((1, 40, 40), np.float32), np.zeros((40, 40), np.uint8)
    labels[19:21, 19:21] = 1
    _, seen, _ = changed("random-resized-crop", images, labels, 1, scale=0.25, ratio=1)
    assert (seen == 1).sum() in (8, 16) and (seen == IGNORE).sum() == 0


def test_crops_have_the_areas_and_ratios_asked_for():
    heights, widths = [], []
    for seed in range(300):
        checked = check_augmentation({"random-resized-crop": {"probability": 1}}, 2)
        warp = place(checked, (100, 100), rng(seed)).warp
        if warp is not None:
            heights.append(warp[0, -1, 0] - warp[0, 0, 0] + 1)
            widths.append(warp[1, 0, -1] - warp[1, 0, 0] + 1)
            assert warp.min() > -0.6 and warp.max() < 99.6
    area = np.multiply(heights, widths) / 1e4
    ratio = np.divide(widths, heights)
    assert 0.78 < area.min() < 0.85 and 0.95 < area.max() < 1.02
    assert 0.79 < ratio.min() < 0.83 and 0.95 < ratio.max() < 1.02


@pytest.mark.parametrize("size", [(128, 128), (64, 64, 64)], ids=["2-D", "3-D"])
def test_the_elastic_field_has_the_variance_of_smoothed_uniform_noise(size):
    """Of U(-1, 1) under a Gaussian of sigma: 1/3 · (1 / (2 sigma sqrt(pi)))^D."""
    sigma = 10.24  # smoothed on every second voxel
    fields = np.stack([_smooth_noise(size, sigma, rng(seed)) for seed in range(15)])
    expected = (1 / 3 * (1 / (2 * sigma * np.sqrt(np.pi))) ** len(size)) ** 0.5
    inner = fields[(..., *[slice(20, -20)] * len(size))]  # noise reflected at the edge varies more
    assert np.isclose(inner.std(), expected, rtol=0.12)


def test_flipping_swaps_the_labels_of_right_and_left():
    images, labels = painted((20, 20))
    sides = {"labels": [1, 2], "swap": [[1, 2]]}
    got, seen, _ = changed("flips", images, labels, sides=sides, axes=["i"])
    np.testing.assert_array_equal(got, images[..., ::-1])
    mirror = labels[:, ::-1]
    np.testing.assert_array_equal(seen == 1, mirror == 2)
    np.testing.assert_array_equal(seen == 2, mirror == 1)
    np.testing.assert_array_equal(seen == 3, mirror == 3)


def test_flips_along_two_axes_are_a_rotation_and_swap_nothing():
    images, labels = painted((20, 20, 20))
    sides = {"labels": [1, 2], "swap": [[1, 2]]}
    _, seen, _ = changed("flips", images, labels, sides=sides, axes=["k", "i"])
    np.testing.assert_array_equal(seen, labels[::-1, :, ::-1])
    _, seen, _ = changed("flips", images, labels, sides=sides, axes=["k", "j", "i"])
    np.testing.assert_array_equal(seen == 1, labels[::-1, ::-1, ::-1] == 2)


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if n != "flips"])
def test_nothing_but_a_flip_makes_a_mirror_image(name, shape):
    """A helix of labels keeps its sense: the determinant of the map of places is positive nearly everywhere."""
    for seed in range(5):
        placed = place(check_augmentation({name: {"probability": 1}}, len(shape)), shape, rng(seed))
        assert not placed.flips
        if placed.warp is None:
            continue
        steps = np.stack([np.stack(np.gradient(row.astype(float))) for row in placed.warp])
        determinant = np.linalg.det(np.moveaxis(steps, (0, 1), (-2, -1)))
        assert (determinant > 0).mean() > (0.5 if name.startswith("elastic") else 0.999)


def test_flips_that_would_exchange_right_and_left_silently_are_refused():
    flips = {"flips": {"probability": 0.5, "axes": ["i"]}}
    with pytest.raises(OptionError, match=r"label\(s\) 4 .* no partner"):
        check_augmentation({**flips, "sides": {"labels": [3, 4, 5], "swap": [[3, 5]]}}, 3)
    with pytest.raises(OptionError, match="expected 'sides'"):
        check_augmentation(flips, 3)
    check_augmentation({**flips, "sides": {}}, 3)


def test_sides_are_read_from_the_names_of_structures():
    table = dict(enumerate(("heart", "right_lung", "tumors", "left_lung"), start=1))
    labels = {value: STRUCTURES[key] for value, key in table.items()}
    assert side_options(labels) == {"labels": [2, 4], "swap": [[2, 4]]}
    del labels[4]
    assert side_options(labels) == {"labels": [2], "swap": []}
    assert side_options({1: STRUCTURES["lungs"]}) == {"labels": [], "swap": []}


@pytest.mark.parametrize(
    "names",
    [("kidney_left", "kidney_right"), ("Kidney L", "Kidney R"), ("KidneyLt", "KidneyRight")],
)
def test_sides_of_structures_that_are_none_of_ours_are_seen_wherever_their_names_have_them(names):
    structures = {value: named(name, value) for value, name in enumerate(names, start=1)}
    structures[3] = named("lung_middle_lobe_right", 3)
    sides = side_options(structures)
    assert sides == {"labels": [1, 2, 3], "swap": [[2, 1]]}
    flips = {"flips": {"probability": 0.5, "axes": ["i"]}}
    with pytest.raises(OptionError, match=r"label\(s\) 3 "):
        check_augmentation({**flips, "sides": sides}, 3)
    del structures[3]
    check_augmentation({**flips, "sides": side_options(structures)}, 3)


def test_sides_that_are_not_clear_have_no_partner():
    twice = {1: named("kidney left", 1), 2: named("kidney right", 2), 3: named("Kidney-R", 3)}
    assert side_options(twice) == {"labels": [1, 2, 3], "swap": []}
    assert side_options({1: named("left or right kidney", 1)}) == {"labels": [1], "swap": []}


def test_masks_keep_their_values():
    images, labels = painted((20, 20))
    options = {name: {"probability": 1} for name in TRANSFORMS if name not in ("flips", *_PLACING)}
    got, _, _ = augmented(images.copy(), labels, None, {**options, "masks": [1]}, rng())
    np.testing.assert_array_equal(got[1], images[1])
    assert not np.array_equal(got[0], images[0])


def test_gamma_is_that_of_monai():
    AdjustContrast = pytest.importorskip("monai.transforms").AdjustContrast
    image = rng().normal(size=(1, 30, 30)).astype(np.float32)
    labels = np.zeros((30, 30), np.uint8)
    for keep in (False, True):
        got, _, _ = changed("gamma", image.copy(), labels, gamma=1.7, keep_statistics=keep)
        expected = np.asarray(AdjustContrast(gamma=1.7, retain_stats=keep)(image))
        np.testing.assert_allclose(got, expected, atol=2e-4)


def test_noise_and_brightness_have_the_size_asked_for():
    image, labels = np.ones((1, 100, 100), np.float32), np.zeros((100, 100), np.uint8)
    noisy, _, _ = changed("noise", image.copy(), labels, sd=0.1)
    assert abs(noisy.std() - 0.1) < 0.005 and abs(noisy.mean() - 1) < 0.005
    brighter, _, _ = changed("brightness", image.copy(), labels, factor=2, shift=[0.5, 0.5])
    np.testing.assert_allclose(brighter, 2.5)


def test_blur_and_low_resolution_take_details_away_and_move_nothing():
    image, labels = np.zeros((1, 64, 64), np.float32), np.zeros((64, 64), np.uint8)
    image[0, 16:48, 20:44] = 1
    checker = np.indices((64, 64)).sum(0)[None] % 2
    for name, parameters in (("blur", {"sigma": 1.5}), ("low-resolution", {"zoom": 0.5})):
        got, _, _ = changed(name, image.copy(), labels, **parameters)
        assert np.mean((got > 0.5) == (image > 0.5)) > 0.95
        fine, _, _ = changed(name, checker.astype(np.float32), labels, **parameters)
        assert fine[0, 8:-8, 8:-8].std() < 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rotate": {}}, "'rotate' is not known. Known: right-angles, rotation"),
        ({"rotation": {"probability": 1, "angle": 3}}, "'angle' is not known. Known: probability, degrees"),
        ({"rotation": {}}, "expected its probability"),
        ({"rotation": True}, "expected a mapping"),
        ({"rotation": {"probability": 1.5}}, "from 0 to 1, got 1.5"),
        ({"rotation": {"probability": 1, "degrees": 10}}, r"expected \[low, high\], got 10"),
        ({"rotation": {"probability": 1, "degrees": [10, -10]}}, r"expected \[low, high\]"),
        ({"rotation": {"probability": 1, "axes": ["i"]}}, "some of k for patches of 2"),
        ({"flips": {"probability": 1, "axes": "ij"}, "sides": {}}, "some of j, i"),
        ({"affine": {"probability": 1, "scale": [-1, 1]}}, "above 0"),
        ({"affine": {"probability": 1, "isotropic": 1}}, "true or false"),
        ({"affine": {"probability": 1, "shear": [-0.6, 0]}}, "between -0.5 and 0.5"),
        ({"noise": {"probability": 1, "sd": float("nan")}}, "one number, got nan"),
        ({"noise": {"probability": 1, "sd": -1}}, "0 or more"),
        ({"low-resolution": {"probability": 1, "zoom": [0.5, 2]}}, "at most 1"),
        ({"elastic": {"probability": 1, "affine": [1, 2]}}, "expected a number"),
        ({"masks": ["1"]}, "channel numbers"),
        ({"sides": [[3, 4]]}, "sides: expected"),
        ({"sides": {"swap": [[3, 4], [4, 5]]}}, "one pair at most"),
        ({"sides": {"swap": [[3, 4, 5]]}}, "pairs"),
        ({"sides": {"labels": [0]}}, "from 1 to 254"),
    ],
)
def test_options_that_cannot_be_used_are_refused_with_words(options, words):
    with pytest.raises(OptionError, match=words):
        check_augmentation(options, 2)
