"""The pictures: contours where the segments are, the patient's right on the left, nothing lost."""

from __future__ import annotations

import io

import numpy as np
import pytest

from thoraxseg.checkpoints.structures import other
from thoraxseg.inference.uncertainty import FOLD_SPREAD, entropy_of
from thoraxseg.progress import Cancelled
from thoraxseg.report.figures import choose_slices, draw
from thoraxseg.report.surfaces import _surface, draw_surfaces
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.volume import Volume, geometry_from_spacing, to_ras

ENTROPY = entropy_of("the class probabilities", 3)
SIDED = {1: STRUCTURES["right_lung"], 2: STRUCTURES["left_lung"]}
LUNGS = {1: STRUCTURES["lungs"], 2: STRUCTURES["tumors"]}


def pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"), dtype=float) / 255


def near(picture: np.ndarray, color, tolerance=0.12) -> np.ndarray:
    return (np.abs(picture - color) < tolerance).all(axis=2)


def sided(codes: str, degrees_geometry=None) -> tuple[Volume, Segmentation]:
    """Return a bright box at the patient's upper right and a dim one at the lower left, on axes `codes`."""
    array, labels = np.zeros((24, 24, 24), np.float32), np.zeros((24, 24, 24), np.uint8)
    array += np.random.default_rng(0).random(array.shape).astype(np.float32)
    matrix = geometry_from_spacing((1, 1, 1), "RAS") if degrees_geometry is None else degrees_geometry
    labels[15:21, 9:15, 14:22] = 1  # superior, right
    labels[3:9, 9:15, 2:10] = 2  # inferior, left
    array[labels == 1], array[labels == 2] = 100, 50
    volume = Volume(array, matrix, "boxes").reoriented(codes)
    truth = Volume(labels, matrix, "labels").reoriented(codes)
    return volume, Segmentation(truth.array, truth.ijk_to_ras, SIDED)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "RIA", "ASL", "SPR"])
def test_the_right_lies_on_the_left_and_the_head_above(codes):
    volume, segmentation = sided(codes)
    picture = pixels(draw(volume, segmentation, None, None)["contours"])
    width = picture.shape[1] / 4
    foot = int(picture.shape[0] * 0.9)
    for key, on_left, above in ((1, True, True), (2, False, False)):
        rows, columns = np.nonzero(near(picture[:foot], SIDED[key].color))
        assert len(rows) > 50
        assert ((columns % width < width / 2).mean() > 0.9) == on_left
        panels = 2  # six slices in two rows of panels
        height = foot / panels
        assert ((rows % height < height / 2).mean() > 0.8) == above


def test_every_storage_of_the_same_anatomy_gives_the_same_picture():
    first = pixels(draw(*sided("RAS"), None, None)["contours"])
    assert np.array_equal(first, pixels(draw(*sided("PIL"), None, None)["contours"]))


def test_a_contour_runs_around_its_segment_and_the_image_shows_inside():
    volume, segmentation = sided("RIA")
    picture = pixels(draw(volume, segmentation, None, None)["contours"])
    line = near(picture, SIDED[1].color)[: int(picture.shape[0] * 0.45), : picture.shape[1] // 4]
    rows, columns = np.nonzero(line)
    middle = picture[(rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2]
    assert middle == pytest.approx([1, 1, 1], abs=0.05)  # the brightest voxels, not painted over


def test_doubt_is_painted_where_it_is_and_nowhere_else():
    volume, segmentation = sided("RIA")
    entropy = np.zeros(volume.shape, np.float32)
    entropy[segmentation.labels == 1] = np.log(3)
    picture = pixels(draw(volume, segmentation, entropy, ENTROPY)["uncertainty"])
    top = picture[: int(picture.shape[0] * 0.88)]
    colored = (top.max(axis=2) - top.min(axis=2)) > 0.15
    width = picture.shape[1] / 4
    assert colored.mean() > 0.01
    assert (np.nonzero(colored)[1] % width < width / 2).mean() > 0.95
    none = pixels(draw(volume, segmentation, np.zeros_like(entropy), ENTROPY)["uncertainty"])[
        : int(picture.shape[0] * 0.88)
    ]
    assert not ((none.max(axis=2) - none.min(axis=2)) > 0.15).any()
    assert near(none, (1, 1, 1), 0.05).mean() > 0.01  # no veil over the image


def test_the_color_of_doubt_depends_on_its_own_maximum():
    volume, segmentation = sided("RIA")
    doubt = np.zeros(volume.shape, np.float32)
    doubt[segmentation.labels == 1] = FOLD_SPREAD.maximum

    def brightest(values, quantity):
        picture = pixels(draw(volume, segmentation, values, quantity)["uncertainty"])
        top = picture[: int(picture.shape[0] * 0.88)]
        return top[np.unravel_index((top[..., 0] - top[..., 2]).argmax(), top.shape[:2])]

    full = brightest(doubt, FOLD_SPREAD)
    np.testing.assert_allclose(brightest(doubt / 0.5 * np.float32(np.log(3)), ENTROPY), full, atol=0.02)
    assert np.abs(brightest(doubt, ENTROPY) - full).max() > 0.1


@pytest.mark.parametrize("name", ["organ", "the left lobe of an organ that has a very long name indeed"])
@pytest.mark.parametrize("count", [1, 5, 24])
def test_the_legend_names_every_structure_and_ends_at_the_border_of_the_picture(name, count):
    labels = np.zeros((4, 30, 8), np.uint8)
    for n in range(count):
        labels[:, n, 2:6] = n + 1
    named = {n: other(f"{name} {n}", n) for n in range(1, count + 1)}
    segmentation = Segmentation(labels, np.eye(4), named)
    picture = pixels(draw(Volume(labels.astype(np.float32), np.eye(4)), segmentation, None, None)["contours"])
    # The strip below the slices begins where the last row of panels ends.
    foot = picture[-int(130 * (0.3 + 0.22 * (count > 4))) :]
    background = picture[-1, 0]
    for edge in (foot[:, :4], foot[:, -4:], foot[-4:]):
        np.testing.assert_allclose(edge, np.broadcast_to(background, edge.shape), atol=0.02)
    strip = picture[-int(130 * (0.45 + 0.22 * count)) :]
    assert all(near(strip, structure.color, 0.03).any() for structure in named.values())


@pytest.mark.parametrize("name", ["$x_{$", "a $ b", r"$\unknown$", "100 % \\", "^_^"])
def test_a_name_is_never_a_formula(name):
    labels = np.ones((2, 3, 4), np.uint8)
    segmentation = Segmentation(labels, np.eye(4), {1: other(name, 1)})
    assert draw(Volume(labels.astype(np.float32), np.eye(4)), segmentation, None, None)["contours"]


def test_the_same_case_gives_the_same_bytes():
    assert draw(*sided("RAS"), None, None) == draw(*sided("RAS"), None, None)


def test_the_slices_hold_the_most_tumor_and_lie_in_the_labeled_part():
    labels = np.zeros((60, 10, 10), np.uint8)
    labels[10:50, 2:8, 2:8] = 1
    labels[43, 3:7, 3:7] = 2
    slices = choose_slices(labels, Segmentation(labels, np.eye(4), LUNGS), 12)
    assert 43 in slices
    assert slices == sorted(set(slices))
    assert len(slices) == 12
    assert 10 <= slices[0] < slices[-1] < 50


@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 2, 2), (5, 1, 9)], ids=str)
def test_few_slices_are_all_shown(shape):
    labels = np.zeros(shape, np.uint8)
    assert choose_slices(labels, Segmentation(labels, np.eye(4), LUNGS), 12) == list(range(shape[0]))


@pytest.mark.parametrize(
    "spacing_mm", [(0.1, 0.1, 0.1), (40, 0.1, 0.1), (0.1, 40, 0.1), (0.1, 0.1, 40)], ids=str
)
@pytest.mark.parametrize("shape", [(2, 40, 3), (40, 3, 2), (3, 2, 40)], ids=str)
def test_an_odd_shape_gives_pictures_that_can_be_opened(shape, spacing_mm):
    labels = np.zeros(shape, np.uint8)
    labels[:, :, 1:] = 1
    segmentation = Segmentation(labels, geometry_from_spacing(spacing_mm, "LPS"), LUNGS)
    pictures = draw(
        Volume(np.arange(labels.size, dtype=np.int16).reshape(shape), segmentation.ijk_to_ras),
        segmentation,
        None,
        None,
    )
    for png in pictures.values():
        assert max(pixels(png).shape) < 4000


@pytest.mark.parametrize("value", [-1000, 0, 1e6])
def test_an_empty_segmentation_and_a_flat_image_still_give_pictures(value):
    labels = np.zeros((4, 5, 6), np.uint8)
    segmentation = Segmentation(labels, np.eye(4), LUNGS)
    pictures = draw(
        Volume(np.full(labels.shape, value, np.float32), np.eye(4)),
        segmentation,
        labels.astype(np.float32),
        ENTROPY,
    )
    assert set(pictures) == {"contours", "uncertainty", "surfaces"}
    assert not near(pixels(pictures["surfaces"]), STRUCTURES["lungs"].color).any()


@pytest.mark.parametrize("far", [20, 90, 200])
@pytest.mark.parametrize("key", ["lungs", "tumors"])
def test_small_tumors_beside_large_ones_do_not_vanish_from_the_surfaces(key, far):
    mask = np.zeros((20, 20, far + 20), bool)
    mask[4:16, 4:16, 4:16] = True
    dots = [(3, 5, far + 1), (8, 9, far + 6), (17, 17, far + 12)]
    for dot in dots:
        mask[dot] = True
    corners = _surface(mask, np.eye(4), key == "tumors").reshape(-1, 3)
    for dot in dots if key == "tumors" else []:
        assert np.abs(corners - to_ras(np.eye(4), np.array([dot]))[0]).max(axis=1).min() < 4
    assert np.abs(corners - 10).max(axis=1).min() < 8  # the large one


def test_surfaces_show_the_right_lung_on_the_left_seen_from_the_front():
    _, segmentation = sided("LPS")
    picture = pixels(draw_surfaces(segmentation))[:, : 1170 // 2]  # the view from the front
    blue, yellow = (picture @ w > 0.12 for w in (np.array([-1, 0, 1]), np.array([0.5, 0.5, -1])))
    assert blue.sum() > 500
    assert yellow.sum() > 500
    assert np.nonzero(blue)[1].mean() < np.nonzero(yellow)[1].mean()
    assert np.nonzero(blue)[0].mean() < np.nonzero(yellow)[0].mean()  # and the upper one above


def test_drawing_can_be_cancelled():
    def cancel(fraction, message):
        if message == "Drawing surfaces":
            raise Cancelled

    with pytest.raises(Cancelled):
        draw(*sided("RAS"), None, None, cancel)
