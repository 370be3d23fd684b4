"""Slices through a 2-D network, on one core or several: in order, all of them, and stopped at once."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import torch

from thoraxseg.inference.slices import predict_slices
from thoraxseg.progress import Cancelled

IMAGE = np.arange(5 * 2 * 3, dtype=np.float32).reshape(1, 5, 2, 3)


@pytest.fixture(autouse=True)
def threads():
    """Give torch its number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_every_slice_gets_the_answer_of_its_own_place(batch, cores):
    sizes = []

    def scores(slices):
        sizes.append(len(slices))
        time.sleep(0.02 if slices[0, 0, 0, 0] == 0 else 0)  # the first is the last to be ready
        return np.concatenate([slices, -slices], axis=1)

    found = predict_slices(scores, IMAGE, batch, cores)
    np.testing.assert_array_equal(found, np.concatenate([IMAGE, -IMAGE]))
    assert found.dtype == np.float32
    assert sum(sizes) == 5 and max(sizes) <= batch


def test_a_flipped_view_of_an_image_is_taken_too():
    found = predict_slices(lambda batch: torch.from_numpy(batch).numpy(), IMAGE[:, :, ::-1], 1, 1)
    np.testing.assert_array_equal(found, IMAGE[:, :, ::-1])


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("stop", [Cancelled, KeyboardInterrupt])
def test_cancelling_stops_within_a_few_slices_and_ends_all_threads(cores, stop):
    calls, threads = [], threading.active_count()

    def scores(batch):
        calls.append(1)
        time.sleep(0.01)
        return batch

    def cancel(fraction, message):
        if fraction >= 0.1:
            raise stop

    with pytest.raises(stop) as caught:
        predict_slices(scores, np.zeros((1, 100, 2, 2), np.float32), 1, cores, cancel)
    done = len(calls)
    time.sleep(0.1)
    assert len(calls) == done <= 10 + 3 * cores
    assert threading.active_count() == threads
    assert caught.type is stop


@pytest.mark.parametrize("cores", [1, 2])
def test_an_error_in_one_slice_comes_out_and_ends_all_threads(cores):
    threads = threading.active_count()

    def scores(batch):
        if batch[0, 0, 0, 0] == IMAGE[0, 2, 0, 0]:
            raise ValueError("slice 2")
        return batch

    with pytest.raises(ValueError, match="slice 2"):
        predict_slices(scores, IMAGE, 1, cores)
    assert threading.active_count() == threads


@pytest.mark.parametrize("outcome", ["done", "error"])
def test_torch_has_its_threads_back_afterwards(outcome):
    torch.set_num_threads(2)

    def scores(batch):
        assert torch.get_num_threads() == 1
        if outcome == "error":
            raise ValueError
        return batch

    with suppress(ValueError):
        predict_slices(scores, IMAGE, 1, 2)
    assert torch.get_num_threads() == 2


def test_progress_is_only_called_from_the_callers_thread():
    seen = set()
    predict_slices(lambda batch: batch, IMAGE, 1, 2, lambda f, m: seen.add(threading.get_ident()))
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_channels_go_together_into_every_slice(batch):
    image = np.arange(2 * 5 * 2 * 3, dtype=np.float32).reshape(2, 5, 2, 3)
    shapes = set()

    def scores(slices):
        shapes.add(slices.shape[1:])
        assert slices.flags.c_contiguous
        return slices[:, 1:] - slices[:, :1]

    np.testing.assert_array_equal(predict_slices(scores, image, batch, 1), np.full((1, 5, 2, 3), 30))
    assert shapes == {(2, 2, 3)}
