"""Slices that stand alone or hold almost nothing; in increasing order, seeing what was emptied before."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.postprocess.slice_sanity import drop_isolated_slices


def stack_of(*areas):
    mask = np.zeros((len(areas), 1, 30), bool)
    for k, area in enumerate(areas):
        mask[k, 0, :area] = True
    return mask


@pytest.mark.parametrize(
    ("areas", "expected"),
    [
        pytest.param((20, 20, 20, 20), (0, 20, 20, 0), id="first and last are emptied"),
        pytest.param((0, 15, 20, 20, 0), (0, 0, 20, 20, 0), id="15 goes"),
        pytest.param((0, 16, 20, 20, 0), (0, 16, 20, 20, 0), id="16 stays"),
        pytest.param((0, 14, 20, 14, 0), (0, 0, 0, 0, 0), id="alone between small ones"),
        pytest.param((0, 0, 20, 15, 20, 0), (0, 0, 20, 0, 0, 0), id="15 supports until it is emptied"),
        pytest.param((20, 20, 0, 20, 20), (0, 0, 0, 0, 0), id="the emptied first slice no longer helps the second"),
        pytest.param((0, 20, 20, 0), (0, 20, 20, 0), id="two support each other"),
        pytest.param((0, 20, 10, 20, 20, 0), (0, 0, 0, 20, 20, 0), id="order matters"),
        pytest.param((20,), (0,), id="one slice"),
        pytest.param((20, 20), (0, 0), id="two slices"),
    ],
)  # fmt: skip
def test_slices_are_emptied_in_order(areas, expected):
    mask = stack_of(*areas)
    before = mask.copy()
    assert drop_isolated_slices(mask, 15).sum(axis=(1, 2)).tolist() == list(expected)
    np.testing.assert_array_equal(mask, before)


def test_what_stays_is_not_changed():
    mask = np.random.default_rng(0).random((5, 20, 20)) > 0.5
    kept = drop_isolated_slices(mask, 15)
    np.testing.assert_array_equal(kept[1:-1], mask[1:-1])
