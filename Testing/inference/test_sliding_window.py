"""Windows over a volume: they cover it, and blending changes nothing that all windows agree on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thoraxseg.inference.sliding_window import gaussian_weights, predict_windows, window_starts
from thoraxseg.progress import Cancelled


@given(st.integers(1, 300), st.integers(1, 128), st.floats(0.05, 1))
def test_windows_cover_every_voxel_and_never_leave_the_image(length, size, step):
    length = max(length, size)
    starts = window_starts(length, size, step)
    assert starts[0] == 0 and starts[-1] == length - size
    assert starts == sorted(set(starts))
    gaps = np.diff(starts)
    assert (gaps <= size).all()
    assert (gaps < max(1, size * step) + 1).all()


@pytest.mark.parametrize(
    ("length", "size", "step", "expected"),
    [
        (64, 64, 0.5, [0]),
        (96, 64, 0.5, [0, 32]),
        (128, 64, 0.5, [0, 32, 64]),
        (100, 64, 0.5, [0, 18, 36]),  # as nnU-Net spreads them: evenly, not with a short last step
        (10, 3, 1, [0, 2, 5, 7]),
    ],
)
def test_windows_are_spread_evenly(length, size, step, expected):
    assert window_starts(length, size, step) == expected


def test_weights_are_a_gaussian_of_an_eighth_of_the_patch_with_1_at_the_center():
    weights = gaussian_weights((9, 1, 1))[:, 0, 0]
    assert weights.argmax() == 4 and weights[4] == 1
    np.testing.assert_allclose(weights[4 + 3] / weights[4], np.exp(-0.5 * (3 / (9 / 8)) ** 2), rtol=1e-6)
    np.testing.assert_array_equal(weights, weights[::-1])
    assert gaussian_weights((64, 64, 64)).max() == 1 and gaussian_weights((64, 64, 64)).min() > 0


def fixed(*values):
    """A network that answers the same score a class everywhere."""
    return lambda batch: np.broadcast_to(
        np.array(values, np.float32)[None, :, None, None, None], (1, len(values), *batch.shape[2:])
    )


@pytest.mark.parametrize("shape", [(20, 21, 22), (8, 8, 8), (3, 30, 5), (1, 1, 1)], ids=str)
def test_a_constant_network_gives_a_constant_answer(shape):
    found = predict_windows(fixed(0.25, 0.75), np.zeros((1, *shape), np.float32), (8, 8, 8), 0.5)
    assert found.shape == (2, *shape) and found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found[0], 0.25, rtol=1e-6)
    np.testing.assert_allclose(found[1], 0.75, rtol=1e-6)


@pytest.mark.parametrize("shape", [(20, 21, 22), (5, 9, 30)], ids=str)
def test_a_network_that_looks_at_single_voxels_gives_the_same_as_without_windows(shape):
    image = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    seen = []

    def scores(batch):
        seen.append(batch.shape)
        return np.concatenate([batch, 1 - batch], axis=1)

    found = predict_windows(scores, image, (8, 8, 8), 0.5)
    np.testing.assert_allclose(found, np.concatenate([image, 1 - image]), atol=1e-6)
    assert set(seen) == {(1, 1, 8, 8, 8)}


def test_blending_weights_the_middle_of_a_window_more():
    answers = iter([0.0, 1.0])
    found = predict_windows(
        lambda batch: np.full_like(batch, next(answers)), np.zeros((1, 1, 1, 12), np.float32), (1, 1, 8), 0.5
    )[0, 0, 0]
    assert (found[:4] == 0).all() and (found[8:] == 1).all()
    weights = gaussian_weights((1, 1, 8))[0, 0]
    np.testing.assert_allclose(found[4:8], weights[:4] / (weights[:4] + weights[4:]), rtol=1e-5)


def test_an_image_smaller_than_a_window_is_padded_with_its_edge_on_both_sides():
    seen = []
    image = np.array([[[[1.0, 2.0, 3.0]]]], np.float32)
    found = predict_windows(lambda batch: seen.append(batch[0, 0]) or batch, image, (2, 1, 6), 0.5)
    assert [window.tolist() for window in seen] == [[[[1, 1, 2, 3, 3, 3]]] * 2]
    np.testing.assert_array_equal(found, image)


def test_progress_can_cancel_before_the_next_window():
    calls = []

    def cancel(fraction, message):
        if len(calls) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        predict_windows(
            lambda batch: calls.append(1) or batch,
            np.zeros((1, 32, 8, 8), np.float32),
            (8, 8, 8),
            0.5,
            cancel,
        )
    assert len(calls) == 2


# Several channels, constant weights, and networks that answer for the center of what they see


def test_channels_go_together_into_every_window():
    image = np.random.default_rng(0).random((2, 9, 10, 11), dtype=np.float32)
    found = predict_windows(lambda batch: batch[:, 1:] - batch[:, :1], image, (4, 4, 4), 0.5)
    np.testing.assert_allclose(found, image[1:] - image[:1], atol=1e-6)


def test_constant_weights_average_windows_evenly():
    answers = iter([0.0, 1.0])
    found = predict_windows(
        lambda batch: np.full_like(batch, next(answers)),
        np.zeros((1, 1, 1, 12), np.float32),
        (1, 1, 8),
        0.5,
        gaussian=False,
    )[0, 0, 0]
    assert found.tolist() == [0] * 4 + [0.5] * 4 + [1] * 4


def center(batch, margins, size):
    inner = tuple(slice(m, m + n) for m, n in zip(margins, size, strict=True))
    return batch[(slice(None), slice(None), *inner)]


@pytest.mark.parametrize("shape", [(20, 21, 22), (5, 9, 30), (3, 3, 3), (1, 2, 4)], ids=str)
@pytest.mark.parametrize(
    ("patch", "answer"), [((9, 9, 9), (3, 3, 3)), ((8, 7, 6), (4, 3, 6)), ((4, 4, 4), (4, 4, 4))], ids=str
)
@pytest.mark.parametrize("step", [1, 0.5])
def test_the_center_of_a_patch_is_put_where_it_was_seen(shape, patch, answer, step):
    image = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    margins = [(have - want) // 2 for have, want in zip(patch, answer, strict=True)]
    seen = []

    def scores(batch):
        seen.append(batch.shape)
        return center(batch, margins, answer)

    found = predict_windows(scores, image, patch, step, answer_size=answer)
    assert set(seen) == {(1, 1, *patch)}
    assert found.shape == image.shape and found.flags.c_contiguous
    np.testing.assert_allclose(found, image, atol=1e-6)


def test_what_a_patch_sees_around_its_answer_is_the_image_and_beyond_it_the_edge():
    seen = []
    image = np.arange(6, dtype=np.float32).reshape(1, 1, 1, 6)

    def scores(batch):
        seen.append(batch[0, 0, 0, 0].tolist())
        return center(batch, (0, 0, 2), (1, 1, 3))

    predict_windows(scores, image, (1, 1, 7), 1, answer_size=(1, 1, 3))
    assert seen == [[0, 0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 5, 5]]


def test_an_answer_that_is_not_the_center_is_refused():
    with pytest.raises(ValueError, match="not the center"):
        predict_windows(
            lambda batch: batch, np.zeros((1, 8, 8, 8), np.float32), (8, 8, 8), 1, answer_size=(3, 8, 8)
        )
